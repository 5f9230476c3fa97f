#include "eval/verify.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "core/error.h"
#include "model/safetensors.h"
#include "model/tensor_writer.h"

namespace samba {
namespace {

/// Lengths of the pieces in chunked mode, over and over: odd ones, single tokens among them.
constexpr Index kPieces[] = {7, 1, 18, 1, 5, 3, 1, 11};

double element(ConstView v, Index i) {
  const Index r = i / v.cols, c = i % v.cols;
  return v.dtype == DType::f64 ? v.row<double>(r)[c] : static_cast<double>(v.row<float>(r)[c]);
}

/// ||a - e|| / ||e|| over all elements; and the root mean square of e.
std::pair<double, double> relative_error(ConstView actual, ConstView expected) {
  double difference = 0, norm = 0;
  const Index count = actual.rows * actual.cols;
  for (Index i = 0; i < count; ++i) {
    const double a = element(actual, i), e = element(expected, i);
    difference += (a - e) * (a - e);
    norm += e * e;
  }
  const double error = norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
  return {error, std::sqrt(norm / static_cast<double>(std::max<Index>(count, 1)))};
}

class Verifier {
 public:
  Verifier(const ModelSource& source, const std::string& path, Stream& stream, DType dtype,
           VerifyMode mode)
      : source_(source),
        stored_(open_safetensors(path)),
        stream_(stream),
        dtype_(dtype),
        mode_(mode),
        model_(load_model(source, stream, dtype, mode == VerifyMode::parallel)) {
    const std::vector<Index>& shape = stored_.shape("tokens");
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < 2)
      fail(path, ": tokens: expected [B, T + 1], found ", text_of_shape(shape));
    sequences_ = shape[0];
    length_ = shape[1] - 1;
    tokens_ = ids("tokens");
    if (mode != VerifyMode::parallel) model_->pack();
  }

  VerifyResult run() {
    logits();
    if (mode_ == VerifyMode::parallel) gradients();
    if (stored_.find("greedy") != nullptr && dtype_ != DType::bf16) greedy();
    return std::move(result_);
  }

  void write(const std::string& path) const {
    TensorWriter writer;
    const StoredType type = dtype_ == DType::f64 ? StoredType::f64 : StoredType::f32;
    writer.add("tokens", StoredType::i64, {sequences_, length_ + 1}, tokens_);
    writer.add("logits", type, {sequences_, length_, model_->config().vocab}, logits_);
    writer.add("loss", type, {1}, loss_);
    for (const auto& [name, gradient] : gradients_)
      writer.add(name, type, stored_.shape(name), gradient);
    writer.write_safetensors(path);
  }

 private:
  /// The ids of a stored matrix.
  Matrix ids(const char* name) const {
    const std::vector<Index>& shape = stored_.shape(name);
    Matrix all(stream_.host(), DType::i32, shape[0], shape[1]);
    stored_.read(name, all);
    for (Index i = 0; i < shape[0] * shape[1]; ++i) {
      const std::int32_t id = all.row<std::int32_t>(i / shape[1])[i % shape[1]];
      if (id < 0 || id >= model_->config().vocab)
        fail(stored_.path(), ": ", name, ": expected ids from 0 to ", model_->config().vocab - 1,
             ", found ", id);
    }
    return all;
  }

  /// Logits of sequences of `length` ids each; ids: [sequences, at least length].
  Matrix run_model(ConstView ids, Index length) {
    const Index sequences = ids.rows, vocab = model_->config().vocab;
    Matrix all(stream_.host(), exact_of(dtype_), sequences * length, vocab);
    States states = model_->make_states(sequences, length);
    Index first = 0;
    for (std::size_t piece = 0; first < length; ++piece) {
      const Index wanted = mode_ == VerifyMode::parallel    ? length
                           : mode_ == VerifyMode::recurrent ? 1
                                                            : kPieces[piece % std::size(kPieces)];
      const Index n = std::min(wanted, length - first);
      std::vector<Span> spans;
      const Matrix packed(stream_.host(), DType::i32, sequences * n, 1);
      for (Index s = 0; s < sequences; ++s) {
        spans.push_back({s * n, n, first, mode_ == VerifyMode::parallel ? -1 : s});
        std::copy_n(ids.row<std::int32_t>(s) + first, n, packed.row<std::int32_t>(s * n));
      }
      Pass pass{stream_, batch_of(spans), mode_ == VerifyMode::parallel ? nullptr : &states, false};
      Matrix x(stream_, dtype_, sequences * n, model_->config().d_model);
      Matrix part(stream_, exact_of(dtype_), sequences * n, vocab);
      model_->forward(pass, upload(stream_, packed), x);
      model_->head(pass, x, part);
      for (Index s = 0; s < sequences; ++s)
        copy(stream_, all.view().block(s * length + first, n), part.view().block(s * n, n));
      first += n;
    }
    return all;
  }

  void compare(const std::string& name, ConstView actual, double bound, double small_bound = 0) {
    const std::vector<Index>& shape = stored_.shape(name);
    if (count_of(shape) != actual.rows * actual.cols)
      fail(stored_.path(), ": ", name, ": expected ", actual.rows * actual.cols,
           " elements, found ", text_of_shape(shape));
    const Matrix expected(stream_.host(), actual.dtype, actual.rows, actual.cols);
    stored_.read(name, expected);
    const auto [error, rms] = relative_error(actual, expected);
    // A gradient this small is rounding noise of bf16 activations to a larger part.
    constexpr double kSmall = 4e-7;
    if (small_bound > 0 && rms < kSmall) bound = small_bound;
    result_.rows.push_back({name, error, bound});
  }

