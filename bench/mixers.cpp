#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "kernels/attention.h"
#include "kernels/causal_conv1d.h"
#include "kernels/gated_norm.h"
#include "kernels/linear_attention.h"
#include "kernels/mega.h"
#include "kernels/rope.h"
#include "kernels/run.h"
#include "kernels/selective_scan.h"
#include "kernels/silu.h"
#include "kernels/swiglu.h"
#include "measure.h"

// What the mixers other than attention and Mamba do between their projections, in turns with
// attention alone of as many channels in heads of 128. Gated linear attention and retention with
// the heads of the paper and their gated norm; Mega-S6 with its convolution, S6 scan, attention
// within a chunk and the elementwise parts. Columns:
//   ms           the best of all turns
//   attention    milliseconds of attention alone
//   ratio        of the two
namespace samba::bench {
namespace {

enum class Kind { gla, retention, mega_s6 };

struct Case {
  Kind kind;
  bool backward;
  Tier tier;
  DType dtype;
  Index width;
  Index rows;  ///< tokens of one sequence
  Index window;
};

class Core {
 public:
  virtual ~Core() = default;
  virtual void forward() = 0;
  virtual void backward() = 0;
};

/// Gated linear attention or retention, without a short convolution.
class Linear final : public Core {
 public:
  Linear(Stream& stream, const Case& c)
      : stream_(stream),
        gated_(c.kind == Kind::gla),
        heads_(gated_ ? c.width / 384 : c.width / 256),
        keys_(gated_ ? c.width / 2 : c.width),
        values_(gated_ ? c.width : 2 * c.width),
        spans_{{.first = 0, .length = c.rows, .position = 0}},
        batch_(batch_of(spans_)) {
    for (Matrix* m : {&q_, &k_, &gate_}) *m = random_matrix(stream, c.dtype, c.rows, keys_);
    for (Matrix* m : {&v_, &g_, &dy_}) *m = random_matrix(stream, c.dtype, c.rows, values_);
    for (Matrix* m : {&dq_, &dk_, &dgate_}) *m = Matrix(stream, c.dtype, c.rows, keys_);
    for (Matrix* m : {&a_, &y_, &da_, &dv_, &dg_}) *m = Matrix(stream, c.dtype, c.rows, values_);
    w_ = random_matrix(stream, DType::f32, 1, values_ / heads_);
    dw_ = random_matrix(stream, DType::f32, 1, values_ / heads_);
  }

  void forward() override {
    rotate(q_, k_, false);
    run(stream_, op::LinearAttention{.y = a_,
                                     .q = q_,
                                     .k = k_,
                                     .v = v_,
                                     .gate = gated_ ? gate_.view() : View{},
                                     .heads = heads_,
                                     .scale = 0.07,
                                     .batch = batch_});
    run(stream_, op::GatedNorm{.y = y_, .x = a_, .gate = g_, .w = w_, .eps = 1e-5});
  }

  void backward() override {
    run(stream_, op::GatedNormBackward{.dx = da_,
                                       .dgate = dg_,
                                       .dw = dw_,
                                       .dy = dy_,
                                       .x = a_,
                                       .gate = g_,
                                       .w = w_,
                                       .eps = 1e-5});
    run(stream_, op::LinearAttentionBackward{.dq = dq_,
                                             .dk = dk_,
                                             .dv = dv_,
                                             .dgate = gated_ ? dgate_.view() : View{},
                                             .dy = da_,
                                             .q = q_,
                                             .k = k_,
                                             .v = v_,
                                             .gate = gated_ ? gate_.view() : View{},
                                             .heads = heads_,
                                             .scale = 0.07,
                                             .batch = batch_});
    rotate(dq_, dk_, true);
  }

 private:
  void rotate(const Matrix& q, const Matrix& k, bool inverse) {
    if (gated_) return;
    for (const View x : {q.view(), k.view()})
      run(stream_,
          op::Rope{.x = x, .heads = heads_, .base = 10000, .inverse = inverse, .batch = batch_});
  }

