#include <algorithm>
#include <cstdint>

#include "kernels/cuda/gated_product.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/vector.cuh"

// Gated products of bf16 matrices on Hopper, sums in f32: what op::SwiGlu makes of two products,
// and backward what op::SwiGluBackward makes of one, in registers.
//
// A block makes tiles of 128 x 256, 64 of the depth at a time: one thread copies blocks of both
// factors into a ring of stages, two warpgroups own 64 rows each and multiply. The blocks of a
// cluster make tiles one below the other; each copies its share of the right factor to all of them.
// Finished rows leave through shared memory, in panels of 128 bytes, while the next tile is begun.
//
// There are as many blocks as multiprocessors, all at the same time, and each makes one tile after
// the other. Where the tiles do not come out even, those of the last round are cut into parts along
// the depth: the workers of the earlier parts leave their sums in scratch memory, the worker of the
// last one adds them in the order of parts. How they are cut follows from the shape alone.
namespace samba::gated_product {
namespace {

constexpr int kCluster = 2;
constexpr int kOwnRows = 64;    ///< of a tile that a warpgroup owns
constexpr int kOwners = 2;      ///< warpgroups
constexpr int kTileRows = 128;  ///< of a block
constexpr int kTileColumns = 256;
constexpr int kDepth = 64;  ///< at a time
constexpr int kThreads = 384;
constexpr int kLeft = kTileRows * kDepth * 2;  ///< bytes of a stage
constexpr int kRight = kTileColumns * kDepth * 2;
constexpr int kPanel = kOwnRows * 128;          ///< bytes of 64 rows of 64 bf16 or 32 floats
constexpr int kPart = kOwnRows * kTileColumns;  ///< floats that a warpgroup leaves in scratch

/// How many columns of a tile lie side by side in the result: forward those of gates and of ups
/// that belong to them are made together.
template <bool backward>
constexpr int kColumns = backward ? kTileColumns : kTileColumns / 2;
/// Of a warpgroup, on their way out. Backward gates and ups also come in, two pairs at a time.
template <bool backward>
constexpr int kPanels = backward ? 5 : 2;
template <bool backward>
constexpr int kStages = backward ? 3 : 4;

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
  CUtensorMap c[3];  ///< gate, up and hidden
  Tiles tiles;
  int columns;   ///< of gates
  bool keep;     ///< forward: gate and up are wanted too
  float* parts;  ///< [parts - 1, cut tiles, kCluster, owners] of kPart sums
  int* done;     ///< [parts - 1, cut tiles, kCluster, owners]: whether they are there
};

template <bool backward>
struct Shared {
  unsigned char left[kStages<backward>][kLeft];
  unsigned char right[kStages<backward>][kRight];
  unsigned char panels[kOwners][kPanels<backward>][kPanel];
  std::uint64_t full[kStages<backward>], empty[kStages<backward>];
  std::uint64_t pair_full[kOwners][2];
};

#if SAMBA_SM90A

using namespace hopper;

/// Of a thread: 168 for each of three warpgroups are there.
constexpr int kOwnerRegisters = 232, kCopyRegisters = 40;

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

// ---- the thread that copies ------------------------------------------------------------------

template <bool backward>
__device__ inline void copy_factors(Shared<backward>& shared, const Job& job) {
  constexpr int kBoxes = kTileColumns / 2 / 64;  // of a half of the right factor, where across
  Ring<kStages<backward>> ring;
  each_unit(job.tiles, [&](const Unit& unit) {
    const int row = (unit.row * kCluster + rank()) * kTileRows;
    const int col = unit.col * kColumns<backward>;
    if constexpr (backward)
      if (unit.part == job.tiles.parts - 1)
        for (int c = col; c < col + kTileColumns && c < job.columns; c += 64)
          for (int i = 0; i < 2 * kOwners; ++i)
            tensor_prefetch(job.c[i % 2], c, row + i / 2 * kOwnRows);
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

template <bool backward>
struct Owner {
  Shared<backward>& shared;
  const Job& job;
  int index;  ///< of the warpgroup
  Ring<kStages<backward>> ring;
  int panel = 0;  ///< the next to go out
  int pair_parity = 0;

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % 128; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static bool leads() { return thread() == 0; }
  __device__ void meet() const { named_barrier_wait(1 + index, 128); }

  /// A stage is free for those who copy into it when all warps that read it have arrived.
  __device__ void release(int stage) const {
    __syncwarp();
    if (lane() < kCluster) barrier_arrive_at(&shared.empty[stage], lane());
  }

  __device__ void multiply(float (&d)[kTileColumns / 2], const Unit& unit, int row, int col) {
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
      if constexpr (backward)
        if (step == (unit.begin + unit.end) / 2 && unit.part == job.tiles.parts - 1 && leads()) {
          stores_wait_read<0>();
          load_pair(0, row, col);
          load_pair(1, row, col + 64);
        }
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

  // -- panels --
  // A panel is [64, 128 bytes]: the 16-byte unit u of row r lies at u ^ (r % 8), as tensor maps
  // want it. Warp w has rows 16 w and following.

  /// Where this lane's row of four 8 x 8 blocks of bf16 lies, columns 16 i .. 16 i + 15.
  __device__ unsigned char* blocks_of(unsigned char* panel, int i) const {
    const int row = thread() / 32 * 16 + lane() % 16;
    return panel + row * 128 + ((2 * i + lane() / 16) ^ (row % 8)) * 16;
  }
  /// Waits until the next panel is free.
  __device__ unsigned char* take_panel() {
    if (leads()) stores_wait_read<kPanels<backward> - 1>();
    meet();
    unsigned char* taken = shared.panels[index][panel];
    panel = panel + 1 == kPanels<backward> ? 0 : panel + 1;
    return taken;
  }
  /// Sends 64 columns of bf16, in the order of accumulators.
  __device__ void send(const std::uint32_t (&words)[16], const CUtensorMap& map, int row, int col) {
    unsigned char* to = take_panel();
#pragma unroll
    for (int i = 0; i < 4; ++i)
      store_blocks(blocks_of(to, i),
                   {words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]});
    fence_async_shared();
    meet();
    if (!leads()) return;
    tensor_store(map, to, col, row);
    stores_commit();
  }

  /// The left half of the tile's columns are gates, the right half the ups that belong to them.
  __device__ void finish_forward(const float (&d)[kTileColumns / 2], int row, int col) {
#pragma unroll
    for (int p = 0; p < kTileColumns / 128; ++p) {
      std::uint32_t gate[16], up[16];
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const int k = 32 * p + 2 * i;
        gate[i] = pack_bf16(d[k], d[k + 1]);
        up[i] = pack_bf16(d[k + kTileColumns / 4], d[k + kTileColumns / 4 + 1]);
      }
      if (job.keep) {
        send(gate, job.c[0], row, col + 64 * p);
        send(up, job.c[1], row, col + 64 * p);
      }
#pragma unroll
      for (int i = 0; i < 16; ++i) gate[i] = hidden_of(gate[i], up[i]);
      send(gate, job.c[2], row, col + 64 * p);
    }
  }

  /// Brings a panel of gates and one of ups. By the leader.
  __device__ void load_pair(int which, int row, int col) const {
    std::uint64_t* full = &shared.pair_full[index][which];
    barrier_expect(full, 2 * kPanel);
    for (int i = 0; i < 2; ++i)
      tensor_load(shared.panels[index][2 * which + i], job.c[i], full, col, row);
  }

  /// Gates and ups come in pairs of panels and go out, as their gradients, from the same.
  __device__ void finish_backward(const float (&d)[kTileColumns / 2], int row, int col) {
    constexpr int kCount = kTileColumns / 64;
    unsigned char* hidden_panel = shared.panels[index][4];
#pragma unroll
    for (int p = 0; p < kCount; ++p) {
      unsigned char* gates = shared.panels[index][2 * (p % 2)];
      unsigned char* ups = gates + kPanel;
      barrier_wait(&shared.pair_full[index][p % 2], pair_parity);
      if (p % 2 == 1) pair_parity ^= 1;
      std::uint32_t hidden[16];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        std::uint32_t gate[4], up[4];
        load_blocks(gate, blocks_of(gates, i));
        load_blocks(up, blocks_of(ups, i));
#pragma unroll
        for (int b = 0; b < 4; ++b) {
          const int k = 32 * p + 8 * i + 2 * b;
          const std::uint32_t dy = pack_bf16(d[k], d[k + 1]);
          const Slopes low = slopes_of(low_of(gate[b]), low_of(up[b]), low_of(dy));
          const Slopes high = slopes_of(high_of(gate[b]), high_of(up[b]), high_of(dy));
          gate[b] = pack_bf16(low.gate, high.gate);
          up[b] = pack_bf16(low.up, high.up);
          hidden[4 * i + b] = pack_bf16(low.hidden, high.hidden);
        }
        store_blocks(blocks_of(gates, i), gate);
        store_blocks(blocks_of(ups, i), up);
      }
      if (leads()) {
        stores_wait_read<0>();
        // The panels before these have gone out.
        if (p > 0 && p + 1 < kCount) load_pair((p + 1) % 2, row, col + 64 * (p + 1));
      }
      meet();
#pragma unroll
      for (int i = 0; i < 4; ++i)
        store_blocks(blocks_of(hidden_panel, i),
                     {hidden[4 * i], hidden[4 * i + 1], hidden[4 * i + 2], hidden[4 * i + 3]});
      fence_async_shared();
      meet();
      if (leads()) {
        tensor_store(job.c[0], gates, col + 64 * p, row);
        tensor_store(job.c[1], ups, col + 64 * p, row);
        tensor_store(job.c[2], hidden_panel, col + 64 * p, row);
        stores_commit();
      }
    }
  }

  __device__ void work() {
    each_unit(job.tiles, [&](const Unit& unit) {
      float d[kTileColumns / 2];
      const int row = (unit.row * kCluster + rank()) * kTileRows + index * kOwnRows;
      const int col = unit.col * kColumns<backward>;
      multiply(d, unit, row, col);
      if (unit.part < job.tiles.parts - 1) return leave(d, unit);
      if (unit.part > 0 && unit.begin > 0) gather(d, unit);
      if constexpr (backward)
        finish_backward(d, row, col);
      else
        finish_forward(d, row, col);
    });
    if (leads()) stores_wait();
  }
};

#endif  // SAMBA_SM90A

template <bool backward>
__global__ void __launch_bounds__(kThreads, 1)
    make_tiles([[maybe_unused]] const __grid_constant__ Job job) {
#if SAMBA_SM90A
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared<backward>*>(memory);
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (threadIdx.x == 0) {
    constexpr int kReaders = kOwners * 4 * kCluster;  // warps
    for (int i = 0; i < kStages<backward>; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], kReaders);
    }
    for (auto& pairs : shared.pair_full)
      for (std::uint64_t& pair : pairs) barrier_init(&pair, 1);
    barrier_init_done();
  }
  __syncthreads();
  // Nobody copies to a block that has not begun, and none ends before its last bytes are there.
  cluster_wait();
  if (warp < kOwners * 4) {
    take_registers<kOwnerRegisters>();
    Owner<backward>{shared, job, warp / 4, {}}.work();
    cluster_wait();
  } else {
    give_registers<kCopyRegisters>();
    if (warp == kOwners * 4 && threadIdx.x % 32 == 0) copy_factors<backward>(shared, job);
    __syncwarp();
    cluster_wait();
  }
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
  constexpr std::size_t kShared = sizeof(Shared<backward>);
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

bool can_map_halves(ConstView product) {
  const Index width = product.cols / 2;
  return can_map(product.columns(0, width), product.columns(width, width));
}

void map_halves(Job& job, View product) {
  const Index width = product.cols / 2;
  for (int i = 0; i < 2; ++i)
    job.c[i] = hopper::tensor_map(product.columns(i * width, width), 64, kOwnRows);
}

}  // namespace