  void logits() {
    logits_ = run_model(tokens_, length_);
    const double bound = dtype_ == DType::bf16 ? 3e-2 : 2e-4;
    if (stored_.find("logits") != nullptr) compare("logits", logits_, bound);
    double sum = 0;
    for (Index i = 0; i < sequences_ * length_; ++i) {
      const std::int32_t target = tokens_.row<std::int32_t>(i / length_)[i % length_ + 1];
      const ConstView row = logits_.view().block(i, 1);
      double largest = -std::numeric_limits<double>::infinity(), total = 0;
      for (Index v = 0; v < row.cols; ++v) largest = std::max(largest, element(row, v));
      for (Index v = 0; v < row.cols; ++v) total += std::exp(element(row, v) - largest);
      sum += largest + std::log(total) - element(row, target);
    }
    loss_ = Matrix(stream_.host(), exact_of(dtype_), 1, 1);
    fill(loss_, sum / static_cast<double>(sequences_ * length_));
    if (stored_.find("loss") != nullptr) compare("loss", loss_, bound);
  }

  void gradients() {
    const WeightNames names(source_.layout, *model_);
    std::vector<std::string> wanted;
    for (const TensorInfo& tensor : stored_.tensors())
      if (tensor.name.rfind("grad.", 0) == 0) wanted.push_back(tensor.name);
    if (wanted.empty()) return;
    const Index n = sequences_ * length_;
    const Matrix inputs(stream_.host(), DType::i32, n, 1),
        targets(stream_.host(), DType::i32, n, 1);
    std::vector<Span> spans;
    for (Index s = 0; s < sequences_; ++s) {
      spans.push_back({s * length_, length_, 0, -1});
      std::copy_n(tokens_.row<std::int32_t>(s), length_, inputs.row<std::int32_t>(s * length_));
      std::copy_n(tokens_.row<std::int32_t>(s) + 1, length_,
                  targets.row<std::int32_t>(s * length_));
    }
    Pass pass{stream_, batch_of(spans), nullptr, true};
    model_->loss_and_gradient(pass, upload(stream_, inputs), upload(stream_, targets),
                              1 / static_cast<double>(n));
    const bool bf16 = dtype_ == DType::bf16;
    for (const std::string& name : wanted) {
      Matrix gradient = names.gradient(name.substr(5));
      compare(name, gradient, bf16 ? 6e-2 : 1e-3, bf16 ? 2e-1 : 0);
      gradients_.emplace(name, std::move(gradient));
    }
  }

  /// The likeliest id after each prefix of the stored text must be its next id.
  void greedy() {
    const std::vector<Index>& shape = stored_.shape("greedy");
    if (shape.size() != 2 || shape[0] != 1 || shape[1] < 2)
      fail(stored_.path(), ": greedy: expected [1, n], found ", text_of_shape(shape));
    const Matrix text = ids("greedy");
    Index prompt = 0;
    while (prompt < std::min(shape[1], length_ + 1) &&
           text.row<std::int32_t>(0)[prompt] == tokens_.row<std::int32_t>(0)[prompt])
      ++prompt;
    const Matrix logits = run_model(text, shape[1] - 1);
    Index differ = 0, compared = 0;
    for (Index i = std::max<Index>(prompt, 1); i < shape[1]; ++i, ++compared) {
      const ConstView row = logits.view().block(i - 1, 1);
      Index best = 0;
      for (Index v = 1; v < row.cols; ++v)
        if (element(row, v) > element(row, best)) best = v;
      differ += best != text.row<std::int32_t>(0)[i];
    }
    result_.rows.push_back(
        {"greedy", static_cast<double>(differ) / static_cast<double>(std::max<Index>(compared, 1)),
         0});
  }

  const ModelSource& source_;
  TensorFile stored_;
  Stream& stream_;
  DType dtype_;
  VerifyMode mode_;
  std::unique_ptr<Model> model_;
  Index sequences_ = 0, length_ = 0;
  Matrix tokens_, logits_, loss_;
  std::map<std::string, Matrix> gradients_;
  VerifyResult result_;
};

}  // namespace

VerifyMode verify_mode(const std::string& name) {
  if (name == "parallel") return VerifyMode::parallel;
  if (name == "chunked") return VerifyMode::chunked;
  if (name == "recurrent") return VerifyMode::recurrent;
  fail("mode: expected parallel, chunked or recurrent, found \"", name, "\"");
}

bool VerifyResult::passed() const {
  return std::all_of(rows.begin(), rows.end(), [](const VerifyRow& row) { return row.passed(); });
}

VerifyResult verify(const ModelSource& source, const std::string& expected, Stream& stream,
                    DType dtype, VerifyMode mode, const std::string& write) {
  Verifier verifier(source, expected, stream, dtype, mode);
  VerifyResult result = verifier.run();
  if (!write.empty()) verifier.write(write);
  return result;
}

}  // namespace samba
