#include "kernels/cuda/few_rows.cuh"
#include "kernels/cuda/selective_scan_parts.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/selective_scan.h"

namespace samba {
namespace {

using Many = Shape<2, 4, 16>;  // for as many spans as fill the GPU
using Few = Shape<1, 2, 32>;   // with more threads for each of them

/// What passes between the two halves of a block's warps, for one piece. There are two of them, so
/// that while one half works on a piece the other has the next and the one before.
template <class S>
struct Buffer {
  Steps<S> steps;
  SharedRows<S> rows;
  Sums<S, S::piece> sums[S::parts];
};

template <class S>
struct Shared {
  Buffer<S> buffers[2];
  Pack<4> bias[S::tile / 4], d[S::tile / 4];
};

/// The halves meet at two barriers for each buffer, of those that hardware numbers; 0 is
/// __syncthreads().
constexpr int kPrepared = 1, kMoved = 3;

template <class S, int at>
__device__ inline void wait_for(int which) {
  if (which == 0)
    asm volatile("bar.sync %0, %1;" ::"n"(at), "n"(2 * S::threads) : "memory");
  else
    asm volatile("bar.sync %0, %1;" ::"n"(at + 1), "n"(2 * S::threads) : "memory");
}
template <class S, int at>
__device__ inline void announce(int which) {
  if (which == 0)
    asm volatile("bar.arrive %0, %1;" ::"n"(at), "n"(2 * S::threads) : "memory");
  else
    asm volatile("bar.arrive %0, %1;" ::"n"(at + 1), "n"(2 * S::threads) : "memory");
}

/// What there is to do for one tile of channels along one span. `before` holds what groups of
/// states that went before have added to the sums of h c, and `after` takes the sums in place of y
/// where more groups follow; both [N, E].
struct Job {
  States states;
  ConstView before;
  View after;
};

/// The half of the warps that have the states.
template <class T, class S>
__device__ inline void move_states(const op::SelectiveScan& op, const Job& job, const Span& span,
                                   Index index, int tile, Shared<S>& s) {
  const Place<S> place(op.y.cols, tile, job.states);
  const int lane = threadIdx.x % kLanes, part = threadIdx.x / kLanes;
  const int step_place = Steps<S>::place(lane), sum_place = Sums<S, S::piece>::place(lane);
  float h[S::states][S::wide] = {}, a[S::states][S::wide];
  place.load_decay(a, op.a_log, op.decay);
  const bool stateful = !op.state.empty() && span.slot >= 0;
  if (stateful && span.position > 0) place.load(h, op.state.row<float>(span.slot));
  const bool leaves = !op.h.empty();
  const int chunk = static_cast<int>(op.chunk), length = static_cast<int>(span.length);
  float* left =
      leaves ? op.h.row<float>(op::SelectiveScan::chunk_row(span, index, chunk)) : nullptr;
  int next_left = leaves ? 0 : length;  // the token before which the state is left
  for (int start = 0; start < length; start += S::piece) {
    const int which = start / S::piece % 2;
    Buffer<S>& buffer = s.buffers[which];
    wait_for<S, kPrepared>(which);
    // Tokens' shares are read two tokens ahead, and decays one, before the sums of tokens before
    // leave: reads may not overtake writes.
    constexpr int kSlots = 3;
    Step<S> steps[kSlots];
    Pack<S::states> b[kSlots], c[kSlots];
    float decays[S::states][S::wide];
    const auto read = [&](int t) {
      if (t >= S::piece) return;
      steps[t % kSlots] = buffer.steps.get(t, step_place);
      b[t % kSlots] = buffer.rows.b(t, part), c[t % kSlots] = buffer.rows.c(t, part);
    };
    read(0);
    read(1);
    find_decays<T, S>(decays, a, steps[0]);
#pragma unroll
    for (int t = 0; t < S::piece; ++t) {
      if (t % kShortest == 0 && start + t == next_left && next_left < length) {
        place.store(left, h);
        left += op.h.stride, next_left += chunk;
      }
      read(t + 2);
      advance<S>(h, decays, steps[t % kSlots], b[t % kSlots]);
      if (t + 1 < S::piece) find_decays<T, S>(decays, a, steps[(t + 1) % kSlots]);
      buffer.sums[part].of_lane(t, sum_place) = sum_of<S>(h, c[t % kSlots]);
    }
    announce<S, kMoved>(which);
  }
  if (stateful) place.store(op.state.row<float>(span.slot), h);
}

/// The other half: it prepares the steps, two pieces ahead, and finishes y. `whole`: runs of
/// channels lie where they can be read at once.
template <class T, class S, bool whole>
__device__ inline void prepare_and_finish(const op::SelectiveScan& op, const Job& job,
                                          const Span& span, int tile, Shared<S>& s) {
  const int thread = threadIdx.x - S::threads;
  const Run<S> run(op.y.cols, tile, thread);
  const RowLoader<T, S> loader(op.b, op.c, job.states, thread);
  const int first = static_cast<int>(span.first), length = static_cast<int>(span.length);
  const bool gated = !op.z.empty();
  Raw<T, S::run> dt, u;
  typename RowLoader<T, S>::Values row_values;
  const auto left_at = [&](int start) { return start + run.t < length ? run.left : 0; };
  const auto load = [&](int start) {
    if (start >= length) return;
    const int row = first + start + run.t, left = left_at(start);
    // Minus infinity is a step of 0, which changes nothing.
    dt.template load<whole>(at<T>(op.dt, row, run.e), left, dt.kLowest);
    u.template load<whole>(at<T>(op.u, row, run.e), left);
    loader.load(row_values, first + start, length - start);
  };
  const auto prepare = [&](Buffer<S>& buffer) {
    loader.store(buffer.rows, row_values);
    float delta[S::run], input[S::run];
#pragma unroll
    for (int q = 0; q < S::run / 4; ++q) {
      const Pack<4> bias = s.bias[run.j * S::run / 4 + q];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k = q * 4 + i;
        delta[k] = softplus<T>(dt[k] + bias[i]);
        input[k] = delta[k] * u[k];
      }
    }
    buffer.steps.put(run, delta, input);
  };

