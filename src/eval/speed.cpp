#include "eval/speed.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "core/human.h"
#include "kernels/probe.h"
#include "train/optimizer.h"

namespace samba {
namespace {

double timed(const Stream& stream, const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  stream.wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The same spans again and again over changing tokens.
class Workload {
 public:
  Workload(Model& model, const SpeedOptions& options) : model_(model), options_(options) {}

  Speed prompt() {
    States states = model_.make_states(options_.sequences, options_.prompt);
    double best = std::numeric_limits<double>::infinity(), peak = 0;
    for (Index round = 0; round < options_.rounds; ++round) {
      peak = std::max(peak, probe_flops(model_.stream(), model_.dtype()));
      best = std::min(best, timed(model_.stream(), [&] { step(states, options_.prompt, 0); }));
    }
    const double sequences = static_cast<double>(options_.sequences);
    // The head runs for the last token of each sequence alone.
    const double head = 2.0 * static_cast<double>(model_.config().vocab * model_.config().d_model);
    const double flops = sequences * (model_.flops(0, options_.prompt) -
                                      head * static_cast<double>(options_.prompt - 1));
    return {"prompt of " + std::to_string(options_.prompt),
            sequences * static_cast<double>(options_.prompt), best, flops / best / peak,
            "peak " + human_count(peak) + " FLOP/s"};
  }

  Speed decode() {
    const Index context = options_.prompt + options_.decode * options_.rounds;
    States states = model_.make_states(options_.sequences, context);
    step(states, options_.prompt, 0);
    double best = std::numeric_limits<double>::infinity(), bandwidth = 0;
    Index position = options_.prompt;
    // Bandwidth changes from one second to the next: the round that counts has its own.
    double before = probe_read(model_.stream());
    for (Index round = 0; round < options_.rounds; ++round) {
      const double time = timed(model_.stream(), [&] {
        for (Index i = 0; i < options_.decode; ++i) step(states, 1, position++);
      });
      const double after = probe_read(model_.stream());
      if (time < best) best = time, bandwidth = std::max(before, after);
      before = after;
    }
    double bytes = 0;
    for (const Parameter& p : model_.parameters())
      bytes += static_cast<double>(p.packed.empty()
                                       ? (p.name == "embedding.weight" ? 0 : p.value.bytes())
                                       : p.packed.bytes());
    bytes += static_cast<double>(options_.sequences * model_.state_bytes(options_.prompt));
    const double tokens = static_cast<double>(options_.decode);
    return {"one token at a time", tokens * static_cast<double>(options_.sequences), best,
            bytes * tokens / best / bandwidth, "read " + human_bytes(bandwidth) + "/s"};
  }

  Speed train() {
    const Index length = options_.prompt;
    double best = std::numeric_limits<double>::infinity(), peak = 0;
    const std::vector<Span> all = spans(length, 0, false);
    Optimizer optimizer(model_, {});
    const Matrix sums(model_.stream(), DType::f64, 1, 2);
    const View squares = sums.view().columns(0, 1), loss = sums.view().columns(1, 1);
    for (Index round = 0; round < options_.rounds; ++round) {
      peak = std::max(peak, gemm_flops(model_.stream(), model_.dtype()));
      Pass pass{model_.stream(), batch_of(all), nullptr, true};
      const Matrix ids = tokens(pass.batch.tokens), targets = tokens(pass.batch.tokens);
      best = std::min(best, timed(model_.stream(), [&] {
                        model_.renew_gradients();
                        const double scale = 1 / static_cast<double>(pass.batch.tokens);
                        clear(model_.stream(), sums);
                        model_.loss_and_gradient(pass, ids, targets, scale, loss);
                        optimizer.add_squares(squares);
                        optimizer.step(1e-4, 1, sums, round + 1);
                      }));
    }
    const double sequences = static_cast<double>(options_.sequences);
    return {"training step of " + std::to_string(length), sequences * static_cast<double>(length),
            best, 3 * sequences * model_.flops(0, length) / best / peak,
            "GEMM " + human_count(peak) + " FLOP/s"};
  }

 private:
  Matrix tokens(Index count) {
    const Matrix ids(model_.stream().host(), DType::i32, count, 1);
    for (Index i = 0; i < count; ++i)
      *ids.row<std::int32_t>(i) =
          static_cast<std::int32_t>((++next_ * 7919) % model_.config().vocab);
    return upload(model_.stream(), ids);
  }

  std::vector<Span> spans(Index length, Index position, bool slots) const {
    std::vector<Span> all;
    for (Index s = 0; s < options_.sequences; ++s)
      all.push_back({s * length, length, position, slots ? s : -1});
    return all;
  }

  /// One pass with the logits of every sequence's last token.
  void step(States& states, Index length, Index position) {
    const std::vector<Span> all = spans(length, position, true);
    Pass pass{model_.stream(), batch_of(all), &states, false};
    Matrix x(model_.stream(), model_.dtype(), pass.batch.tokens, model_.config().d_model);
    Matrix last(model_.stream(), model_.dtype(), options_.sequences, model_.config().d_model);
    Matrix logits(model_.stream(), exact_of(model_.dtype()), options_.sequences,
                  model_.config().vocab);
    model_.forward(pass, tokens(pass.batch.tokens), x);
    for (Index s = 0; s < options_.sequences; ++s)
      copy(model_.stream(), last.view().block(s, 1), x.view().block((s + 1) * length - 1, 1));
    model_.head(pass, last, logits);
  }

  Model& model_;
  const SpeedOptions& options_;
  Index next_ = 0;
};

}  // namespace

std::vector<Speed> inference_speed(Model& model, const SpeedOptions& options) {
  Workload workload(model, options);
  std::vector<Speed> speeds{workload.prompt()};
  if (options.decode > 0) speeds.push_back(workload.decode());
  return speeds;
}

Speed training_speed(Model& model, const SpeedOptions& options) {
  return Workload(model, options).train();
}

}  // namespace samba
