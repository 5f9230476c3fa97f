#include <algorithm>
#include <cstdint>

#include "kernels/cuda/gated_product.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/vector.cuh"

// Gated products of bf16 matrices on Hopper, sums in f32: what op::SwiGlu makes of two products,
// and backward what op::SwiGluBackward makes of one, without a way through memory.
//
// A block makes tiles of 128 x 256, 64 of the depth at a time: one thread copies blocks of both
// factors into a ring of stages, two warpgroups own 64 rows each and multiply. The blocks of a
// cluster make tiles one below the other; each copies its share of the right factor to all of them.
// An owner rounds the sums of its rows into shared memory and begins the next tile at once. Other
// warps make of them, meanwhile, what is asked for: their reads and writes of global memory lie in
// the shadow of the multiplication.
//
// There are as many blocks as multiprocessors, all at the same time, and each makes one tile after
// the other. Where the tiles do not come out even, those of the last round are cut into parts along
// the depth: the workers of the earlier parts leave their sums in scratch memory, the worker of the
// last one adds them in the order of parts. How they are cut follows from the shape alone.
namespace samba::gated_product {
namespace {

constexpr int kCluster = 2;
constexpr int kOwnRows = 64;    ///< of a tile that a warpgroup owns
constexpr int kOwners = 2;      ///< warpgroups that multiply
constexpr int kTileRows = 128;  ///< of a block
constexpr int kTileColumns = 256;
constexpr int kDepth = 64;  ///< at a time
constexpr int kStages = 3;
/// Owners, and a warpgroup of which one warp copies and the others finish.
constexpr int kThreads = (kOwners + 1) * 128;
constexpr int kLeft = kTileRows * kDepth * 2;  ///< bytes of a stage
constexpr int kRight = kTileColumns * kDepth * 2;
constexpr int kRounded = kOwnRows * kTileColumns * 2;  ///< bytes of an owner's sums as bf16
constexpr int kPart = kOwnRows * kTileColumns;  ///< floats that a warpgroup leaves in scratch

/// How many columns of a tile lie side by side in the result: forward those of gates and of ups
/// that belong to them are made together.
template <bool backward>
constexpr int kColumns = backward ? kTileColumns : kTileColumns / 2;

/// Tiles of one product, of a whole cluster each, and how they are cut.
struct Tiles {
  int rows;        ///< of tiles
  int cols;        ///< of tiles
  int steps;       ///< of kDepth
  int whole;       ///< tiles that are not cut
  int parts;       ///< that each of the others is cut into
  int part_steps;  ///< of a part but the last, which may have fewer

