#include "kernels/causal_conv1d.h"
#include "kernels/run.h"
#include "kernels/selective_scan.h"
#include "measure.h"
#include "rows.h"

namespace samba::bench {
namespace {

constexpr Index kTaps = 4;
constexpr Index kStates = 16;

/// What a selective scan of the paper's shape and its convolution read and write.
struct Operands {
  std::vector<Span> spans;
  Batch batch;
  Index chunk = op::SelectiveScan::kChunk;
  Matrix u, dt, b, c, z, y, dt_bias, a_log, d, h, state, decay;
  Matrix du, ddt, db, dc, dz, ddt_bias, da_log, dd, w, bias, dw, dbias;

  Operands(Stream& stream, Index sequences, Index length, Index e) {
    const bool decodes = length == 1;
    for (Index i = 0; i < sequences; ++i)
      spans.push_back({i * length, length, decodes ? 1 : 0, decodes ? i : -1});
    batch = batch_of(spans);
    const Index n = batch.tokens;
    const auto rows = [&](Index cols) { return random_matrix(stream, DType::bf16, n, cols); };
    const auto exact = [&](Index r, Index cols, double scale) {
      return random_matrix(stream, DType::f32, r, cols, scale);
    };
    u = rows(e), dt = rows(e), b = rows(kStates), c = rows(kStates), z = rows(e), y = rows(e);
    dt_bias = exact(1, e, 1), a_log = exact(e, kStates, 1), d = exact(1, e, 1);
    w = exact(e, kTaps, 0.5), bias = exact(1, e, 1);
    if (decodes) {
      state = exact(sequences, kStates * e, 1), decay = exact(kStates, e, 1);
      run(stream, op::PackDecay{.decay = decay, .a_log = a_log});
      return;
    }
    chunk = op::SelectiveScan::chunk_on(stream);
    h = Matrix(stream, DType::f32, op::SelectiveScan::chunks(batch, chunk), kStates * e);
    du = rows(e), ddt = rows(e), db = rows(kStates), dc = rows(kStates), dz = rows(e);
    ddt_bias = exact(1, e, 1), da_log = exact(e, kStates, 1), dd = exact(1, e, 1);
    dw = exact(e, kTaps, 1), dbias = exact(1, e, 1);
  }

  op::SelectiveScan scan(bool trains) const {
    return {.y = y,
            .u = u,
            .dt = dt,
            .b = b,
            .c = c,
            .z = z,
            .dt_bias = dt_bias,
            .a_log = decay.empty() ? a_log.view() : View{},
            .decay = decay,
            .d = d,
            .batch = batch,
            .state = state,
            .h = trains ? h.view() : View{},
            .chunk = chunk};
  }
  op::SelectiveScanBackward scan_backward() const {
    return {.du = du,
            .ddt = ddt,
            .db = db,
            .dc = dc,
            .dz = dz,
            .ddt_bias = ddt_bias,
            .da_log = da_log,
            .dd = dd,
            .dy = y,
            .u = u,
            .dt = dt,
            .b = b,
            .c = c,
            .z = z,
            .dt_bias = dt_bias,
            .a_log = a_log,
            .d = d,
            .h = h,
            .batch = batch,
            .chunk = chunk};
  }
  op::CausalConv1d conv() const { return {.y = y, .x = u, .w = w, .bias = bias, .batch = batch}; }
  op::CausalConv1dBackward conv_backward() const {
    return {
        .dx = du, .dw = dw, .dbias = dbias, .dy = y, .x = u, .w = w, .bias = bias, .batch = batch};
  }
};

}  // namespace

std::vector<Row> scan_rows(Stream& stream) {
  std::vector<Row> table;
  const auto row = [&](const char* job, const auto& op, double bytes, double pytorch, double goal) {
    add(table, {.job = job,
                .seconds = median_seconds(stream, [&] { run(stream, op); }),
                .bytes = bytes,
                .pytorch = pytorch,
                .goal = goal});
  };
  {
    const Operands o(stream, 8, 4096, 3072);
    const double rows = static_cast<double>(o.u.bytes()), h = static_cast<double>(o.h.bytes());
    row("scan 8 x 4096 x 3072", o.scan(false), 4 * rows, 1.816e-3, 0.6e-3);
    row("scan 8 x 4096 x 3072, leaving states for backward", o.scan(true), 4 * rows + h, 0, 0);
    row("scan backward 8 x 4096 x 3072", o.scan_backward(), 7 * rows + h, 7.223e-3, 2.4e-3);
    row("conv 8 x 4096 x 3072", o.conv(), 2 * rows, 0.178e-3, 0.12e-3);
    row("conv backward 8 x 4096 x 3072", o.conv_backward(), 3 * rows, 0, 0);
  }
  {
    const Operands o(stream, 1, 32768, 4096);
    const double rows = static_cast<double>(o.u.bytes());
    row("scan 1 x 32768 x 4096", o.scan(false), 4 * rows, 0, 0);
  }
  for (const Index sequences : {1, 16}) {
    const Operands o(stream, sequences, 1, 4096);
    const double bytes = static_cast<double>(2 * o.state.bytes() + o.decay.bytes());
    row(sequences == 1 ? "scan 1 x 1 x 4096" : "scan 16 x 1 x 4096", o.scan(false), bytes, 0, 0);
    row(sequences == 1 ? "conv 1 x 1 x 4096" : "conv 16 x 1 x 4096", o.conv(), 0, 0, 0);
  }
  return table;
}

}  // namespace samba::bench