bool multiply(CudaStream& stream, const op::Linear& op) {
  const Index width = op.y.cols;
  if (!stream.hopper() || op.y.rows <= kNarrow || width < kNarrow / 2) return false;
  if (!op.bias.empty()) return false;
  const ConstView gates = op.w.block(0, width), ups = op.w.block(width, width);
  if (!can_map(op.x, gates, ups, op.y)) return false;
  Job job{};
  job.keep = !op.product.empty();
  if (job.keep) {
    if (!can_map_halves(op.product)) return false;
    map_halves(job, op.product);
  }
  job.a = hopper::tensor_map(op.x, kDepth, kTileRows);
  job.b[0] = hopper::tensor_map(gates, 64, kTileColumns / 2);
  job.b[1] = hopper::tensor_map(ups, 64, kTileColumns / 2);
  job.c[2] = hopper::tensor_map(op.y, 64, kOwnRows);
  job.columns = static_cast<int>(width);
  job.tiles = tiles_of<false>(stream, op.y.rows, width, op.x.cols);
  run_job<false>(stream, job);
  return true;
}

bool multiply(CudaStream& stream, const op::LinearBackward& op) {
  const Index width = op.w.cols;
  if (!stream.hopper() || op.dy.rows <= kNarrow || width <= kNarrow) return false;
  if (!can_map(op.dy, op.w, op.again) || !can_map_halves(op.product)) return false;
  Job job{};
  job.a = hopper::tensor_map(op.dy, kDepth, kTileRows);
  job.b[0] = job.b[1] = hopper::tensor_map(op.w, 64, kDepth);
  map_halves(job, op.product);
  job.c[2] = hopper::tensor_map(op.again, 64, kOwnRows);
  job.columns = static_cast<int>(width);
  job.tiles = tiles_of<true>(stream, op.dy.rows, width, op.dy.cols);
  run_job<true>(stream, job);
  return true;
}

}  // namespace samba::gated_product
