#include "kernels/cuda/selective_scan_parts.cuh"
#include "kernels/selective_scan.h"

// Gradients go back in time and need the states, of which forward has left that before each chunk.
// States cannot be run backwards, and keeping all of a chunk's takes more room than there is: they
// are found again in up to three steps, from the chunk's start to that of each piece (where a chunk
// is more than one), from there to that of each stretch, and the decays and states of a stretch
// stay in registers.

namespace samba {
namespace {

constexpr int kStretch = 4;        // tokens
constexpr int kFour = 4;           // warps that add products, and that finish a token each
constexpr Index kMostRanges = 64;  // of spans, each of which leaves its share of the parameters'
constexpr int kAddThreads = 128;   // of a block that adds shares
constexpr float kLn2 = 0.693147180559945309417f;

/// Rows of a range's share in the gradients of parameters: of a_log, one for each state of a group,
/// then of dt_bias and d.
constexpr int kParameterRows = kGroup + 2;

/// The states of a thread at one time, in memory where each thread has its own: in units that all
/// threads read at once.
template <class S>
struct Kept {
  static constexpr int kAll = S::states * S::wide, kUnit = kAll < 4 ? kAll : 4;
  Pack<kUnit> units[kAll / kUnit][S::threads];

  __device__ void keep(const float (&h)[S::states][S::wide]) {
#pragma unroll
    for (int q = 0; q < kAll / kUnit; ++q) {
      Pack<kUnit> unit;
#pragma unroll
      for (int i = 0; i < kUnit; ++i)
        unit[i] = h[(q * kUnit + i) / S::wide][(q * kUnit + i) % S::wide];
      units[q][threadIdx.x] = unit;
    }
  }
  __device__ void bring_back(float (&h)[S::states][S::wide]) const {
#pragma unroll
    for (int q = 0; q < kAll / kUnit; ++q) {
      const Pack<kUnit> unit = units[q][threadIdx.x];
#pragma unroll
      for (int i = 0; i < kUnit; ++i)
        h[(q * kUnit + i) / S::wide][(q * kUnit + i) % S::wide] = unit[i];
    }
  }
};

/// Columns of products that a warp has of a token: db of its states, then dc.
template <class S>
constexpr int kColumns = 2 * S::states / 4;

template <class S>
struct Shared {
  Steps<S> steps;
  Sums<S, S::piece> dsum;  ///< gradient of h c + d u
  Sums<S, S::piece> gate;  ///< dy d silu(z) / dz
  Sums<S, S::piece> u;
  SharedRows<S> rows;
  Pack<4> bias[S::tile / 4], d[S::tile / 4];
  Kept<S> stretches[S::piece / kStretch];  ///< before each
  /// Each warp's sums over its states, of a stretch.
  Pack<S::wide> y[S::parts][kStretch][kLanes];
  Pack<2 * S::wide> slopes[S::parts][kStretch][kLanes];  ///< of delta u; of the decays' exponents
  /// Each warp's products whose sums over channels are db and dc of its states, of a stretch, four
  /// in a column; padded for lanes that read one column each.
  Pack<4> products[kColumns<S> * kStretch * S::parts][kLanes + 1];
  Pack<2 * S::wide> shares[kStretch][kLanes];  ///< in the gradients of dt_bias and d, by finisher
};

/// Where the sums of a group of states lie: h c, then the gradients of delta u and of the decays'
/// exponents; [N, 3 E].
struct GroupSums {
  ConstView before;
  View after;
};

/// What a block leaves for others.
struct Shares {
  View pieces;      ///< [blocks, ...], the states before each piece of a chunk but the first
  View rows;        ///< [tiles * N, 2 kGroup], what each tile adds to db and dc
  View parameters;  ///< [ranges, kParameterRows * E]
};

template <class T, class S, bool whole>
class Backward {
 public:
  using Hs = float[S::states][S::wide];
  static constexpr int kFinishers = S::parts - kFour;  ///< the first of them
  static_assert(kFour == kStretch);