  __host__ __device__ int cut() const { return rows * cols - whole; }
  __host__ __device__ int units() const { return whole + cut() * parts; }
};

struct Job {
  CUtensorMap a;
  CUtensorMap b[2];  ///< of the left and the right half of a tile's columns
  View product;  ///< gates beside ups; forward left out if not wanted, backward they become their
                 ///< gradients
  View hidden;
  Tiles tiles;
  float* parts;  ///< [parts - 1, cut tiles, kCluster, owners] of kPart sums
  int* done;     ///< [parts - 1, cut tiles, kCluster, owners]: whether they are there
};

struct Shared {
  unsigned char left[kStages][kLeft];
  unsigned char right[kStages][kRight];
  unsigned char rounded[kOwners][kRounded];  ///< sums on their way to who finishes them
  std::uint64_t full[kStages], empty[kStages];
  std::uint64_t ready[kOwners], taken[kOwners];  ///< rounded sums
};

#if SAMBA_SM90A

using namespace hopper;

/// Of a thread: 168 for each of three warpgroups are there. A fourth would leave them 128 at the
/// launch, and the compiler takes no wgmma with so many accumulators then, whatever setmaxnreg
/// says.
constexpr int kOwnerRegisters = 192, kOtherRegisters = 120;
constexpr int kFinishers = 3;  ///< warps

/// A tile, or a part of it.
struct Unit {
  int row, col;    ///< of the tile among tiles
  int begin, end;  ///< steps
  int part;        ///< of the tile; the last one finishes it
  int cut;         ///< number among the tiles that are cut
};

/// Rows of tiles that are made side by side: what runs at the same time is about as high as wide.
constexpr int kHigh = 8;

/// Tiles that run at the same time share most of what they read.
__device__ inline Unit unit_of(const Tiles& tiles, int number) {
  int tile = number;
  Unit unit{.begin = 0, .end = tiles.steps, .part = tiles.parts - 1, .cut = 0};
  if (number >= tiles.whole) {
    const int cut = tiles.cut();
    unit.part = (number - tiles.whole) / cut;
    unit.cut = (number - tiles.whole) % cut;
    unit.begin = unit.part * tiles.part_steps;
    unit.end = min(unit.begin + tiles.part_steps, tiles.steps);
    tile = tiles.whole + unit.cut;
  }
  const int first = tile / (kHigh * tiles.cols) * kHigh;
  const int high = min(kHigh, tiles.rows - first);
  const int place = tile - first * tiles.cols;
  unit.row = first + place % high;
  unit.col = place / high;
  return unit;
}

/// Calls f(unit) for all that this cluster makes.
template <class F>
__device__ inline void each_unit(const Tiles& tiles, const F& f) {
  for (int n = blockIdx.x / kCluster; n < tiles.units(); n += gridDim.x / kCluster)
    f(unit_of(tiles, n));
}

/// The block's number in its cluster.
__device__ inline int rank() {
  return static_cast<int>(blockIdx.x % kCluster);
}

/// The first row of this block's tile.
__device__ inline int row_of(const Unit& unit) {
  return (unit.row * kCluster + rank()) * kTileRows;
}

/// A thread's number in its warpgroup, and in its warp.
__device__ inline int thread() {
  return static_cast<int>(threadIdx.x) % 128;
}
__device__ inline int lane() {
  return static_cast<int>(threadIdx.x) % 32;
}

/// 8 columns of bf16, two in a word.
struct alignas(16) Piece {
  std::uint32_t pairs[4];
};

/// Where columns 8 i .. 8 i + 7 of a row of an owner's rounded sums lie: so that neither eight
/// pieces of a row nor the same piece of eight rows meet in a bank.
__device__ inline Piece* piece_of(unsigned char* rounded, int row, int i) {
  return reinterpret_cast<Piece*>(rounded + row * kTileColumns * 2) + (i ^ row % 8);
}

// ---- the thread that copies ------------------------------------------------------------------

template <bool backward>
__device__ inline void copy_factors(Shared& shared, const Job& job) {
  constexpr int kBoxes = kTileColumns / 2 / 64;  // of a half of the right factor, where across
  Ring<kStages> ring;
  each_unit(job.tiles, [&](const Unit& unit) {
    const int row = row_of(unit);
    const int col = unit.col * kColumns<backward>;
    for (int step = unit.begin; step < unit.end; ++step) {
      const int depth = step * kDepth;
      barrier_wait(&shared.empty[ring.at], ring.parity ^ 1);
      std::uint64_t* full = &shared.full[ring.at];
      barrier_expect(full, kLeft + kRight);
      unsigned char* left = shared.left[ring.at];
      tensor_load(left, job.a, full, depth, row);
      // Each block of the cluster copies a half of the right factor to both.
      const int half = rank();
      const auto load = [&](unsigned char* to, int across, int down) {
        tensor_load_to_all(to, job.b[half], full, across, down, (1 << kCluster) - 1);
      };
      unsigned char* right = shared.right[ring.at] + half * kRight / 2;
      if constexpr (backward)
        for (int i = 0; i < kBoxes; ++i)
          load(right + i * kRight / 2 / kBoxes, col + half * kTileColumns / 2 + i * 64, depth);
      else
        load(right, depth, col);
      ring.advance();
    }
  });
}

// ---- the warpgroups that multiply ------------------------------------------------------------

__device__ inline int load_acquire(const int* from) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
/// Whoever acquires the value also sees what other threads had written before they arrived at a
/// barrier that this thread has waited for.
__device__ inline void store_release(int* to, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

template <bool backward>
struct Owner {
  Shared& shared;
  const Job& job;
  int index;  ///< of the warpgroup
  Ring<kStages> ring;
  int parity = 1;  ///< of the end of the phase in which the rounded sums before were taken

  __device__ static bool leads() { return thread() == 0; }
  __device__ void meet() const { named_barrier_wait(1 + index, 128); }

  /// A stage is free for those who copy into it when all warps that read it have arrived.
  __device__ void release(int stage) const {
    __syncwarp();
    if (lane() < kCluster) barrier_arrive_at(&shared.empty[stage], lane());
  }

  __device__ void multiply(float (&d)[kTileColumns / 2], const Unit& unit) {
    constexpr int kBlock = 64 * kDepth * 2;
    const std::uint64_t left = describe_k_major(shared.left[0] + index * kBlock);
    const std::uint64_t right =
        backward ? describe_mn_major(shared.right[0], kBlock) : describe_k_major(shared.right[0]);
    int before = 0;
    for (int step = unit.begin; step < unit.end; ++step) {
      const int stage = ring.at;
      barrier_wait(&shared.full[stage], ring.parity);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kDepth / 16; ++i)
        wgmma<0, backward>(
            d, left + (stage * kLeft >> 4) + k_major_step(i),
            right + (stage * kRight >> 4) + (backward ? mn_major_step(i) : k_major_step(i)),
            step > unit.begin || i > 0);
      wgmma_commit();
      // The batch before is done; this one goes on while the next is issued.
      wgmma_wait<1>();
      if (step > unit.begin) release(before);
      before = stage;
      ring.advance();
    }
    wgmma_wait<0>();
    hold(d);
    release(before);
  }

  // -- parts of sums --

  __device__ std::int64_t place_of_part(const Unit& unit, int part) const {
    return ((std::int64_t{part} * job.tiles.cut() + unit.cut) * kCluster + rank()) * kOwners +
           index;
  }
  __device__ void leave(const float (&d)[kTileColumns / 2], const Unit& unit) const {
    const std::int64_t place = place_of_part(unit, unit.part);
    auto* to = reinterpret_cast<float4*>(job.parts + place * kPart) + thread();
#pragma unroll
    for (int i = 0; i < kTileColumns / 8; ++i)
      to[i * 128] = make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]);
    meet();
    if (leads()) store_release(job.done + place, 1);
  }
  /// Adds the sums of the earlier parts to d, in their order.
  __device__ void gather(float (&d)[kTileColumns / 2], const Unit& unit) const {
    for (int part = 0; part < unit.part; ++part) {
      const std::int64_t place = place_of_part(unit, part);
      if (leads())
        while (load_acquire(job.done + place) == 0) {
        }
      meet();
      const auto* from = reinterpret_cast<const float4*>(job.parts + place * kPart) + thread();
#pragma unroll
      for (int i = 0; i < kTileColumns / 8; ++i) {
        const float4 sum = from[i * 128];
        d[4 * i] += sum.x, d[4 * i + 1] += sum.y, d[4 * i + 2] += sum.z, d[4 * i + 3] += sum.w;
      }
    }
  }

