#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "kernels/causal_conv1d.h"
#include "kernels/probe.h"
#include "kernels/run.h"
#include "kernels/selective_scan.h"
#include "measure.h"

// The selective scan and the convolution before it. Columns:
//   G/s     states (elements for the convolution) per second
//   exp2    2^x per second of a bare loop, probed before and after
//   share   G/s over exp2: 1 is a scan that costs nothing but its exponentials
//   GB/s    the convolution's rows, counted once
namespace samba::bench {
namespace {

enum class Kind { scan, scan_backward, conv, conv_backward };

struct Case {
  Kind kind;
  Tier tier;
  DType dtype;
  Index spans, length, channels;
};

constexpr Index kStates = 16;
constexpr Index kTaps = 4;

std::string name_of(const Case& c) {
  const char* kinds[] = {"scan", "scan_backward", "conv", "conv_backward"};
  return text_of(kinds[static_cast<int>(c.kind)], '/', samba::name_of(c.tier), '/',
                 samba::name_of(c.dtype), '/', c.spans, 'x', c.length, "/channels:", c.channels);
}

/// Everything that the four ops read and write.
struct Operands {
  std::vector<Span> spans;
  Batch batch;
  Matrix u, dt, b, c, z, dt_bias, a_log, d, state, h, y;
  Matrix du, ddt, db, dc, dz, ddt_bias, da_log, dd, w, dw, bias, dbias;

  Operands(Stream& stream, const Case& k) {
    const bool backward = k.kind == Kind::scan_backward || k.kind == Kind::conv_backward;
    const bool decodes = k.length == 1;
    for (Index i = 0; i < k.spans; ++i)
      spans.push_back({i * k.length, k.length, decodes ? 1 : 0, decodes && !backward ? i : -1});
    batch = batch_of(spans);
    const Index n = batch.tokens, e = k.channels;
    const auto rows = [&](Index cols, float middle, float spread) {
      return random_matrix(stream, k.dtype, n, cols, spread, middle);
    };
    const auto exact = [&](Index r, Index cols, float middle, float spread) {
      return random_matrix(stream, DType::f32, r, cols, spread, middle);
    };
    u = rows(e, 0, 1), dt = rows(e, -1, 2), z = rows(e, 0, 2), y = rows(e, 0, 1);
    b = rows(kStates, 0, 1), c = rows(kStates, 0, 1);
    dt_bias = exact(1, e, -1, 1), a_log = exact(e, kStates, 1.4f, 1.4f), d = exact(1, e, 1, 0);
    w = exact(e, kTaps, 0, 0.5f), bias = exact(1, e, 0, 0.5f);
    state = exact(k.spans, kStates * e, 0, 1);
    if (!backward) return;
    h = exact(op::SelectiveScan::chunks(batch), kStates * e, 0, 1);
    du = rows(e, 0, 1), ddt = rows(e, 0, 1), dz = rows(e, 0, 1);
    db = rows(kStates, 0, 1), dc = rows(kStates, 0, 1);
    ddt_bias = exact(1, e, 0, 1), da_log = exact(e, kStates, 0, 1), dd = exact(1, e, 0, 1);
    dw = exact(e, kTaps, 0, 1), dbias = exact(1, e, 0, 1);
  }
};

void run_once(Stream& stream, Kind kind, const Operands& o) {
  switch (kind) {
    case Kind::scan:
      return run(stream, op::SelectiveScan{.y = o.y,
                                           .u = o.u,
                                           .dt = o.dt,
                                           .b = o.b,
                                           .c = o.c,
                                           .z = o.z,
                                           .dt_bias = o.dt_bias,
                                           .a_log = o.a_log,
                                           .d = o.d,
                                           .batch = o.batch,
                                           .state = o.state});
    case Kind::scan_backward:
      return run(stream, op::SelectiveScanBackward{.du = o.du,
                                                   .ddt = o.ddt,
                                                   .db = o.db,
                                                   .dc = o.dc,
                                                   .dz = o.dz,
                                                   .ddt_bias = o.ddt_bias,
                                                   .da_log = o.da_log,
                                                   .dd = o.dd,
                                                   .dy = o.y,
                                                   .u = o.u,
                                                   .dt = o.dt,
                                                   .b = o.b,
                                                   .c = o.c,
                                                   .z = o.z,
                                                   .dt_bias = o.dt_bias,
                                                   .a_log = o.a_log,
                                                   .d = o.d,
                                                   .h = o.h,
                                                   .batch = o.batch});
    case Kind::conv:
      return run(stream,
                 op::CausalConv1d{.y = o.y, .x = o.u, .w = o.w, .bias = o.bias, .batch = o.batch});
    case Kind::conv_backward:
      return run(stream, op::CausalConv1dBackward{.dx = o.du,
                                                  .dw = o.dw,
                                                  .dbias = o.dbias,
                                                  .dy = o.y,
                                                  .x = o.u,
                                                  .w = o.w,
                                                  .bias = o.bias,
                                                  .batch = o.batch});
  }
}

void run_case(benchmark::State& state, const Case& k) {
  Stream stream(0, k.tier);
  const Operands operands(stream, k);
  const bool scans = k.kind == Kind::scan || k.kind == Kind::scan_backward;
  const auto elements = static_cast<double>(operands.batch.tokens * k.channels);
  double best = 1e9, exp2 = probe_exp2(stream);
  for (auto _ : state) {
    const double time = seconds([&] { run_once(stream, k.kind, operands); });
    state.SetIterationTime(time);
    best = std::min(best, time);
  }
  exp2 = std::max(exp2, probe_exp2(stream));
  const double rate = elements * (scans ? kStates : 1) / best;
  state.counters["G/s"] = rate / 1e9;
  if (scans) {
    state.counters["exp2"] = exp2 / 1e9;
    state.counters["share"] = rate / exp2;
  } else {
    const int passes = k.kind == Kind::conv ? 2 : 3;
    state.counters["GB/s"] = elements * passes * static_cast<double>(size_of(k.dtype)) / best / 1e9;
  }
}

const bool kRegistered = [] {
  const auto add = [](const Case& c) {
    const double elements = static_cast<double>(c.spans * c.length * c.channels) * kStates;
    benchmark::RegisterBenchmark(name_of(c).c_str(), [c](benchmark::State& s) { run_case(s, c); })
        ->Iterations(static_cast<Index>(std::clamp(1e9 / elements, 5.0, 1000.0)))
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  };
  for (const Tier tier : {Tier::avx512bf16, Tier::avx512, Tier::avx2, Tier::plain})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      if (!machine_has(tier)) continue;
      for (const Kind kind : {Kind::scan, Kind::scan_backward, Kind::conv, Kind::conv_backward})
        for (const Index channels : {768, 2048, 3072}) add({kind, tier, dtype, 1, 1024, channels});
      for (const Kind kind : {Kind::scan, Kind::conv}) {
        add({kind, tier, dtype, 1, 4096, 2048});
        for (const Index spans : {1, 8}) add({kind, tier, dtype, spans, 1, 2048});
      }
    }
  return true;
}();

}  // namespace
}  // namespace samba::bench