  for (int which = 0; which < 2; ++which) {
    if (which * S::piece >= length) break;
    load(which * S::piece);
    prepare(s.buffers[which]);
    announce<S, kPrepared>(which);
  }
  load(2 * S::piece);
  for (int start = 0; start < length; start += S::piece) {
    const int which = start / S::piece % 2;
    Buffer<S>& buffer = s.buffers[which];
    const int row = first + start + run.t, left = left_at(start);
    Raw<T, S::run> z, skipped;
    skipped.template load<whole>(at<T>(op.u, row, run.e), left);
    if (gated) z.template load<whole>(at<T>(op.z, row, run.e), left);
    wait_for<S, kMoved>(which);
    float y[S::run];
#pragma unroll
    for (int q = 0; q < S::run / 4; ++q) {
      Pack<4> of_part[S::parts];
#pragma unroll
      for (int p = 0; p < S::parts; ++p) of_part[p] = buffer.sums[p].of_run(run.t, run.j, q);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float values[S::parts];
#pragma unroll
        for (int p = 0; p < S::parts; ++p) values[p] = of_part[p][i];
        y[q * 4 + i] = sum_of_parts(values);
      }
    }
    if (start + 2 * S::piece < length) {
      prepare(buffer);
      announce<S, kPrepared>(which);
      load(start + 3 * S::piece);
    }
    if (!job.before.empty())
#pragma unroll
      for (int k = 0; k < S::run; ++k)
        if (k < left) y[k] += *at<float>(job.before, row, run.e + k);
    if (!job.after.empty()) {
      store_run<false>(at<float>(job.after, row, run.e), y, left);
      continue;
    }
#pragma unroll
    for (int q = 0; q < S::run / 4; ++q) {
      const Pack<4> d = s.d[run.j * S::run / 4 + q];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k = q * 4 + i;
        y[k] = fmaf(d[i], skipped[k], y[k]);
      }
    }
    if (gated)
#pragma unroll
      for (int k = 0; k < S::run; ++k) y[k] *= z[k] * sigmoid_of<T>(z[k]);
    store_run<whole>(at<T>(op.y, row, run.e), y, left);
  }
}

template <class T, class S, bool whole>
__global__ void __launch_bounds__(2 * S::threads, S::wide == 2 ? 3 : 2)
    scan(const op::SelectiveScan op, const Job job) {
  extern __shared__ __align__(16) std::byte memory[];
  auto& s = *reinterpret_cast<Shared<S>*>(memory);
  const int tiles = static_cast<int>(ceil_div(op.y.cols, S::tile));
  const int index = static_cast<int>(blockIdx.x) / tiles;
  const int tile = static_cast<int>(blockIdx.x) % tiles;
  const Span span = op.batch.spans[index];
  load_parameters<S>(s.bias, op.dt_bias, tile);
  load_parameters<S>(s.d, op.d, tile);
  __syncthreads();
  if (threadIdx.x < S::threads)
    move_states<T, S>(op, job, span, index, tile, s);
  else
    prepare_and_finish<T, S, whole>(op, job, span, tile, s);
}

constexpr int kStepParts = 4;
constexpr int kStepThreads = kStepParts * kLanes;
constexpr int kStepStates = kGroup / kStepParts;