  /// Leaves the sums, rounded, to the warps that finish them. Warp w has rows 16 w and
  /// following.
  __device__ void hand_over(const float (&d)[kTileColumns / 2]) {
    barrier_wait(&shared.taken[index], parity);
    parity ^= 1;
    const int row = thread() / 32 * 16 + lane() % 16;
#pragma unroll
    for (int i = 0; i < kTileColumns / 16; ++i)
      store_blocks(piece_of(shared.rounded[index], row, 2 * i + lane() / 16),
                   {pack_bf16(d[8 * i], d[8 * i + 1]), pack_bf16(d[8 * i + 2], d[8 * i + 3]),
                    pack_bf16(d[8 * i + 4], d[8 * i + 5]), pack_bf16(d[8 * i + 6], d[8 * i + 7])});
    __syncwarp();
    if (lane() == 0) barrier_arrive(&shared.ready[index]);
  }

  __device__ void work() {
    each_unit(job.tiles, [&](const Unit& unit) {
      float d[kTileColumns / 2];
      multiply(d, unit);
      if (unit.part < job.tiles.parts - 1) return leave(d, unit);
      if (unit.part > 0 && unit.begin > 0) gather(d, unit);
      hand_over(d);
    });
  }
};

// ---- the warps that finish -------------------------------------------------------------------

