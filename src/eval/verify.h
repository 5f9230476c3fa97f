#pragma once

#include <string>
#include <vector>

#include "model/folder.h"

namespace samba {

/// How verify runs the tokens: each sequence whole; in uneven pieces that carry state; one at a
/// time.
enum class VerifyMode { parallel, chunked, recurrent };

/// The mode of that name; throws an Error that lists the names.
VerifyMode verify_mode(const std::string& name);

/// One compared tensor: ||actual - expected|| / ||expected||, or for greedy ids the share that
/// differs.
struct VerifyRow {
  std::string tensor;
  double error;
  double bound;
  bool passed() const { return error <= bound; }  // a NaN does not pass
};

struct VerifyResult {
  std::vector<VerifyRow> rows;
  bool passed() const;
};

/// Compares the model with stored results: a safetensors file with `tokens` (int64 [B, T+1]) and
/// any of `logits` [B, T, V], `loss` [1], `grad.NAME` under the names of the model's layout
/// (parallel mode only) and `greedy` (int64 [1, n]: a beginning of tokens[0] and its greedy
/// continuation; f32 only). Where `write` is not empty, what was computed is stored there under the
/// same names.
VerifyResult verify(const ModelSource&, const std::string& expected, Stream&, DType, VerifyMode,
                    const std::string& write);

}  // namespace samba
