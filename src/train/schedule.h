#pragma once

#include <cmath>
#include <numbers>
#include <string>

#include "core/dtype.h"
#include "core/error.h"

namespace samba {

/// The learning rate over a run: a linear warm-up to `lr`, then half a cosine to `min_lr`.
struct Schedule {
  double lr = 0;
  double min_lr = 0;
  double warmup = 0;  ///< of the same unit as total
  double total = 0;

  /// The rate when `done` of `total` units are behind.
  double at(double done) const {
    if (done < warmup) return lr * done / warmup;
    if (done >= total) return min_lr;
    const double share = (done - warmup) / (total - warmup);
    return min_lr + 0.5 * (1 + std::cos(std::numbers::pi * share)) * (lr - min_lr);
  }
};

}  // namespace samba