__device__ inline float low_of(std::uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ inline float high_of(std::uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

/// What op::SwiGlu makes of two pairs.
__device__ inline std::uint32_t hidden_of(std::uint32_t gate, std::uint32_t up) {
  return pack_bf16(low_of(up) * silu<Bf16>(low_of(gate)), high_of(up) * silu<Bf16>(high_of(gate)));
}

/// What op::SwiGluBackward makes of one element.
struct Slopes {
  float gate, up, hidden;
};
__device__ inline Slopes slopes_of(float gate, float up, float dy) {
  const float s = sigmoid<Bf16>(gate), silu = gate * s;
  return {dy * up * silu_slope(gate, s), dy * silu, silu * up};
}

/// Reads a piece of global memory if it is there: in one instruction, for where a branch ends the
/// compiler may copy what is on its way, and a copy waits for it.
__device__ inline void load_if(bool there, Piece& to, const Piece& from) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "setp.ne.b32 p, %4, 0;\n"
      "@p ld.global.v4.b32 {%0, %1, %2, %3}, [%5];\n}"
      : "+r"(to.pairs[0]), "+r"(to.pairs[1]), "+r"(to.pairs[2]), "+r"(to.pairs[3])
      : "r"(static_cast<int>(there)), "l"(__cvta_generic_to_global(&from))
      : "memory");
}

template <bool backward>
struct Finisher {
  static constexpr int kAcross = kColumns<backward> / 8;   ///< threads that share a row
  static constexpr int kDown = kFinishers * 32 / kAcross;  ///< rows at a time
  static constexpr int kAhead = backward ? 4 : 2;          ///< of a thread's rows, in registers

  Shared& shared;
  const Job& job;
  int number;      ///< among those that finish
  int parity = 0;  ///< of the end of the phase in which rounded sums get ready

  /// A thread's 8 columns of a tile, of which it has every kDown-th row.
  struct Strip {
    int rows;      ///< of the tile that lie in the result
    Bf16* hidden;  ///< in the first one
    Bf16 *gate = nullptr, *up = nullptr;
  };
  __device__ static Piece& at(Bf16* first, const View& view, int row) {
    return *reinterpret_cast<Piece*>(first + row * view.stride);
  }