  Stream& stream_;
  bool gated_;
  Index heads_, keys_, values_;
  std::vector<Span> spans_;
  Batch batch_;
  Matrix q_, k_, v_, gate_, g_, a_, y_, w_;
  Matrix dq_, dk_, dv_, dgate_, dg_, da_, dy_, dw_;
};

/// Everything that the ops read and write; gradients of matrices lie in g.
class MegaS6 final : public Core {
 public:
  MegaS6(Stream& stream, const Case& c)
      : stream_(stream),
        d_(c.width),
        n_(c.rows),
        window_(c.window),
        spans_{{.first = 0, .length = c.rows, .position = 0}},
        batch_(batch_of(spans_)) {
    for (Matrix* m : {&x_, &v_, &dt_, &h_, &dy_}) *m = random_matrix(stream, c.dtype, n_, d_);
    for (Matrix* m : {&v_silu_, &conv_, &scan_, &m_, &a_, &gated_, &y_, &g_dt_, &g_})
      *m = Matrix(stream, c.dtype, n_, d_);
    gates_ = random_matrix(stream, c.dtype, n_, 3 * d_ + kZ);
    g_gates_ = Matrix(stream, c.dtype, n_, 3 * d_ + kZ);
    bc_ = random_matrix(stream, c.dtype, n_, 2 * kState);
    g_bc_ = Matrix(stream, c.dtype, n_, 2 * kState);
    qk_ = Matrix(stream, c.dtype, n_, 4 * kZ);
    g_qk_ = Matrix(stream, c.dtype, n_, 4 * kZ);
    taps_ = random_matrix(stream, DType::f32, d_, 4, 0.4f);
    a_log_ = random_matrix(stream, DType::f32, d_, kState);
    vector_ = random_matrix(stream, DType::f32, 1, d_);
    small_ = random_matrix(stream, DType::f32, 2, kZ, 0.2f);
    for (Matrix* m : {&g_taps_, &g_a_log_, &g_vector_, &g_small_, &g_x_, &lse_, &states_})
      *m = m == &g_taps_     ? Matrix(stream, DType::f32, d_, 4)
           : m == &g_a_log_  ? Matrix(stream, DType::f32, d_, kState)
           : m == &g_vector_ ? Matrix(stream, DType::f32, 1, d_)
           : m == &g_small_  ? Matrix(stream, DType::f32, 2, kZ)
           : m == &g_x_      ? Matrix(stream, DType::f32, n_, d_)
           : m == &lse_
               ? Matrix(stream, DType::f32, n_, 1)
               : Matrix(stream, DType::f32, op::SelectiveScan::chunks(batch_), d_ * kState);
    for (Matrix* m : {&g_taps_, &g_a_log_, &g_vector_, &g_small_}) fill(*m, 0);
  }

  void forward() override {
    run(stream_, op::Silu{.y = v_silu_, .x = v_});
    run(stream_,
        op::CausalConv1d{.y = conv_, .x = x_, .w = taps_, .bias = vector_, .batch = batch_});
    run(stream_, op::SelectiveScan{.y = scan_,
                                   .u = conv_,
                                   .dt = dt_,
                                   .b = columns(bc_, 0, kState),
                                   .c = columns(bc_, kState, kState),
                                   .dt_bias = vector_,
                                   .a_log = a_log_,
                                   .d = vector_,
                                   .batch = batch_,
                                   .h = states_});
    run(stream_, op::Silu{.y = m_, .x = scan_});
    run(stream_, op::MegaQueryKey{.q = q(qk_),
                                  .k = k(qk_),
                                  .z = z(gates_),
                                  .gamma = small_,
                                  .beta = small_.view().block(0, 1),
                                  .bias = small_,
                                  .scale = kScale});
    rotate(qk_, false);
    run(stream_, op::Attention{.y = a_,
                               .lse = lse_,
                               .q = q(qk_),
                               .k = k(qk_),
                               .v = v_silu_,
                               .heads = {1, 1, 2 * kZ, d_},
                               .window = window_,
                               .chunked = true,
                               .scale = kScale,
                               .batch = batch_});
    run(stream_, op::SwiGlu{.y = gated_, .gate = r(gates_), .up = a_});
    run(stream_, op::MegaGate{.y = y_, .u = u(gates_), .h = h_, .hx = hx(gates_), .x = x_});
  }

