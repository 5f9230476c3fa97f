#include "kernels/comparison.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace samba {
namespace {

double value_at(ConstView v, Index r, Index c) {
  switch (v.dtype) {
    case DType::f64: return v.row<double>(r)[c];
    case DType::f32: return static_cast<double>(v.row<float>(r)[c]);
    case DType::bf16: return static_cast<double>(static_cast<float>(v.row<Bf16>(r)[c]));
    case DType::i32: return v.row<std::int32_t>(r)[c];
  }
  return 0;
}

/// Sums of squares along rows or columns.
struct Squares {
  std::vector<double> error, expected;

  explicit Squares(Index count)
      : error(static_cast<std::size_t>(count)), expected(static_cast<std::size_t>(count)) {}
  /// The line with the largest error, as a share of what is expected there or of `mean`.
  std::pair<std::size_t, double> worst(double mean) const {
    std::pair<std::size_t, double> found{0, 0};
    for (std::size_t i = 0; i < error.size(); ++i) {
      const double scale = std::max({expected[i], mean, 1e-300});
      const double share = std::sqrt(error[i] / scale);
      if (std::isnan(share)) return {i, share};
      if (share > found.second) found = {i, share};
    }
    return found;
  }
};

}  // namespace

View Comparison::find(ConstView v) const {
  for (const Copy& copy : copies_) {
    const ConstView whole = copy.original;
    if (whole.dtype != v.dtype || v.data < whole.data) continue;
    if (whole.stride != v.stride && v.rows > 1) continue;
    const Index offset = (v.data - whole.data) / size_of(v.dtype);
    const Index row = whole.stride > 0 ? offset / whole.stride : 0;
    const Index col = offset - row * whole.stride;
    if (row + v.rows <= whole.rows && col + v.cols <= whole.cols)
      return copy.matrix.view().block(row, v.rows).columns(col, v.cols);
  }
  return {};
}

View Comparison::copy_of(ConstView v) {
  if (v.empty()) return {};
  const View found = find(v);
  if (!found.empty()) return found;
  copies_.push_back({v, download(stream_, v)});
  return copies_.back().matrix.view();
}

void Comparison::expect_equal(const char* op, DType dtype, ConstView v) const {
  if (v.empty()) return;
  const ConstView expected = find(v);
  const Matrix found = download(stream_, v);
  Squares rows(v.rows), cols(v.cols);
  double all = 0;
  for (Index r = 0; r < v.rows; ++r)
    for (Index c = 0; c < v.cols; ++c) {
      const double e = value_at(expected, r, c), difference = value_at(found, r, c) - e;
      // What neither run wrote is the same, whatever it is.
      const Index width = size_of(v.dtype);
      if (std::memcmp(expected.data + (r * expected.stride + c) * width,
                      found.view().data + (r * v.cols + c) * width,
                      static_cast<std::size_t>(width)) == 0) {
        if (!std::isfinite(e)) continue;
      } else {
        rows.error[static_cast<std::size_t>(r)] += difference * difference;
        cols.error[static_cast<std::size_t>(c)] += difference * difference;
      }
      rows.expected[static_cast<std::size_t>(r)] += e * e;
      cols.expected[static_cast<std::size_t>(c)] += e * e;
      all += e * e;
    }
  const bool rounded = dtype == DType::bf16 || v.dtype == DType::bf16;
  const double bound = v.dtype == DType::i32 ? 0 : rounded ? 3e-2 : 2e-4;
  const auto check = [&](const Squares& lines, const char* what) {
    const auto [line, share] = lines.worst(all / static_cast<double>(lines.error.size()));
    if (share <= bound) return;
    fail("self-test: ", op, " on ", stream_.device(), " differs from the processor's by ", share,
         " of what is expected in ", what, ' ', line, " of its ", shape_of(v), " (bound ", bound,
         "); its results cannot be trusted. Please report this; --device cpu works without it");
  };
  check(rows, "row");
  check(cols, "column");
}

}  // namespace samba