  /// Calls f(row, its place among kAhead) for a thread's rows of the tile, when they are ready.
  template <class F>
  __device__ void each_row(const F& f) {
    int owner = 0;
    barrier_wait(&shared.ready[owner], parity);
    const auto walk = [&] {
#pragma unroll 1
      for (int first = number / kAcross;; first += kAhead * kDown)
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          const int row = first + i * kDown;
          if (row >= kTileRows) return;
          // The rows of a warp have one owner.
          if (row >= (owner + 1) * kOwnRows) {
            give_back(owner);
            barrier_wait(&shared.ready[++owner], parity);
          }
          f(row, i);
        }
    };
    walk();
    give_back(owner);
    parity ^= 1;
  }
  __device__ void give_back(int owner) {
    __syncwarp();
    if (lane() == 0) barrier_arrive(&shared.taken[owner]);
  }
  /// A piece of the thread's own columns, or of those behind them by `further`.
  __device__ Piece rounded(int row, int further = 0) const {
    return *piece_of(shared.rounded[row / kOwnRows], row % kOwnRows,
                     (number % kAcross * 8 + further) / 8);
  }

  /// The left half of the tile's columns are gates, the right half the ups that belong to them.
  __device__ void finish_forward(const Strip& strip) {
    each_row([&](int row, int) {
      const Piece gate = rounded(row), up = rounded(row, kTileColumns / 2);
      Piece hidden;
#pragma unroll
      for (int k = 0; k < 4; ++k) hidden.pairs[k] = hidden_of(gate.pairs[k], up.pairs[k]);
      if (row >= strip.rows) return;
      if (strip.gate != nullptr) {
        at(strip.gate, job.product, row) = gate;
        at(strip.up, job.product, row) = up;
      }
      at(strip.hidden, job.hidden, row) = hidden;
    });
  }

  /// Gates and ups are read long before they are needed, and by the thread that overwrites them.
  __device__ void finish_backward(const Strip& strip) {
    Piece gates[kAhead]{}, ups[kAhead]{};
    const auto fetch = [&](int row, int i) {
      load_if(row < strip.rows, gates[i], at(strip.gate, job.product, row));
      load_if(row < strip.rows, ups[i], at(strip.up, job.product, row));
    };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) fetch(number / kAcross + i * kDown, i);
    each_row([&](int row, int i) {
      const Piece dy = rounded(row);
      Piece gate, up, hidden;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const std::uint32_t g = gates[i].pairs[k], u = ups[i].pairs[k], slope = dy.pairs[k];
        const Slopes low = slopes_of(low_of(g), low_of(u), low_of(slope));
        const Slopes high = slopes_of(high_of(g), high_of(u), high_of(slope));
        gate.pairs[k] = pack_bf16(low.gate, high.gate);
        up.pairs[k] = pack_bf16(low.up, high.up);
        hidden.pairs[k] = pack_bf16(low.hidden, high.hidden);
      }
      fetch(row + kAhead * kDown, i);
      if (row >= strip.rows) return;
      at(strip.gate, job.product, row) = gate;
      at(strip.up, job.product, row) = up;
      at(strip.hidden, job.hidden, row) = hidden;
    });
  }

  __device__ void work() {
    each_unit(job.tiles, [&](const Unit& unit) {
      if (unit.part < job.tiles.parts - 1) return;
      const Index row = row_of(unit), col = unit.col * kColumns<backward> + number % kAcross * 8;
      const Index rows = col < job.hidden.cols ? job.hidden.rows - row : 0;
      Strip strip{static_cast<int>(min(rows, Index{kTileRows})), job.hidden.row<Bf16>(row) + col};
      if (!job.product.empty()) {
        strip.gate = job.product.row<Bf16>(row) + col;
        strip.up = strip.gate + job.hidden.cols;
      }
      if constexpr (backward)
        finish_backward(strip);
      else
        finish_forward(strip);
    });
  }
};

#endif  // SAMBA_SM90A

template <bool backward>
__global__ void __launch_bounds__(kThreads, 1)
    make_tiles([[maybe_unused]] const __grid_constant__ Job job) {
#if SAMBA_SM90A
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared*>(memory);
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (threadIdx.x == 0) {
    constexpr int kReaders = kOwners * 4 * kCluster;  // warps
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], kReaders);
    }
    for (int i = 0; i < kOwners; ++i) {
      barrier_init(&shared.ready[i], 4);  // warps of the owner
      barrier_init(&shared.taken[i], kFinishers);
    }
    barrier_init_done();
  }
  __syncthreads();
  // Nobody copies to a block that has not begun, and none ends before its last bytes are there.
  cluster_wait();
  if (warp < kOwners * 4) {
    take_registers<kOwnerRegisters>();
    Owner<backward>{shared, job, warp / 4, {}}.work();
  } else {
    give_registers<kOtherRegisters>();
    constexpr int kCopier = kOwners * 4;
    if (warp > kCopier)
      Finisher<backward>{shared, job, static_cast<int>(threadIdx.x) - (kCopier + 1) * 32}.work();
    else if (lane() == 0)
      copy_factors<backward>(shared, job);
    __syncwarp();
  }
  cluster_wait();
#endif
}

// ---- the host's side -------------------------------------------------------------------------