  void backward() override {
    run(stream_, op::MegaGateBackward{.du = u(g_gates_),
                                      .dh = hx(g_gates_),
                                      .dx = g_x_,
                                      .dy = dy_,
                                      .u = u(gates_),
                                      .h = h_,
                                      .hx = hx(gates_),
                                      .x = x_});
    run(stream_, op::SwiGluBackward{
                     .dgate = r(g_gates_), .dup = g_, .dy = dy_, .gate = r(gates_), .up = a_});
    run(stream_, op::AttentionBackward{.dq = q(g_qk_),
                                       .dk = k(g_qk_),
                                       .dv = g_dt_,
                                       .dy = g_,
                                       .y = a_,
                                       .lse = lse_,
                                       .q = q(qk_),
                                       .k = k(qk_),
                                       .v = v_silu_,
                                       .heads = {1, 1, 2 * kZ, d_},
                                       .window = window_,
                                       .chunked = true,
                                       .scale = kScale,
                                       .batch = batch_});
    run(stream_, op::SiluBackward{.dx = g_dt_, .dy = g_dt_, .x = v_});
    rotate(g_qk_, true);
    run(stream_, op::MegaQueryKeyBackward{.dz = z(g_gates_),
                                          .dgamma = g_small_,
                                          .dbeta = g_small_.view().block(0, 1),
                                          .dbias = g_small_,
                                          .dq = q(g_qk_),
                                          .dk = k(g_qk_),
                                          .z = z(gates_),
                                          .gamma = small_,
                                          .scale = kScale});
    run(stream_, op::SiluBackward{.dx = g_, .dy = dy_, .x = scan_});
    run(stream_, op::SelectiveScanBackward{.du = y_,
                                           .ddt = g_dt_,
                                           .db = columns(g_bc_, 0, kState),
                                           .dc = columns(g_bc_, kState, kState),
                                           .ddt_bias = g_vector_,
                                           .da_log = g_a_log_,
                                           .dd = g_vector_,
                                           .dy = g_,
                                           .u = conv_,
                                           .dt = dt_,
                                           .b = columns(bc_, 0, kState),
                                           .c = columns(bc_, kState, kState),
                                           .dt_bias = vector_,
                                           .a_log = a_log_,
                                           .d = vector_,
                                           .h = states_,
                                           .batch = batch_});
    run(stream_, op::CausalConv1dBackward{.dx = g_,
                                          .dw = g_taps_,
                                          .dbias = g_vector_,
                                          .dy = y_,
                                          .x = x_,
                                          .w = taps_,
                                          .bias = vector_,
                                          .batch = batch_});
  }

 private:
  static constexpr Index kZ = 128, kState = 16;
  static constexpr double kScale = 0.08838834764831845;

  static View columns(const Matrix& m, Index first, Index count) {
    return m.view().columns(first, count);
  }
  View q(const Matrix& qk) const { return columns(qk, 0, 2 * kZ); }
  View k(const Matrix& qk) const { return columns(qk, 2 * kZ, 2 * kZ); }
  View u(const Matrix& gates) const { return columns(gates, 0, d_); }
  View z(const Matrix& gates) const { return columns(gates, d_, kZ); }
  View r(const Matrix& gates) const { return columns(gates, d_ + kZ, d_); }
  View hx(const Matrix& gates) const { return columns(gates, 2 * d_ + kZ, d_); }

  void rotate(const Matrix& qk, bool inverse) {
    for (const Index first : {kZ, 3 * kZ})
      run(stream_, op::Rope{.x = columns(qk, first, kZ),
                            .heads = 1,
                            .base = 10000,
                            .inverse = inverse,
                            .batch = batch_});
  }