  __device__ Backward(const op::SelectiveScanBackward& call, const States& group,
                      const GroupSums& both, const Shares& all, Shared<S>& memory,
                      int tile_of_block)
      : op(call), sums(both), shares(all), states(group), s(memory), tile(tile_of_block) {
    place().load_decay(a, op.a_log, {});
    load_parameters<S>(s.bias, op.dt_bias, tile);
    load_parameters<S>(s.d, op.d, tile);
    if (part < kStretch) s.shares[part][lane] = {};
    __syncthreads();
  }

  __device__ void span(const Span& span, Index index) {
    clear(dh);
    const int first = static_cast<int>(span.first), length = static_cast<int>(span.length);
    const int tokens = static_cast<int>(op.chunk), last = (length - 1) / tokens;
    const float* start = op.h.row<float>(op::SelectiveScan::chunk_row(span, index, tokens) + last);
    for (int t = last * tokens; t >= 0; t -= tokens, start -= op.h.stride)
      chunk(first + t, min(length - t, tokens), start);
  }

  /// Leaves what the block's spans add to the gradients of parameters.
  __device__ void leave(float* to) {
#pragma unroll
    for (int i = 0; i < S::states; ++i)
#pragma unroll
      for (int k = 0; k < S::wide; ++k) da[i][k] *= a[i][k] * kLn2;
    Place<S> here = place();
    here.n = part * S::states;
    here.store(to, da);
    __syncthreads();
    if (part > 0 || here.e >= here.channels) return;
#pragma unroll
    for (int k = 0; k < 2 * S::wide; ++k) {
      float sum = 0;
#pragma unroll
      for (int p = 0; p < kStretch; ++p) sum += s.shares[p][lane][k];
      to[(kGroup + k / S::wide) * here.channels + here.e + k % S::wide] = sum;
    }
  }

 private:
  /// Where the thread stands is found anew where it matters: registers are scarce.
  __device__ Place<S> place() const { return Place<S>(op.dy.cols, tile, states); }
  __device__ int channel() const { return tile * S::tile + lane * S::wide; }

  __device__ static void clear(Hs& x) {
#pragma unroll
    for (int i = 0; i < S::states; ++i)
#pragma unroll
      for (int k = 0; k < S::wide; ++k) x[i][k] = 0;
  }
  __device__ static void copy(Hs& to, const Hs& from) {
#pragma unroll
    for (int i = 0; i < S::states; ++i)
#pragma unroll
      for (int k = 0; k < S::wide; ++k) to[i][k] = from[i][k];
  }

  /// What a thread reads of token t on the way back.
  struct Back {
    Step<S> step;
    Pack<S::wide> dsum;
    Pack<S::states> b, c;
  };
  __device__ Back back(int t) {
    return {s.steps.get(t, step_place), s.dsum.of_lane(t, sum_place), s.rows.b(t, part),
            s.rows.c(t, part)};
  }

  /// Brings `length` tokens from row `first` on to shared memory, those beyond as tokens that
  /// change nothing; the gradients of their sums, too, if `full`.
  template <bool full>
  __device__ void prepare(int first, int length) {
    const Run<S> run(op.dy.cols, tile, threadIdx.x);
    const RowLoader<T, S> loader(op.b, op.c, states, threadIdx.x);
    const int row = first + run.t, left = run.t < length ? run.left : 0;
    Raw<T, S::run> dt, u, z, dy;
    typename RowLoader<T, S>::Values row_values;
    // Minus infinity is a step of 0, which changes nothing.
    dt.template load<whole>(at<T>(op.dt, row, run.e), left, dt.kLowest);
    u.template load<whole>(at<T>(op.u, row, run.e), left);
    if (full) {
      dy.template load<whole>(at<T>(op.dy, row, run.e), left);
      if (!op.z.empty()) z.template load<whole>(at<T>(op.z, row, run.e), left);
    }
    loader.load(row_values, first, length);
    __syncthreads();  // all have done with what shared memory held
    loader.store(s.rows, row_values);
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
    s.steps.put(run, delta, input);
    if (full)
#pragma unroll
      for (int q = 0; q < S::run / 4; ++q) {
        Pack<4> dsum, gate, inputs;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int k = q * 4 + i;
          const float sigmoid = sigmoid_of<T>(z[k]);
          dsum[i] = op.z.empty() ? dy[k] : dy[k] * (z[k] * sigmoid);
          gate[i] = dy[k] * silu_slope_of(z[k], sigmoid);
          inputs[i] = u[k];
        }
        s.dsum.of_run(run.t, run.j, q) = dsum;
        s.gate.of_run(run.t, run.j, q) = gate;
        s.u.of_run(run.t, run.j, q) = inputs;
      }
    __syncthreads();
  }

