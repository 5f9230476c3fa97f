#include <algorithm>
#include <chrono>
#include <memory>

#include "core/error.h"
#include "core/rng.h"
#include "generate/engine.h"
#include "model/config.h"
#include "model/model.h"
#include "rows.h"
#include "train/optimizer.h"

namespace samba::bench {
namespace {

std::unique_ptr<Model> make_model(Stream& stream, const char* preset, bool training) {
  auto model =
      std::make_unique<Model>(model_config(config_document(preset), preset), stream, DType::bf16);
  model->allocate(training);
  initialise(*model, 1);
  if (!training) model->pack();
  return model;
}

Matrix random_ids(Stream& stream, Index count, Index vocab) {
  static std::uint32_t next = 0;
  const Rng rng{2, next++};
  const Matrix ids(stream.host(), DType::i32, count, 1);
  for (Index i = 0; i < count; ++i)
    *ids.row<std::int32_t>(i) = static_cast<std::int32_t>(
        rng.below(static_cast<std::uint64_t>(vocab), static_cast<std::uint64_t>(i)));
  return upload(stream, ids);
}

std::vector<Span> spans(Index sequences, Index length, Index position, bool slots) {
  std::vector<Span> all;
  for (Index s = 0; s < sequences; ++s)
    all.push_back({s * length, length, position, slots ? s : -1});
  return all;
}

struct Training {
  const char* preset;
  Index sequences;
  double pytorch_ms, goal_rate;
};

Row train(Stream& stream, const Training& t) {
  constexpr Index kLength = 4096;
  const auto model = make_model(stream, t.preset, true);
  Optimizer optimizer(*model, {});
  const Index n = t.sequences * kLength;
  const std::vector<Span> all = spans(t.sequences, kLength, 0, false);
  const Matrix ids = random_ids(stream, n, model->config().vocab),
               targets = random_ids(stream, n, model->config().vocab);
  const Matrix sums(stream, DType::f64, 1, 2);
  const View squares = sums.view().columns(0, 1), loss = sums.view().columns(1, 1);
  Index step = 0;
  Row row{.job = text_of("train ", t.preset, ", ", t.sequences, " x ", kLength)};
  row.seconds = median_seconds(stream, [&] {
    model->renew_gradients();
    Pass pass{stream, batch_of(all), nullptr, true};
    clear(stream, sums);
    model->loss_and_gradient(pass, ids, targets, 1 / static_cast<double>(n), loss);
    optimizer.add_squares(squares);
    optimizer.step(1e-4, 1, sums, ++step);
    download(stream, sums);
  });
  row.tokens = static_cast<double>(n);
  row.flops = 3 * static_cast<double>(t.sequences) * model->flops(0, kLength);
  row.pytorch = t.pytorch_ms / 1e3;
  row.goal = static_cast<double>(n) / t.goal_rate;
  row.memory = static_cast<double>(stream.pool()->held());
  return row;
}

/// Reads `length` tokens of one or more sequences in chunks; logits of the last tokens alone.
class Reader {
 public:
  Reader(Stream& stream, Model& model, Index sequences, Index context)
      : stream_(stream),
        model_(model),
        sequences_(sequences),
        states_(model.make_states(sequences, context)) {}

  void read(Index position, Index length, Index chunk) {
    for (Index done = 0; done < length; done += chunk)
      pass(position + done, std::min(chunk, length - done), done + chunk >= length);
  }
  void pass(Index position, Index length, bool logits) {
    const std::vector<Span> all = spans(sequences_, length, position, true);
    Pass pass{stream_, batch_of(all), &states_, false};
    const DType dtype = model_.dtype();
    const Index n = pass.batch.tokens, d = model_.config().d_model, v = model_.config().vocab;
    if (ids_.rows() != n) ids_ = random_ids(stream_, n, v);
    const Matrix x(stream_, dtype, n, d), last(stream_, dtype, sequences_, d);
    model_.forward(pass, ids_, x);
    if (!logits) return;
    const Matrix y(stream_, DType::f32, sequences_, v);
    for (Index s = 0; s < sequences_; ++s)
      copy(stream_, last.view().block(s, 1), x.view().block((s + 1) * length - 1, 1));
    model_.head(pass, last, y);
  }