  Stream& stream_;
  Index d_, n_, window_;
  std::vector<Span> spans_;
  Batch batch_;
  Matrix x_, v_, v_silu_, conv_, dt_, bc_, scan_, m_, gates_, qk_, a_, gated_, h_, y_, dy_;
  Matrix lse_, states_, taps_, a_log_, vector_, small_;
  Matrix g_, g_dt_, g_bc_, g_gates_, g_qk_, g_x_, g_taps_, g_a_log_, g_vector_, g_small_;
};

/// Attention alone, of heads of 128.
class Alone final : public Core {
 public:
  Alone(Stream& stream, const Case& c)
      : stream_(stream),
        spans_{{.first = 0, .length = c.rows, .position = 0}},
        q_(random_matrix(stream, c.dtype, c.rows, c.width)),
        k_(random_matrix(stream, c.dtype, c.rows, c.width)),
        v_(random_matrix(stream, c.dtype, c.rows, c.width)),
        dy_(random_matrix(stream, c.dtype, c.rows, c.width)),
        y_(stream, c.dtype, c.rows, c.width),
        dq_(stream, c.dtype, c.rows, c.width),
        dk_(stream, c.dtype, c.rows, c.width),
        dv_(stream, c.dtype, c.rows, c.width),
        lse_(stream, DType::f32, c.rows, c.width / 128),
        heads_{c.width / 128, c.width / 128, 128},
        window_(c.window) {}

  void forward() override {
    run(stream_, op::Attention{.y = y_,
                               .lse = lse_,
                               .q = q_,
                               .k = k_,
                               .v = v_,
                               .heads = heads_,
                               .window = window_,
                               .scale = 0.088,
                               .batch = batch_of(spans_)});
  }
  void backward() override {
    run(stream_, op::AttentionBackward{.dq = dq_,
                                       .dk = dk_,
                                       .dv = dv_,
                                       .dy = dy_,
                                       .y = y_,
                                       .lse = lse_,
                                       .q = q_,
                                       .k = k_,
                                       .v = v_,
                                       .heads = heads_,
                                       .window = window_,
                                       .scale = 0.088,
                                       .batch = batch_of(spans_)});
  }

 private:
  Stream& stream_;
  std::vector<Span> spans_;
  Matrix q_, k_, v_, dy_, y_, dq_, dk_, dv_, lse_;
  op::Heads heads_;
  Index window_;
};

void run_case(benchmark::State& state, const Case& c) {
  Stream stream(0, c.tier);
  std::unique_ptr<Core> core;
  if (c.kind == Kind::mega_s6)
    core = std::make_unique<MegaS6>(stream, c);
  else
    core = std::make_unique<Linear>(stream, c);
  Alone alone(stream, c);
  core->forward();
  alone.forward();
  double best = 1e9, best_alone = 1e9;
  for (auto _ : state) {
    const double time = seconds([&] { c.backward ? core->backward() : core->forward(); });
    best_alone =
        std::min(best_alone, seconds([&] { c.backward ? alone.backward() : alone.forward(); }));
    state.SetIterationTime(time);
    best = std::min(best, time);
  }
  state.counters["ms"] = best * 1e3;
  state.counters["attention"] = best_alone * 1e3;
  state.counters["ratio"] = best / best_alone;
}

const bool kRegistered = [] {
  const char* kinds[] = {"gla", "retention", "mega_s6"};
  for (const Tier tier : {Tier::avx512bf16, Tier::avx512, Tier::avx2})
    for (const Kind kind : {Kind::gla, Kind::retention, Kind::mega_s6})
      for (const DType dtype : {DType::f32, DType::bf16})
        for (const bool backward : {false, true}) {
          if (!machine_has(tier)) continue;
          const Case c{kind, backward, tier, dtype, 1536, 1024, 2048};
          const std::string name =
              text_of("mixer/", kinds[static_cast<int>(kind)], '/',
                      backward ? "backward" : "forward", '/', samba::name_of(tier), '/',
                      samba::name_of(dtype), "/width:", c.width, "/rows:", c.rows);
          benchmark::RegisterBenchmark(name.c_str(), [c](benchmark::State& s) { run_case(s, c); })
              ->Iterations(10)
              ->UseManualTime()
              ->Unit(benchmark::kMillisecond);
        }
  return true;
}();

}  // namespace
}  // namespace samba::bench