  /// Moves h along tokens of the piece.
  template <int count>
  __device__ void replay(Hs& h, int first) {
#pragma unroll
    for (int t = 0; t < count; ++t) {
      const Step<S> step = s.steps.get(first + t, step_place);
      Hs decays;
      find_decays<T, S>(decays, a, step);
      advance<S>(h, decays, step, s.rows.b(first + t, part));
    }
  }

  __device__ void chunk(int first, int length, const float* start) {
    const int pieces = ceil_div(length, S::piece);
    Kept<S>* between = reinterpret_cast<Kept<S>*>(shares.pieces.row<float>(blockIdx.x));
    Hs h;
    if (pieces > 1) place().load(h, start);
    for (int p = 0; p + 1 < pieces; ++p) {
      prepare<false>(first + p * S::piece, S::piece);
#pragma unroll
      for (int t = 0; t < S::piece; t += kStretch) replay<kStretch>(h, t);
      between[p].keep(h);
    }
    for (int p = pieces - 1; p >= 0; --p) {
      if (p > 0)
        between[p - 1].bring_back(h);
      else
        place().load(h, start);
      piece(first + p * S::piece, min(S::piece, length - p * S::piece), h);
    }
  }

  /// h is the state before the piece.
  __device__ void piece(int first, int length, Hs& h) {
    prepare<true>(first, length);
    const int count = ceil_div(length, kStretch);
    s.stretches[0].keep(h);
    for (int k = 1; k < count; ++k) {
      replay<kStretch>(h, (k - 1) * kStretch);
      s.stretches[k].keep(h);
    }
    for (int k = count - 1; k >= 0; --k)
      stretch(first + k * kStretch, k * kStretch, length - k * kStretch, k == count - 1);
  }

