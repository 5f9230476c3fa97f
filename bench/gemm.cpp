#include <benchmark/benchmark.h>

#include <algorithm>
#include <dnnl.hpp>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/error.h"
#include "kernels/linear.h"
#include "kernels/probe.h"
#include "kernels/run.h"
#include "measure.h"

// Linear and its gradients beside oneDNN, which runs the same product in turns with ours. Columns:
//   GFLOP/s, GB/s   ours; GB/s counts every operand once
//   oneDNN          its GFLOP/s; beside packed weights the better of plain and reordered ones
//   ratio           ours / oneDNN
//   share           of the roof: the time that the probes say the flops or the bytes need
namespace samba::bench {
namespace {

using dnnl::memory;

enum class Kind { unpacked, packed, dx, dw };

struct Case {
  Kind kind;
  Tier tier;
  DType dtype;
  Index rows, inputs, outputs;
};

std::string name_of(const Case& c) {
  const char* kinds[] = {"unpacked", "packed", "dx", "dw"};
  return text_of("gemm/", kinds[static_cast<int>(c.kind)], '/', samba::name_of(c.tier), '/',
                 samba::name_of(c.dtype), '/', c.outputs, 'x', c.inputs, "/rows:", c.rows);
}

/// oneDNN's matrix product of [rows, depth] and [depth, cols], the memory of which may lie
/// transposed.
class OneDnn {
 public:
  struct Factor {
    ConstView v;
    bool transposed;
  };

  OneDnn(Factor a, Factor b, View y, bool reorder_b)
      : engine_(dnnl::engine::kind::cpu, 0), queue_(engine_) {
    const Index depth = a.transposed ? a.v.rows : a.v.cols;
    const auto a_desc = describe(a, y.rows, depth), b_desc = describe(b, depth, y.cols);
    const auto y_desc = describe({y, false}, y.rows, y.cols);
    const memory::desc any({depth, y.cols}, b_desc.data_type(), memory::format_tag::any);
    const dnnl::matmul::primitive_desc primitive({a_desc, reorder_b ? any : b_desc, y_desc},
                                                 engine_);
    matmul_ = dnnl::matmul(primitive);
    memory b_memory(b_desc, engine_, const_cast<std::byte*>(b.v.data));
    if (reorder_b) {
      memory reordered(primitive.weights_desc(), engine_);
      dnnl::reorder(b_memory, reordered).execute(queue_, b_memory, reordered);
      queue_.wait();
      b_memory = reordered;
    }
    arguments_ = {{DNNL_ARG_SRC, memory(a_desc, engine_, const_cast<std::byte*>(a.v.data))},
                  {DNNL_ARG_WEIGHTS, b_memory},
                  {DNNL_ARG_DST, memory(y_desc, engine_, y.data)}};
  }

  void run() {
    matmul_.execute(queue_, arguments_);
    queue_.wait();
  }

 private:
  static memory::desc describe(Factor f, Index rows, Index cols) {
    const auto type = f.v.dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
    return f.transposed ? memory::desc({rows, cols}, type, memory::dims{1, f.v.stride})
                        : memory::desc({rows, cols}, type, memory::dims{f.v.stride, 1});
  }

  dnnl::engine engine_;
  dnnl::stream queue_;
  dnnl::matmul matmul_;
  std::unordered_map<int, memory> arguments_;
};

/// Everything that a case multiplies.
struct Data {
  Data(Stream& stream, const Case& c)
      : x(random_matrix(stream, c.dtype, c.rows, c.inputs, 0.5f)),
        w(random_matrix(stream, c.dtype, c.outputs, c.inputs, 0.5f)),
        dy(random_matrix(stream, c.dtype, c.rows, c.outputs, 0.5f)),
        y(stream, c.dtype, c.rows, c.outputs),
        dx(stream, c.dtype, c.rows, c.inputs),
        dw(stream, DType::f32, c.outputs, c.inputs),
        panels(stream, c.dtype, op::PackLinear::panel_rows(c.outputs),
               op::PackLinear::panel_cols(c.inputs)) {
    fill(dw, 0);
    run(stream, op::PackLinear{.panels = panels, .w = w});
  }