/// The step of a block's channels, made here of the row that the product would make it of, to the
/// same bits (few_rows.cuh). A warp's first weights are asked for early.
class Projection {
 public:
  __device__ Projection(const op::Linear& product, Index first) : product_(product), first_(first) {
    load(part());
  }
  /// That of the lane's channel, for row `row`. For all threads of the block.
  __device__ float get(Index row) {
    __shared__ float sums[kStepParts][kLanes];
    float sum[2][4] = {};
#pragma unroll 1
    for (int step = part(); step < ceil_div(inputs(), kStep); step += kStepParts) {
      if (step != part()) load(step);
      uint4 x{0, 0, 0, 0};  // the columns of the right factor but for one
      if (lane() < 4 && column(step) < inputs())
        x = *reinterpret_cast<const uint4*>(product_.x.row<Bf16>(row) + column(step));
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) multiply_step(sum[tile], w_[tile][0], w_[tile][1], x);
    }
    if (lane() % 4 == 0)
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          sums[part()][(tile * 2 + half) * 8 + lane() / 4] = sum[tile][half * 2];
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int other = 0; other < kStepParts; ++other) total += sums[other][lane()];
    return to_float(from_float<Bf16>(total));
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  __device__ static int part() { return static_cast<int>(threadIdx.x) / kLanes; }
  __device__ static int column(int step) { return step * kStep + lane() % 4 * 8; }
  __device__ int inputs() const { return static_cast<int>(product_.w.cols); }
  __device__ void load(int step) {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Index row = first_ + (tile * 2 + half) * 8 + lane() / 4;
        w_[tile][half] = uint4{0, 0, 0, 0};
        if (row < product_.w.rows && column(step) < inputs())
          w_[tile][half] =
              *reinterpret_cast<const uint4*>(product_.w.row<Bf16>(row) + column(step));
      }
  }

  const op::Linear& product_;
  Index first_;  ///< channel of the block
  uint4 w_[2][2];
};

/// Where none were packed. Not inlined: it is long, and code that is only skipped is read all the
/// same.
__device__ __noinline__ float decay_apart(float a_log) {
  return decay_of(a_log);
}

/// Spans of one token: a block takes kLanes channels of one. Its warps have the states, and sum
/// them, as in a scan of more tokens.
/// `projects`: they make their step themselves.
template <class T, bool projects>
__global__ void __launch_bounds__(kStepThreads) step(const __grid_constant__ op::SelectiveScan op) {
  __shared__ float sums[kStepParts][kLanes];
  let_next_begin();
  const int lane = threadIdx.x % kLanes, part = threadIdx.x / kLanes;
  const Index channels = op.y.cols, states = op.b.cols;
  const unsigned tiles = static_cast<unsigned>(ceil_div(channels, kLanes));
  const Span span = op.batch.spans[blockIdx.x / tiles];
  const Index e = min(Index{blockIdx.x % tiles} * kLanes + lane, channels - 1);
  const bool exists = Index{blockIdx.x % tiles} * kLanes + lane < channels;
  const bool stateful = exists && !op.state.empty() && span.slot >= 0;
  const bool continues = stateful && span.position > 0;
  float* state = stateful ? op.state.row<float>(span.slot) + e : nullptr;
  float a[kStepStates];
  const auto load_decays = [&](Index first) {
#pragma unroll
    for (int i = 0; i < kStepStates; ++i) {
      const Index n = first + i;
      if (n >= states)
        a[i] = 0;
      else
        a[i] =
            op.decay.empty() ? decay_apart(op.a_log.row<float>(e)[n]) : op.decay.row<float>(n)[e];
    }
  };
  load_decays(part * kStepStates);
  [[maybe_unused]] std::conditional_t<projects, Projection, int> projection = [&] {
    if constexpr (projects)
      return Projection(op.dt_from, Index{blockIdx.x % tiles} * kLanes);
    else
      return 0;
  }();
  const float bias = op.dt_bias.row<float>(0)[e], skip = op.d.row<float>(0)[e];
  if (continues)
#pragma unroll
    for (int i = 0; i < kStepStates; ++i)
      if (part * kStepStates + i < states) prefetch(state + (part * kStepStates + i) * channels);
  wait_for_previous();
  const float u = to_float(op.u.row<T>(span.first)[e]);
  float dt;
  if constexpr (projects)
    dt = projection.get(span.first) + bias;
  else
    dt = to_float(op.dt.row<T>(span.first)[e]) + bias;
  float z = 0;
  if (!op.z.empty()) z = to_float(op.z.row<T>(span.first)[e]);
  float y = 0;
#pragma unroll 1
  for (Index n0 = 0; n0 < states; n0 += kGroup) {
    const Index first = n0 + part * kStepStates;
    if (n0 > 0) load_decays(first);
    float h[kStepStates] = {}, b[kStepStates] = {}, c[kStepStates] = {};
#pragma unroll
    for (int i = 0; i < kStepStates; ++i) {
      const Index n = first + i;
      if (n >= states) continue;
      h[i] = continues ? state[n * channels] : 0;
      b[i] = to_float(op.b.row<T>(span.first)[n]), c[i] = to_float(op.c.row<T>(span.first)[n]);
    }
    const float delta = softplus<T>(dt), input = delta * u;
#pragma unroll
    for (int i = 0; i < kStepStates; ++i) {
      h[i] = fmaf(exp2_of<T>(delta * a[i]), h[i], input * b[i]);
      if (stateful && first + i < states) state[(first + i) * channels] = h[i];
    }
    sums[part][lane] = fmaf(h[1], c[1], h[0] * c[0]) + fmaf(h[3], c[3], h[2] * c[2]);
    __syncthreads();
    y = (sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane]) + y;
    __syncthreads();
  }
  if (part > 0 || !exists) return;
  y = fmaf(skip, u, y);
  if (!op.z.empty()) y *= z * sigmoid_of<T>(z);
  op.y.row<T>(span.first)[e] = from_float<T>(y);
}