  /// Tokens t0 .. t0 + kStretch - 1 of the piece, of which `length` exist, the first in row
  /// `first`. `first_of_piece`: it is the one that is gone back along first.
  __device__ void stretch(int first, int t0, int length, bool first_of_piece) {
    const Kept<S>& start = s.stretches[t0 / kStretch];
    const int mine = part - kFinishers;  // the token to finish
    // Reads may not overtake writes to shared memory: sums of h c leave together, and those of a
    // token on the way back when the next one's shares are read.
    Hs decays[kStretch], after[kStretch];
    Pack<S::wide> y[kStretch];
#pragma unroll
    for (int t = 0; t < kStretch; ++t) {
      const Step<S> step = s.steps.get(t0 + t, step_place);
      find_decays<T, S>(decays[t], a, step);
      if (t == 0)
        start.bring_back(after[0]);
      else
        copy(after[t], after[t > 0 ? t - 1 : 0]);
      advance<S>(after[t], decays[t], step, s.rows.b(t0 + t, part));
      y[t] = sum_of<S>(after[t], s.rows.c(t0 + t, part));
    }
    if (!first_of_piece) __syncthreads();  // all have finished the stretch before
#pragma unroll
    for (int t = 0; t < kStretch; ++t) s.y[part][t][lane] = y[t];
    Hs origin;
    Back now = back(t0 + kStretch - 1);
#pragma unroll
    for (int t = kStretch - 1; t >= 0; --t) {
      const Back next = back(t0 + (t > 0 ? t - 1 : 0));
      if (t == 1) start.bring_back(origin);
      const Step<S>& step = now.step;
      const Hs& before = t > 0 ? after[t > 0 ? t - 1 : 0] : origin;
      float products[2 * S::states];
      Pack<2 * S::wide> slopes;
#pragma unroll
      for (int i = 0; i < S::states; ++i)
#pragma unroll
        for (int k = 0; k < S::wide; ++k) {
          float &db = products[i], &dc = products[S::states + i];
          float &dinput = slopes[k], &ddecay = slopes[S::wide + k];
          const float total = fmaf(now.dsum[k], now.c[i], dh[i][k]);
          db = k == 0 ? total * step.input[k] : fmaf(total, step.input[k], db);
          dc = k == 0 ? now.dsum[k] * after[t][i][k] : fmaf(now.dsum[k], after[t][i][k], dc);
          dinput = i == 0 ? total * now.b[i] : fmaf(total, now.b[i], dinput);
          dh[i][k] = total * decays[t][i][k];
          const float dexponent = dh[i][k] * before[i][k];
          ddecay = i == 0 ? dexponent * a[i][k] : fmaf(dexponent, a[i][k], ddecay);
          da[i][k] = fmaf(dexponent, step.delta[k], da[i][k]);
        }
      s.slopes[part][t][lane] = slopes;
#pragma unroll
      for (int q = 0; q < kColumns<S>; ++q) {
        Pack<4> column;
#pragma unroll
        for (int i = 0; i < 4; ++i) column[i] = products[q * 4 + i];
        s.products[(part * kStretch + t) * kColumns<S> + q][lane] = column;
      }
      now = next;
    }
    __syncthreads();
    if (part < kFour) add_products(first, length);
    const int left = static_cast<int>(op.dy.cols) - channel();
    if (mine >= 0 && mine < length && left > 0) finish(first + mine, t0 + mine, left);
  }