  Matrix x, w, dy, y, dx, dw, panels;
};

void run_ours(Stream& stream, Kind kind, const Data& d) {
  switch (kind) {
    case Kind::packed:
      return run(stream, op::Linear{.y = d.y, .x = d.x, .w = d.panels, .packed = true});
    case Kind::unpacked: return run(stream, op::Linear{.y = d.y, .x = d.x, .w = d.w});
    case Kind::dx: return run(stream, op::LinearBackward{.dx = d.dx, .dy = d.dy, .w = d.w});
    case Kind::dw: return run(stream, op::LinearBackward{.dw = d.dw, .dy = d.dy, .x = d.x});
  }
}

/// What oneDNN has for the case; nothing for tiers that it would not choose itself.
std::vector<OneDnn> products_of(const Case& c, const Data& d) {
  std::vector<OneDnn> products;
  if (c.tier != best_tier()) return products;
  switch (c.kind) {
    case Kind::packed:
      products.emplace_back(OneDnn::Factor{d.x, false}, OneDnn::Factor{d.w, true}, d.y, true);
      products.emplace_back(OneDnn::Factor{d.x, false}, OneDnn::Factor{d.w, true}, d.y, false);
      break;
    case Kind::unpacked:
      products.emplace_back(OneDnn::Factor{d.x, false}, OneDnn::Factor{d.w, true}, d.y, false);
      break;
    case Kind::dx:
      products.emplace_back(OneDnn::Factor{d.dy, false}, OneDnn::Factor{d.w, false}, d.dx, false);
      break;
    case Kind::dw:
      products.emplace_back(OneDnn::Factor{d.dy, true}, OneDnn::Factor{d.x, false}, d.dw, false);
      break;
  }
  return products;
}

double flops_of(const Case& c) {
  return 2.0 * static_cast<double>(c.rows * c.inputs * c.outputs);
}

/// Every operand once; dw is read and written.
double bytes_of(const Case& c, const Data& d) {
  const Index weight = c.kind == Kind::dw ? 2 * d.dw.bytes() : d.w.bytes();
  return static_cast<double>(weight + d.x.bytes() + d.y.bytes());
}

/// Seconds that the case needs at the rates of the probes.
double roof_of(Stream& stream, const Case& c, const Data& d) {
  return std::max(flops_of(c) / probe_flops(stream, c.dtype), bytes_of(c, d) / probe_read(stream));
}

void run_case(benchmark::State& state, const Case& c) {
  Stream stream(0, c.tier);
  const Data data(stream, c);
  std::vector<OneDnn> products = products_of(c, data);
  double ours = 1e9, theirs = 1e9;
  double roof = roof_of(stream, c, data);
  for (auto _ : state) {
    const double time = seconds([&] { run_ours(stream, c.kind, data); });
    state.SetIterationTime(time);
    ours = std::min(ours, time);
    for (OneDnn& product : products) theirs = std::min(theirs, seconds([&] { product.run(); }));
  }
  roof = std::min(roof, roof_of(stream, c, data));
  state.counters["GFLOP/s"] = flops_of(c) / ours / 1e9;
  state.counters["GB/s"] = bytes_of(c, data) / ours / 1e9;
  state.counters["share"] = roof / ours;
  if (products.empty()) return;
  state.counters["oneDNN"] = flops_of(c) / theirs / 1e9;
  state.counters["ratio"] = theirs / ours;
}

void add(const Case& c) {
  // Half a second of ours, more or less, and at least six turns.
  const auto bytes = static_cast<double>(c.inputs * c.outputs * size_of(c.dtype));
  const double guess = std::max(flops_of(c) / 3e11, bytes / 3e10);
  const auto turns = static_cast<Index>(std::clamp(0.5 / guess, 6.0, 500.0));
  benchmark::RegisterBenchmark(name_of(c).c_str(), [c](benchmark::State& s) { run_case(s, c); })
      ->Iterations(turns)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

const bool kRegistered = [] {
  for (const Tier tier : {Tier::avx512bf16, Tier::avx512, Tier::avx2})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      if (!machine_has(tier)) continue;
      for (const auto& [outputs, inputs] :
           {std::pair<Index, Index>{4096, 4096}, {1536, 4096}, {32000, 1536}})
        for (const Index rows : {1, 4, 8, 16, 512, 4096})
          for (const Kind kind : {Kind::packed, Kind::unpacked})
            if (rows * outputs <= Index{4096} * 4096)
              add({kind, tier, dtype, rows, inputs, outputs});
      for (const auto& [outputs, inputs] : {std::pair<Index, Index>{384, 768},
                                            {768, 384},
                                            {1536, 384},
                                            {8192, 384},
                                            {1152, 768},
                                            {1536, 1536},
                                            {4096, 1536}})
        for (const Kind kind : {Kind::unpacked, Kind::dx, Kind::dw})
          add({kind, tier, dtype, 1024, inputs, outputs});
    }
  return true;
}();

}  // namespace
}  // namespace samba::bench