/// How to cut what is left when every worker has made as many tiles as all of them can: so that the
/// slowest is done soonest. In steps, a unit costs kTurn beside its own, and a part more kMerge to
/// write and to read: 64 KB of sums for each 64 rows beside 48 KB that a step copies.
Tiles cut_tiles(int rows, int cols, int steps, int workers) {
  constexpr int kTurn = 4, kMerge = 4, kMostParts = 16, kFewestSteps = 8;
  Tiles best{rows, cols, steps, rows * cols, 1, steps};
  const int left = rows * cols % workers;
  int cost = left == 0 ? 0 : steps + kTurn;
  for (int parts = 2; left > 0 && parts <= kMostParts && parts * kFewestSteps <= steps; ++parts) {
    const int part_steps = ceil_div(steps, parts);
    if (ceil_div(steps, part_steps) != parts) continue;
    const int rounds = ceil_div(left * parts, workers);
    const int costs = rounds * (part_steps + kTurn) + (parts - 1) * kMerge;
    if (costs >= cost) continue;
    cost = costs;
    best = {rows, cols, steps, rows * cols - left, parts, part_steps};
  }
  return best;
}

/// The tiles of a result for this GPU.
template <bool backward>
Tiles tiles_of(const CudaStream& stream, Index rows, Index cols, Index depth) {
  return cut_tiles(static_cast<int>(ceil_div(rows, Index{kTileRows} * kCluster)),
                   static_cast<int>(ceil_div(cols, Index{kColumns<backward>})),
                   static_cast<int>(ceil_div(depth, Index{kDepth})),
                   stream.multiprocessors() / kCluster);
}

template <bool backward>
void run_job(CudaStream& stream, Job& job) {
  const Tiles& tiles = job.tiles;
  const Index places = Index{tiles.parts - 1} * tiles.cut() * kCluster * kOwners;
  Matrix parts, done;
  if (places > 0) {
    parts = Matrix(stream, DType::f32, places, kPart);
    done = Matrix(stream, DType::i32, 1, places);
    job.parts = parts.row<float>(0);
    job.done = done.row<std::int32_t>(0);
    clear(stream, done);
  }
  constexpr std::size_t kShared = sizeof(Shared);
  static_assert(kShared <= 227 << 10);
  const auto blocks = static_cast<unsigned>(
      std::min(stream.multiprocessors() / kCluster, tiles.units()) * kCluster);
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeClusterDimension;
  together.val.clusterDim.x = kCluster;
  together.val.clusterDim.y = 1;
  together.val.clusterDim.z = 1;
  launch_with(together, stream, make_tiles<backward>, blocks, kThreads, kShared, job);
}

/// Narrower results leave most of a tile of 128 x 256 empty.
constexpr Index kNarrow = 128;

template <class... Views>
bool can_map(const Views&... views) {
  return (hopper::can_map(views) && ...);
}

}  // namespace

bool multiply(CudaStream& stream, const op::Linear& op) {
  const Index width = op.y.cols;
  if (!stream.hopper() || op.y.rows <= kNarrow || width < kNarrow / 2) return false;
  if (!op.bias.empty()) return false;
  const ConstView gates = op.w.block(0, width), ups = op.w.block(width, width);
  if (!can_map(op.x, gates, ups) || !aligned(8, op.product, op.y)) return false;
  Job job{};
  job.product = op.product;
  job.hidden = op.y;
  job.a = hopper::tensor_map(op.x, kDepth, kTileRows);
  job.b[0] = hopper::tensor_map(gates, 64, kTileColumns / 2);
  job.b[1] = hopper::tensor_map(ups, 64, kTileColumns / 2);
  job.tiles = tiles_of<false>(stream, op.y.rows, width, op.x.cols);
  run_job<false>(stream, job);
  return true;
}

bool multiply(CudaStream& stream, const op::LinearBackward& op) {
  const Index width = op.w.cols;
  if (!stream.hopper() || op.dy.rows <= kNarrow || width <= kNarrow) return false;
  if (!can_map(op.dy, op.w, op.product) || !aligned(8, op.product, op.again)) return false;
  Job job{};
  job.a = hopper::tensor_map(op.dy, kDepth, kTileRows);
  job.b[0] = job.b[1] = hopper::tensor_map(op.w, 64, kDepth);
  job.product = op.product;
  job.hidden = op.again;
  job.tiles = tiles_of<true>(stream, op.dy.rows, width, op.dy.cols);
  run_job<true>(stream, job);
  return true;
}

}  // namespace samba::gated_product