  /// The sums of all products over the block's channels go to their rows. A lane adds a quarter of
  /// a column.
  __device__ void add_products(int first, int length) {
    constexpr int columns = kColumns<S> * kStretch * S::parts / kFour;
    static_assert(columns == 8, "of a warp, so that the lanes that read at once read all banks");
    constexpr int quarter = kLanes / (kLanes / columns);
    const int column = part * columns + lane % columns, begin = lane / columns * quarter;
    Pack<4> sum = s.products[column][begin];
#pragma unroll
    for (int j = 1; j < quarter; ++j) {
      const Pack<4> more = s.products[column][begin + j];
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] += more[i];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 8);
      sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 16);
    }
    const int t = column / kColumns<S> % kStretch;
    const int place = column / (kColumns<S> * kStretch) * kColumns<S> + column % kColumns<S>;
    if (lane < columns && t < length) {
      const int row = tile * static_cast<int>(op.dy.rows) + first + t;
      *reinterpret_cast<Pack<4>*>(at<float>(shares.rows, row, 4 * place)) = sum;
    }
  }

  __device__ void finish(int row, int t, int left) {
    const int token = t % kStretch, e = channel();
    Pack<S::wide> y_of[S::parts];
    Pack<2 * S::wide> slopes_of[S::parts];
#pragma unroll
    for (int p = 0; p < S::parts; ++p)
      y_of[p] = s.y[p][token][lane], slopes_of[p] = s.slopes[p][token][lane];
    float y[S::wide], dinput[S::wide], ddecay[S::wide];
    const auto of_all = [](const auto& of_parts, int k) {
      float values[S::parts];
#pragma unroll
      for (int p = 0; p < S::parts; ++p) values[p] = of_parts[p][k];
      return sum_of_parts(values);
    };
#pragma unroll
    for (int k = 0; k < S::wide; ++k) {
      y[k] = of_all(y_of, k);
      dinput[k] = of_all(slopes_of, k), ddecay[k] = of_all(slopes_of, S::wide + k);
    }
    if (!sums.before.empty())
#pragma unroll
      for (int k = 0; k < S::wide; ++k) {
        if (k >= left) continue;
        const float* more = at<float>(sums.before, row, e + k);
        y[k] += more[0], dinput[k] += more[op.dy.cols], ddecay[k] += more[2 * op.dy.cols];
      }
    if (!sums.after.empty()) {
#pragma unroll
      for (int k = 0; k < S::wide; ++k) {
        if (k >= left) continue;
        float* to = at<float>(sums.after, row, e + k);
        to[0] = y[k], to[op.dy.cols] = dinput[k], to[2 * op.dy.cols] = ddecay[k];
      }
      return;
    }
    const Step<S> step = s.steps.get(t, step_place);
    const Pack<S::wide> dsum = s.dsum.of_lane(t, sum_place);
    Pack<2 * S::wide> share = s.shares[token][lane];
    const Pack<S::wide> d =
        *reinterpret_cast<const Pack<S::wide>*>(&s.d[0].values[0] + lane * S::wide);
    const Pack<S::wide> gate = s.gate.of_lane(t, sum_place), u = s.u.of_lane(t, sum_place);
    float du[S::wide], ddt[S::wide], dz[S::wide];
#pragma unroll
    for (int k = 0; k < S::wide; ++k) {
      du[k] = fmaf(d[k], dsum[k], step.delta[k] * dinput[k]);
      ddt[k] = fmaf(ddecay[k], kLn2, u[k] * dinput[k]) * softplus_slope<T>(step.delta[k]);
      share[k] += ddt[k];
      share[S::wide + k] = fmaf(dsum[k], u[k], share[S::wide + k]);
      dz[k] = fmaf(d[k], u[k], y[k]) * gate[k];
    }
    s.shares[token][lane] = share;
    store_run<whole>(at<T>(op.du, row, e), du, left);
    store_run<whole>(at<T>(op.ddt, row, e), ddt, left);
    if (!op.z.empty()) store_run<whole>(at<T>(op.dz, row, e), dz, left);
  }

  const op::SelectiveScanBackward& op;
  const GroupSums& sums;
  const Shares& shares;
  const States& states;
  Shared<S>& s;
  const int lane = threadIdx.x % kLanes, part = threadIdx.x / kLanes;
  const int step_place = Steps<S>::place(lane), sum_place = Sums<S, 1>::place(lane);
  const int tile;
  Hs a, dh, da = {};
};

/// A block moves one tile of channels back along the spans of one range, one after the other.
template <class T, class S, bool whole>
__global__ void __launch_bounds__(S::threads, S::blocks)
    scan_backward(const op::SelectiveScanBackward op, const States states, const GroupSums sums,
                  const Shares shares) {
  extern __shared__ __align__(16) std::byte memory[];
  const int tiles = static_cast<int>(ceil_div(op.dy.cols, S::tile));
  const Index range = static_cast<int>(blockIdx.x) / tiles, ranges = shares.parameters.rows;
  Backward<T, S, whole> backward(op, states, sums, shares, *reinterpret_cast<Shared<S>*>(memory),
                                 static_cast<int>(blockIdx.x) % tiles);
  const Index last = op.batch.count * (range + 1) / ranges;
  for (Index i = op.batch.count * range / ranges; i < last; ++i)
    backward.span(op.batch.spans[i], i);
  backward.leave(shares.parameters.row<float>(range));
}

/// db and dc from what the tiles have left, a thread for what one warp has of a token.
template <class T, class S>
__global__ void add_rows(const op::SelectiveScanBackward op, const States states, const View rows) {
  const Index i = Index{blockIdx.x} * kAddThreads + threadIdx.x;
  const Index row = i / S::parts, tokens = op.dy.rows;
  if (row >= tokens) return;
  const int part = static_cast<int>(i % S::parts);
  using Values = Pack<2 * S::states>;
  Values sum{};
#pragma unroll 8
  for (Index share = row; share < rows.rows; share += tokens) {
    const Values more = reinterpret_cast<const Values*>(rows.row<float>(share))[part];
#pragma unroll
    for (int k = 0; k < 2 * S::states; ++k) sum[k] += more[k];
  }
#pragma unroll
  for (int k = 0; k < S::states; ++k) {
    const int n = part * S::states + k;
    if (n >= states.count) continue;
    op.db.row<T>(row)[states.n0 + n] = from_float<T>(sum[k]);
    op.dc.row<T>(row)[states.n0 + n] = from_float<T>(sum[S::states + k]);
  }
}

