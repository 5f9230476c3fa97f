#include "kernels/attention.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "kernels/probe.h"
#include "kernels/run.h"
#include "measure.h"

// Attention over whole sequences, its gradients, and one token at a time from rings. Columns:
//   GFLOP/s, share   of multiplications and additions on pairs inside the window; share of the
//                    probe of the same dtype
//   GB/s, share      decode: keys and values read from the rings; share of the probe of reading
namespace samba::bench {
namespace {

enum class Kind { forward, backward, decode };

struct Case {
  Kind kind;
  Tier tier;
  DType dtype;
  op::Heads heads;
  Index rows;  ///< tokens of a sequence, or running sequences
  Index window;

  Index q_cols() const { return heads.heads * heads.width; }
  Index kv_cols() const { return heads.kv_heads * heads.width; }
};

std::string name_of(const Case& c) {
  const char* kinds[] = {"forward", "backward", "decode"};
  return text_of("attention/", kinds[static_cast<int>(c.kind)], '/', samba::name_of(c.tier), '/',
                 samba::name_of(c.dtype), "/heads:", c.heads.heads, ':', c.heads.kv_heads, 'x',
                 c.heads.width, "/rows:", c.rows, "/window:", c.window);
}

/// What one call computes or reads.
double work_of(const Case& c) {
  if (c.kind == Kind::decode)
    return static_cast<double>(2 * c.rows * c.window * c.kv_cols() * size_of(c.dtype));
  Index pairs = 0;
  for (Index i = 0; i < c.rows; ++i) pairs += std::min(i + 1, c.window);
  const Index products = c.kind == Kind::forward ? 2 : 5;
  return 2.0 * static_cast<double>(products * pairs * c.q_cols());
}

void run_case(benchmark::State& state, const Case& c) {
  Stream stream(0, c.tier);
  const Index q = c.q_cols(), kv = c.kv_cols();
  const Matrix qkv = random_matrix(stream, c.dtype, c.rows, q + 2 * kv);
  const Matrix dqkv(stream, c.dtype, c.rows, q + 2 * kv),
      dy = random_matrix(stream, c.dtype, c.rows, q);
  const Matrix y(stream, c.dtype, c.rows, q), lse(stream, DType::f32, c.rows, c.heads.heads);
  const View in = qkv, out = dqkv;
  std::vector<Span> spans = {{.first = 0, .length = c.rows, .position = 0}};
  op::Attention forward{.y = y,
                        .lse = lse,
                        .q = in.columns(0, q),
                        .k = in.columns(q, kv),
                        .v = in.columns(q + kv, kv),
                        .heads = c.heads,
                        .window = c.window,
                        .scale = 0.125,
                        .batch = {}};
  Matrix keys, values;
  if (c.kind == Kind::decode) {
    keys = random_matrix(stream, c.dtype, c.rows, c.window * kv);
    values = random_matrix(stream, c.dtype, c.rows, c.window * kv);
    forward.key_state = keys;
    forward.value_state = values;
    spans.clear();
    for (Index i = 0; i < c.rows; ++i)
      spans.push_back({.first = i, .length = 1, .position = 3 * c.window + i, .slot = i});
  }
  forward.batch = batch_of(spans);
  const op::AttentionBackward backward{.dq = out.columns(0, q),
                                       .dk = out.columns(q, kv),
                                       .dv = out.columns(q + kv, kv),
                                       .dy = dy,
                                       .y = y,
                                       .lse = lse,
                                       .q = forward.q,
                                       .k = forward.k,
                                       .v = forward.v,
                                       .heads = c.heads,
                                       .window = c.window,
                                       .scale = forward.scale,
                                       .batch = forward.batch};
  run(stream, forward);
  const bool reads = c.kind == Kind::decode;
  const auto probe = [&] { return reads ? probe_read(stream) : probe_flops(stream, c.dtype); };
  double best = 1e9, peak = probe();
  for (auto _ : state) {
    const double time = seconds([&] {
      if (c.kind == Kind::backward)
        run(stream, backward);
      else
        run(stream, forward);
    });
    state.SetIterationTime(time);
    best = std::min(best, time);
  }
  peak = std::max(peak, probe());
  const double rate = work_of(c) / best;
  state.counters["ms"] = best * 1e3;
  state.counters[reads ? "GB/s" : "GFLOP/s"] = rate / 1e9;
  state.counters["share"] = rate / peak;
}

void add(const Case& c) {
  // Half a second, more or less, and at least three turns.
  const double guess = work_of(c) / (c.kind == Kind::decode ? 2e10 : 1e11);
  const auto turns = static_cast<Index>(std::clamp(0.5 / guess, 3.0, 300.0));
  benchmark::RegisterBenchmark(name_of(c).c_str(), [c](benchmark::State& s) { run_case(s, c); })
      ->Iterations(turns)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

const bool kRegistered = [] {
  for (const Tier tier : {Tier::avx512bf16, Tier::avx512, Tier::avx2})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      if (!machine_has(tier)) continue;
      for (const Kind kind : {Kind::forward, Kind::backward}) {
        add({kind, tier, dtype, {6, 6, 64}, 1024, 512});
        add({kind, tier, dtype, {12, 12, 128}, 4096, 2048});
        add({kind, tier, dtype, {32, 4, 64}, 1024, 512});
      }
      for (const Index sequences : {1, 8}) {
        add({Kind::decode, tier, dtype, {12, 12, 128}, sequences, 2048});
        add({Kind::decode, tier, dtype, {32, 4, 64}, sequences, 2048});
      }
    }
  return true;
}();

}  // namespace
}  // namespace samba::bench