/// Whether step() makes the steps itself. More sequences would read their weights too often.
bool projects_itself(const op::SelectiveScan& op) {
  constexpr Index kMostSpans = 16;
  const op::Linear& p = op.dt_from;
  return !p.w.empty() && op.batch.count <= kMostSpans && p.dtype() == DType::bf16 &&
         p.y.dtype == DType::bf16 && aligned(8, p.x, p.w) && warps_for(p.w) == kStepParts &&
         p.bias.empty() && p.norm.empty() && p.rope.x.empty() && p.conv.x.empty() && !p.gated &&
         !p.add;
}

__global__ void pack_decay(const op::PackDecay op) {
  const Index i = Index{blockIdx.x} * kStepThreads + threadIdx.x;
  const Index n = i / op.decay.cols, e = i % op.decay.cols;
  if (n < op.decay.rows) op.decay.row<float>(n)[e] = decay_of(op.a_log.row<float>(e)[n]);
}

template <class T, class S, bool whole>
void scan_all(CudaStream& stream, const op::SelectiveScan& op) {
  const Index states = op.b.cols, channels = op.y.cols;
  const auto blocks = static_cast<unsigned>(op.batch.count * ceil_div(channels, S::tile));
  const Matrix sums = states > kGroup ? Matrix(stream, DType::f32, op.y.rows, channels) : Matrix();
  for_groups(states, [&](States group, bool first, bool last) {
    const Job job{group, first ? ConstView() : ConstView(sums), last ? View() : sums.view()};
    launch(stream, scan<T, S, whole>, blocks, 2 * S::threads, sizeof(Shared<S>), op, job);
  });
}

}  // namespace

void run_on(CudaStream& stream, const op::PackDecay& op) {
  const auto blocks = ceil_div(op.decay.rows * op.decay.cols, Index{kStepThreads});
  launch(stream, pack_decay, static_cast<unsigned>(blocks), kStepThreads, 0, op);
}

void run_on(CudaStream& stream, const op::SelectiveScan& call) {
  op::SelectiveScan op = call;
  const Index count = op.batch.count, channels = op.y.cols;
  if (count == 0 || channels == 0) return;
  expect_narrow(op.kName, op.y, op.u, op.dt, op.z, op.b, op.c, op.state, op.h);
  op.batch.spans = stream.resident(std::span(op.batch.spans, static_cast<std::size_t>(count)));
  const bool steps = op.batch.longest == 1 && op.h.empty();
  const auto step_blocks = static_cast<unsigned>(count * ceil_div(channels, Index{kLanes}));
  if (op.dt_from.packed)
    op.dt_from.w = {op.dt_from.w.data, channels, op.dt_from.x.cols, op.dt_from.x.cols,
                    op.dt_from.w.dtype};
  if (steps && projects_itself(op))
    return launch_early(stream, step<Bf16, true>, step_blocks, kStepThreads, 0, op);
  if (!call.dt_from.w.empty()) run_on(stream, call.dt_from);
  visit_float(op.dtype(), [&]<class T>() {
    if (steps) return launch_early(stream, step<T, false>, step_blocks, kStepThreads, 0, op);
    // All of these give the same bits.
    const auto whole = [&](int run) { return aligned(run, op.y, op.u, op.dt, op.z); };
    const bool many = 2 * count * ceil_div(channels, Many::tile) >= 3 * stream.multiprocessors();
    if (many && whole(Many::run) && aligned(Many::wide, op.state, op.h))
      scan_all<T, Many, true>(stream, op);
    else if (whole(Few::run))
      scan_all<T, Few, true>(stream, op);
    else
      scan_all<T, Few, false>(stream, op);
  });
}

}  // namespace samba