/// Adds what the ranges have left to the gradients of parameters.
__global__ void add_parameters(const op::SelectiveScanBackward op, const States states,
                               const View parameters) {
  const Index i = Index{blockIdx.x} * kAddThreads + threadIdx.x, channels = op.dy.cols;
  const Index row = i / channels, e = i % channels;
  if (row >= kParameterRows || (row >= states.count && row < kGroup)) return;
  float sum = 0;
#pragma unroll 8
  for (Index range = 0; range < parameters.rows; ++range) sum += parameters.row<float>(range)[i];
  if (row < kGroup)
    op.da_log.row<float>(e)[states.n0 + row] += sum;
  else
    (row == kGroup ? op.ddt_bias : op.dd).row<float>(0)[e] += sum;
}

template <class T, class S, bool whole>
void backward_all(CudaStream& stream, const op::SelectiveScanBackward& op) {
  const Index channels = op.dy.cols, tokens = op.dy.rows, states = op.a_log.cols;
  const Index tiles = ceil_div(channels, Index{S::tile});
  const Index ranges = op.batch.count < kMostRanges ? op.batch.count : kMostRanges;
  const Index pieces = ceil_div(op.chunk, Index{S::piece}) - 1;
  const Index kept = pieces * Index{sizeof(Kept<S>) / sizeof(float)};
  const Matrix between = pieces > 0 ? Matrix(stream, DType::f32, tiles * ranges, kept) : Matrix();
  const Matrix rows(stream, DType::f32, tiles * tokens, 2 * kGroup);
  expect_narrow(op.kName, rows);
  const Matrix parameters(stream, DType::f32, ranges, kParameterRows * channels);
  const Matrix sums = states > kGroup ? Matrix(stream, DType::f32, tokens, 3 * channels) : Matrix();
  const auto blocks = [](Index threads) {
    return static_cast<unsigned>(ceil_div(threads, Index{kAddThreads}));
  };
  for_groups(states, [&](States group, bool first, bool last) {
    const GroupSums both{first ? ConstView() : ConstView(sums), last ? View() : sums.view()};
    launch(stream, scan_backward<T, S, whole>, static_cast<unsigned>(tiles * ranges), S::threads,
           sizeof(Shared<S>), op, group, both, Shares{between, rows, parameters});
    launch(stream, add_rows<T, S>, blocks(tokens * S::parts), kAddThreads, 0, op, group,
           rows.view());
    launch(stream, add_parameters, blocks(kParameterRows * channels), kAddThreads, 0, op, group,
           parameters.view());
  });
}

}  // namespace

void run_on(CudaStream& stream, const op::SelectiveScanBackward& call) {
  op::SelectiveScanBackward op = call;
  const Index count = op.batch.count;
  if (count == 0) return;
  expect_narrow(op.kName, op.dy, op.u, op.dt, op.z, op.b, op.c, op.h, op.du, op.ddt, op.dz);
  op.batch.spans = stream.resident(std::span(op.batch.spans, static_cast<std::size_t>(count)));
  visit_float(op.dtype(), [&]<class T>() {
    // The tiles' width decides in what order db and dc are summed: the number of spans may not.
    using Wide = Shape<2, 4, 16>;
    if (aligned(Wide::run, op.du, op.ddt, op.dz, op.dy, op.u, op.dt, op.z) &&
        aligned(Wide::wide, op.h))
      backward_all<T, Wide, true>(stream, op);
    else
      backward_all<T, Shape<1, 2, 32>, false>(stream, op);
  });
}

}  // namespace samba