 private:
  Stream& stream_;
  Model& model_;
  Index sequences_;
  States states_;
  Matrix ids_;
};

double weight_bytes(const Model& model) {
  double bytes = 0;
  for (const Parameter& p : model.parameters()) bytes += static_cast<double>(p.value.bytes());
  return bytes;
}

Row prefill(Stream& stream, Model& model, Index length, double pytorch_ms, double goal_ms) {
  constexpr Index kChunk = 8192;
  Reader reader(stream, model, 1, length);
  Row row{.job = text_of("prefill ", model.config().name, ", 1 x ", length)};
  // Long prompts take seconds: one to warm up and one to measure.
  constexpr Index kLong = 200'000;
  const auto read = [&] { reader.read(0, length, kChunk); };
  row.seconds = length > kLong ? seconds_of_second(stream, read) : median_seconds(stream, read, 3);
  const double head = 2.0 * static_cast<double>(model.config().vocab * model.config().d_model);
  row.flops = model.flops(0, length) - head * static_cast<double>(length - 1);
  row.tokens = static_cast<double>(length);
  row.pytorch = pytorch_ms / 1e3;
  row.goal = goal_ms / 1e3;
  return row;
}

/// One step of the engine: everything between two tokens of each sequence, sampling included.
Row decode(Model& model, Index sequences, Index after, double pytorch_us, double goal_us) {
  constexpr Index kSteps = 200, kMostTokens = 4096;
  Engine engine(model,
                {.slots = sequences, .tokens_per_pass = 8192, .context = after + kMostTokens});
  std::vector<Index> generated(static_cast<std::size_t>(sequences));
  for (std::size_t s = 0; s < generated.size(); ++s) {
    Request request;
    const Rng rng{3, static_cast<std::uint32_t>(s)};
    for (Index i = 0; i < after; ++i)
      request.prompt.push_back(static_cast<std::int32_t>(rng.below(
          static_cast<std::uint64_t>(model.config().vocab), static_cast<std::uint64_t>(i))));
    request.max_tokens = kMostTokens;
    request.on_token = [&generated, s](std::int32_t) { return ++generated[s], true; };
    engine.submit(std::move(request));
  }
  while (*std::min_element(generated.begin(), generated.end()) < 4) engine.step();
  std::vector<double> times;
  for (Index i = 0; i < kSteps; ++i) {
    const auto start = std::chrono::steady_clock::now();
    engine.step();
    times.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + kSteps / 2, times.end());
  Row row{.job = text_of("decode ", model.config().name, ", batch ", sequences, " after ", after)};
  row.seconds = times[kSteps / 2];
  row.tokens = static_cast<double>(sequences);
  row.bytes = weight_bytes(model) + static_cast<double>(sequences * model.state_bytes(after));
  row.pytorch = pytorch_us / 1e6;
  row.goal = goal_us / 1e6;
  return row;
}

}  // namespace

std::vector<Row> training_rows(Stream& stream) {
  std::vector<Row> rows;
  for (const Training& t :
       {Training{"samba-421m", 8, 235.5, 200e3}, Training{"llama-438m-swa", 8, 197.9, 200e3},
        Training{"llama-438m", 8, 190.7, 195e3}, Training{"mamba-430m", 8, 542.3, 110e3},
        Training{"samba-1.3b", 4, 332.3, 70e3}}) {
    add(rows, train(stream, t));
    stream.pool()->clear();
  }
  return rows;
}

std::vector<Row> inference_rows(Stream& stream) {
  std::vector<Row> rows;
  const auto add = [&](Row row) {
    bench::add(rows, std::move(row));
    stream.pool()->clear();
  };
  {
    const auto samba = make_model(stream, "samba-1.7b-bench", false);
    add(prefill(stream, *samba, 131072, 967, 131072 / 180e3 * 1e3));
    add(prefill(stream, *samba, 4096, 31.2, 25));
    for (const Index length : {16384, 1048576}) add(prefill(stream, *samba, length, 0, 0));
    for (const Index after : {1024, 1048576}) add(decode(*samba, 1, after, 0, 0));
    add(decode(*samba, 1, 65536, 2266, 1150));
    add(decode(*samba, 16, 65536, 2592, 1350));
  }
  {
    const auto llama = make_model(stream, "llama-3-1.6b-bench", false);
    add(prefill(stream, *llama, 131072, 4469, 3000));
    add(decode(*llama, 1, 4096, 2502, 1050));
    add(decode(*llama, 16, 65536, 8251, 8000));
  }
  {
    const auto mistral = make_model(stream, "mistral-1.6b-bench", false);
    add(prefill(stream, *mistral, 131072, 917, 740));
  }
  return rows;
}

}  // namespace samba::bench
