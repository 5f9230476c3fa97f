#include "train/validation.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace samba {
namespace {

constexpr Index kChunk = 2048;  // tokens of a pass: matrices are then large enough to be fast

/// The number of windows to read.
Index expect_readable(const TokenWindows& windows, const std::vector<Index>& lengths, Index most) {
  const Index longest = windows.length() - 1;
  if (lengths.empty() || !std::is_sorted(lengths.begin(), lengths.end()) || lengths.front() < 1 ||
      lengths.back() > longest)
    fail("validate: expected rising lengths from 1 to ", longest);
  if (most < 1) fail("validate: expected at least 1 window to read, found ", most);
  return std::min(windows.count(), most);
}

double entropy(const std::vector<double>& counts) {
  double sum = 0, terms = 0;
  for (const double n : counts) {
    sum += n;
    if (n > 0) terms += n * std::log(n);
  }
  return std::log(sum) - terms / sum;
}

}  // namespace

std::vector<LengthLoss> validate(Model& model, const TokenWindows& windows,
                                 const std::vector<Index>& lengths, Index most,
                                 const std::function<void(Index)>& progress) {
  const Index longest = windows.length() - 1, count = expect_readable(windows, lengths, most);
  Stream& stream = model.stream();
  const DType exact = exact_of(model.dtype());
  std::vector<double> sums(lengths.size(), 0.0), losses(static_cast<std::size_t>(longest));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(longest + 1));
  States states = model.make_states(1, longest);
  for (Index w = 0; w < count; ++w) {
    windows.read(w, ids);
    for (Index first = 0; first < longest; first += kChunk) {
      const Index n = std::min(kChunk, longest - first);
      const std::vector<Span> spans{{0, n, first, 0}};
      Pass pass{stream, batch_of(spans), &states, false};
      const auto view = [&](Index from) {
        return View{reinterpret_cast<std::byte*>(ids.data() + from), n, 1, 1, DType::i32};
      };
      Matrix each(stream, exact, n, 1);
      model.loss(pass, upload(stream, view(first)), upload(stream, view(first + 1)), each);
      copy(stream, View{reinterpret_cast<std::byte*>(losses.data() + first), n, 1, 1, DType::f64},
           each);
    }
    double sum = 0;
    std::size_t k = 0;
    for (Index i = 0; i < longest && k < lengths.size(); ++i) {
      sum += losses[static_cast<std::size_t>(i)];
      for (; k < lengths.size() && lengths[k] == i + 1; ++k)
        sums[k] += sum / static_cast<double>(i + 1);
    }
    if (progress) progress(w + 1);
  }
  std::vector<LengthLoss> result;
  for (std::size_t k = 0; k < lengths.size(); ++k)
    result.push_back({lengths[k], sums[k] / static_cast<double>(count)});
  return result;
}

std::vector<LengthLoss> unigram_entropy(const TokenWindows& windows,
                                        const std::vector<Index>& lengths, Index most) {
  const Index count = expect_readable(windows, lengths, most);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(windows.length()));
  std::vector<std::vector<double>> counts(
      lengths.size(), std::vector<double>(static_cast<std::size_t>(windows.meta().vocabulary)));
  for (Index w = 0; w < count; ++w) {
    windows.read(w, ids);
    for (std::size_t k = 0; k < lengths.size(); ++k)
      for (Index i = 1; i <= lengths[k]; ++i)
        ++counts[k][static_cast<std::size_t>(ids[static_cast<std::size_t>(i)])];
  }
  std::vector<LengthLoss> result;
  for (std::size_t k = 0; k < lengths.size(); ++k)
    result.push_back({lengths[k], entropy(counts[k])});
  return result;
}

}  // namespace samba
