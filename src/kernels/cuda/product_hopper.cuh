#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/vector.cuh"

// Products of bf16 matrices on Hopper, sums in f32.
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
namespace samba::product {

/// How the factors lie.
enum class Form {
  forward,  ///< c = a b^T: both run along the depth
  inputs,   ///< c = a b: b runs along the columns
  weights,  ///< c = a^T b: neither runs along the depth
};

/// What becomes of the sums.
enum class Finish {
  rounded,         ///< c in bf16, with or without a bias
  exact,           ///< c in f32, with or without a bias, or added to
  gated,           ///< gate and up, columns of c, and silu(gate) * up
  gated_backward,  ///< of the gradient of silu(gate) * up those of gate and up, and the former
                   ///< again
};

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

/// Rows of tiles that are made side by side: what runs at the same time is about as high as wide.
constexpr int kHigh = 8;

/// How many columns of a tile lie side by side in the result.
template <Finish finish>
constexpr int kColumns = finish == Finish::gated ? kTileColumns / 2 : kTileColumns;
/// Of a warpgroup, on their way out. Gates and ups also come in, two pairs at a time.
template <Finish finish>
constexpr int kPanels = finish == Finish::gated_backward ? 5 : 2;
template <Finish finish>
constexpr int kUsualStages = finish == Finish::gated_backward ? 3 : 4;
/// A lag takes a stage for itself.
template <Finish finish>
constexpr int kUsualLag = finish == Finish::gated_backward ? 0 : kLag;

/// Tiles of one product, of a whole cluster each, and how they are cut.
struct Tiles {
  int rows;        ///< of tiles
  int cols;        ///< of tiles
  int steps;       ///< of kDepth
  int whole;       ///< tiles that are not cut
  int parts;       ///< that each of the others is cut into
  int part_steps;  ///< of a part but the last, which may have fewer
  int high;        ///< rows of tiles that are made side by side

  __host__ __device__ int cut() const { return rows * cols - whole; }
  __host__ __device__ int units() const { return whole + cut() * parts; }
};

struct Job {
  CUtensorMap a;
  CUtensorMap b[2];  ///< of the left and the right half of a tile's columns
  CUtensorMap c[3];  ///< the result; or gate, up and hidden
  Tiles tiles;
  const float* bias;  ///< may be null
  int columns;        ///< of the bias
  bool add;           ///< exact: to what is there
  bool keep;          ///< gated: gate and up are wanted too
  float* parts;       ///< [parts - 1, cut tiles, cluster, owners] of kPart sums
  int* done;          ///< [parts - 1, cut tiles, cluster, owners]: whether they are there
};

template <Finish finish, int stages>
struct Shared {
  unsigned char left[stages][kLeft];
  unsigned char right[stages][kRight];
  unsigned char panels[kOwners][kPanels<finish>][kPanel];
  std::uint64_t full[stages], empty[stages];
  std::uint64_t pair_full[kOwners][2];
};

#if SAMBA_SM90A

using namespace hopper;

/// Hardware barrier at which the second warpgroup learns that the first one is ahead.
constexpr int kBegun = 3;
/// Of a thread: 168 for each of three warpgroups are there.
constexpr int kOwnerRegisters = 232, kCopyRegisters = 40;

/// A place in a ring and the parity of its phase.
template <int count>
struct Ring {
  int at = 0;
  int parity = 0;
  __device__ void advance() {
    if (++at == count) {
      at = 0;
      parity ^= 1;
    }
  }
};

/// A tile, or a part of it.
struct Unit {
  int row, col;    ///< of the tile among tiles
  int begin, end;  ///< steps
  int part;        ///< of the tile; the last one finishes it
  int cut;         ///< number among the tiles that are cut
};

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
  const int first = tile / (tiles.high * tiles.cols) * tiles.high;
  const int high = min(tiles.high, tiles.rows - first);
  const int place = tile - first * tiles.cols;
  unit.row = first + place % high;
  unit.col = place / high;
  return unit;
}

/// Calls f(unit) for all that this cluster makes.
template <int cluster, class F>
__device__ inline void each_unit(const Tiles& tiles, const F& f) {
  for (int n = blockIdx.x / cluster; n < tiles.units(); n += gridDim.x / cluster)
    f(unit_of(tiles, n));
}

/// The block's number in its cluster.
template <int cluster>
__device__ inline int rank() {
  return cluster == 1 ? 0 : static_cast<int>(blockIdx.x % cluster);
}

// ---- the thread that copies ------------------------------------------------------------------

template <Form form, Finish finish, int cluster, int stages>
__device__ inline void copy_factors(Shared<finish, stages>& shared, const Job& job) {
  constexpr int kBoxes = kTileColumns / 2 / 64;  // of a half of the right factor, where across
  Ring<stages> ring;
  each_unit<cluster>(job.tiles, [&](const Unit& unit) {
    const int row = (unit.row * cluster + rank<cluster>()) * kTileRows;
    const int col = unit.col * kColumns<finish>;
    if constexpr (finish == Finish::gated_backward)
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
      if constexpr (form == Form::weights)
        for (int i = 0; i < kOwners; ++i)
          tensor_load(left + i * kLeft / kOwners, job.a, full, row + i * kOwnRows, depth);
      else
        tensor_load(left, job.a, full, depth, row);
      const auto load = [&](unsigned char* to, const CUtensorMap& map, int across, int down) {
        if constexpr (cluster == 1)
          tensor_load(to, map, full, across, down);
        else
          tensor_load_to_all(to, map, full, across, down, (1 << cluster) - 1);
      };
      for (int half = 0; half < 2; ++half) {
        if (cluster == 2 && half != rank<cluster>()) continue;
        unsigned char* right = shared.right[ring.at] + half * kRight / 2;
        const int first = finish == Finish::gated ? col : col + half * kTileColumns / 2;
        if constexpr (form == Form::forward)
          load(right, job.b[half], depth, first);
        else
          for (int i = 0; i < kBoxes; ++i)
            load(right + i * kRight / 2 / kBoxes, job.b[half], first + i * 64, depth);
      }
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

template <Form form, Finish finish, int cluster, int stages, int pending, int lag>
struct Owner {
  Shared<finish, stages>& shared;
  const Job& job;
  int index;  ///< of the warpgroup
  Ring<stages> ring;
  int panel = 0;  ///< the next to go out
  int ahead = 0;  ///< steps that the first warpgroup has issued, until the second one may begin
  int pair_parity = 0;

  __device__ static int thread() { return static_cast<int>(threadIdx.x) % 128; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static bool leads() { return thread() == 0; }
  __device__ void meet() const { named_barrier_wait(1 + index, 128); }

  /// A stage is free for those who copy into it when all warps that read it have arrived.
  __device__ void release(int stage) const {
    __syncwarp();
    if constexpr (cluster == 1) {
      if (lane() == 0) barrier_arrive(&shared.empty[stage]);
    } else {
      if (lane() < cluster) barrier_arrive_at(&shared.empty[stage], lane());
    }
  }

  __device__ void multiply(float (&d)[kTileColumns / 2], const Unit& unit, int row, int col) {
    constexpr int kLeftAcross = form == Form::weights, kRightAcross = form != Form::forward;
    constexpr int kBlock = 64 * kDepth * 2;
    const std::uint64_t left = form == Form::weights
                                   ? describe_mn_major(shared.left[0] + index * kBlock, kBlock)
                                   : describe_k_major(shared.left[0] + index * kBlock);
    const std::uint64_t right = kRightAcross ? describe_mn_major(shared.right[0], kBlock)
                                             : describe_k_major(shared.right[0]);
    if (lag > 0 && index == 1 && ahead == 0) {
      named_barrier_wait(kBegun, 256);
      ahead = 1;
    }
    int before = 0;
    for (int step = unit.begin; step < unit.end; ++step) {
      const int stage = ring.at;
      barrier_wait(&shared.full[stage], ring.parity);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kDepth / 16; ++i)
        wgmma<kLeftAcross, kRightAcross>(
            d, left + (stage * kLeft >> 4) + (kLeftAcross ? mn_major_step(i) : k_major_step(i)),
            right + (stage * kRight >> 4) + (kRightAcross ? mn_major_step(i) : k_major_step(i)),
            step > unit.begin || i > 0);
      wgmma_commit();
      if (lag > 0 && index == 0 && ahead < lag && ++ahead == lag) named_barrier_arrive(kBegun, 256);
      wgmma_wait<pending>();
      if (pending == 0)
        release(stage);
      else if (step > unit.begin)
        release(before);
      before = stage;
      ring.advance();
      if constexpr (finish == Finish::gated_backward)
        if (step == (unit.begin + unit.end) / 2 && unit.part == job.tiles.parts - 1 && leads()) {
          stores_wait_read<0>();
          load_pair(0, row, col);
          load_pair(1, row, col + 64);
        }
    }
    // The first unit may have fewer steps.
    if (lag > 0 && index == 0 && ahead < lag) {
      named_barrier_arrive(kBegun, 256);
      ahead = lag;
    }
    wgmma_wait<0>();
    hold(d);
    if (pending > 0) release(before);
  }

  // -- parts of sums --

  __device__ std::int64_t place_of_part(const Unit& unit, int part) const {
    return ((std::int64_t{part} * job.tiles.cut() + unit.cut) * cluster + rank<cluster>()) *
               kOwners +
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
    if (leads()) stores_wait_read<kPanels<finish> - 1>();
    meet();
    unsigned char* taken = shared.panels[index][panel];
    panel = panel + 1 == kPanels<finish> ? 0 : panel + 1;
    return taken;
  }
  __device__ void send_panel(const unsigned char* from, const CUtensorMap& map, int row, int col,
                             bool add = false) {
    fence_async_shared();
    meet();
    if (!leads()) return;
    if (add)
      tensor_add(map, from, col, row);
    else
      tensor_store(map, from, col, row);
    stores_commit();
  }
  /// Sends 64 columns of bf16, in the order of accumulators.
  __device__ void send(const std::uint32_t (&words)[16], const CUtensorMap& map, int row, int col) {
    unsigned char* to = take_panel();
#pragma unroll
    for (int i = 0; i < 4; ++i)
      store_blocks(blocks_of(to, i),
                   {words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]});
    send_panel(to, map, row, col);
  }

  __device__ void add_bias(float (&d)[kTileColumns / 2], int col) const {
    const int first = col + thread() % 4 * 2;
#pragma unroll
    for (int i = 0; i < kTileColumns / 8; ++i)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int c = first + 8 * i + k;
        const float bias = c < job.columns ? job.bias[c] : 0;
        d[4 * i + k] += bias;
        d[4 * i + 2 + k] += bias;
      }
  }

  __device__ void finish_rounded(const float (&d)[kTileColumns / 2], int row, int col) {
#pragma unroll
    for (int p = 0; p < kTileColumns / 64; ++p) {
      std::uint32_t words[16];
#pragma unroll
      for (int i = 0; i < 16; ++i) words[i] = pack_bf16(d[32 * p + 2 * i], d[32 * p + 2 * i + 1]);
      send(words, job.c[0], row, col + 64 * p);
    }
  }

  /// Where sums are added to, each element is so once: its bits do not depend on who comes first.
  __device__ void finish_exact(const float (&d)[kTileColumns / 2], int row, int col) {
    const int own = thread() / 32 * 16 + lane() / 4, t = lane() % 4;
#pragma unroll
    for (int p = 0; p < kTileColumns / 32; ++p) {
      unsigned char* to = take_panel();
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int below = 0; below < 2; ++below) {
          const int r = own + 8 * below, k = 16 * p + 4 * i + 2 * below;
          *reinterpret_cast<float2*>(to + r * 128 + ((2 * i + t / 2) ^ (r % 8)) * 16 + t % 2 * 8) =
              make_float2(d[k], d[k + 1]);
        }
      send_panel(to, job.c[0], row, col + 32 * p, job.add);
    }
  }

  /// The left half of the tile's columns are gates, the right half the ups that belong to them.
  __device__ void finish_gated(const float (&d)[kTileColumns / 2], int row, int col) {
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
  __device__ void finish_gated_backward(const float (&d)[kTileColumns / 2], int row, int col) {
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
    each_unit<cluster>(job.tiles, [&](const Unit& unit) {
      float d[kTileColumns / 2];
      const int row = (unit.row * cluster + rank<cluster>()) * kTileRows + index * kOwnRows;
      const int col = unit.col * kColumns<finish>;
      multiply(d, unit, row, col);
      if (unit.part < job.tiles.parts - 1) return leave(d, unit);
      if (unit.part > 0 && unit.begin > 0) gather(d, unit);
      if constexpr (finish == Finish::rounded || finish == Finish::exact)
        if (job.bias != nullptr) add_bias(d, col);
      if constexpr (finish == Finish::rounded) finish_rounded(d, row, col);
      if constexpr (finish == Finish::exact) finish_exact(d, row, col);
      if constexpr (finish == Finish::gated) finish_gated(d, row, col);
      if constexpr (finish == Finish::gated_backward) finish_gated_backward(d, row, col);
    });
    if (leads()) stores_wait();
  }
};

#endif  // SAMBA_SM90A

template <Form form, Finish finish, int cluster, int stages, int pending, int lag>
__global__ void __launch_bounds__(kThreads, 1)
    multiply([[maybe_unused]] const __grid_constant__ Job job) {
#if SAMBA_SM90A
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared<finish, stages>*>(memory);
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (threadIdx.x == 0) {
    constexpr int kReaders = kOwners * 4 * cluster;  // warps
    for (int i = 0; i < stages; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], kReaders);
    }
    for (auto& pairs : shared.pair_full)
      for (std::uint64_t& pair : pairs) barrier_init(&pair, 1);
    barrier_init_done();
  }
  __syncthreads();
  // Nobody copies to a block that has not begun, and none ends before its last bytes are there.
  if constexpr (cluster > 1) cluster_wait();
  if (warp < kOwners * 4) {
    take_registers<kOwnerRegisters>();
    Owner<form, finish, cluster, stages, pending, lag>{shared, job, warp / 4, {}}.work();
    if constexpr (cluster > 1) cluster_wait();
  } else {
    give_registers<kCopyRegisters>();
    if (warp == kOwners * 4 && threadIdx.x % 32 == 0)
      copy_factors<form, finish, cluster, stages>(shared, job);
    __syncwarp();
    if constexpr (cluster > 1) cluster_wait();
  }
#endif
}

// ---- the host's side -------------------------------------------------------------------------

/// How to cut what is left when every worker has made as many tiles as all of them can: so that the
/// slowest is done soonest. In steps, a unit costs kTurn beside its own, and a part more kMerge to
/// write and to read: 64 KB of sums for each 64 rows beside 48 KB that a step copies.
inline Tiles cut_tiles(int rows, int cols, int steps, int workers) {
  constexpr int kTurn = 4, kMerge = 4, kMostParts = 16, kFewestSteps = 8;
  Tiles best{rows, cols, steps, rows * cols, 1, steps, kHigh};
  const int left = rows * cols % workers;
  int cost = left == 0 ? 0 : steps + kTurn;
  for (int parts = 2; left > 0 && parts <= kMostParts && parts * kFewestSteps <= steps; ++parts) {
    const int part_steps = ceil_div(steps, parts);
    if (ceil_div(steps, part_steps) != parts) continue;
    const int rounds = ceil_div(left * parts, workers);
    const int costs = rounds * (part_steps + kTurn) + (parts - 1) * kMerge;
    if (costs >= cost) continue;
    cost = costs;
    best = {rows, cols, steps, rows * cols - left, parts, part_steps, kHigh};
  }
  return best;
}

/// The tiles of a result for this GPU.
template <Finish finish, int cluster = kCluster>
Tiles tiles_of(const CudaStream& stream, Index rows, Index cols, Index depth) {
  return cut_tiles(static_cast<int>(ceil_div(rows, Index{kTileRows} * cluster)),
                   static_cast<int>(ceil_div(cols, Index{kColumns<finish>})),
                   static_cast<int>(ceil_div(depth, Index{kDepth})),
                   stream.multiprocessors() / cluster);
}

template <Form form, Finish finish, int cluster = kCluster, int stages = kUsualStages<finish>,
          int pending = kPending, int lag = kUsualLag<finish>>
void run_job(CudaStream& stream, Job& job) {
  const Tiles& tiles = job.tiles;
  const Index places = Index{tiles.parts - 1} * tiles.cut() * cluster * kOwners;
  Matrix parts, done;
  if (places > 0) {
    parts = Matrix(stream, DType::f32, places, kPart);
    done = Matrix(stream, DType::i32, 1, places);
    job.parts = parts.row<float>(0);
    job.done = done.row<std::int32_t>(0);
    clear(stream, done);
  }
  const auto kernel = multiply<form, finish, cluster, stages, pending, lag>;
  constexpr std::size_t kShared = sizeof(Shared<finish, stages>);
  static_assert(kShared <= 227 << 10);
  const auto blocks =
      static_cast<unsigned>(std::min(stream.multiprocessors() / cluster, tiles.units()) * cluster);
  if constexpr (cluster == 1) {
    launch(stream, kernel, blocks, kThreads, kShared, job);
  } else {
    cudaLaunchAttribute together{};
    together.id = cudaLaunchAttributeClusterDimension;
    together.val.clusterDim.x = cluster;
    together.val.clusterDim.y = 1;
    together.val.clusterDim.z = 1;
    launch_with(together, stream, kernel, blocks, kThreads, kShared, job);
  }
}

/// Maps of the factors of a product. The halves of a tile's columns are columns of the same b,
/// unless finish is gated.
template <Form form>
void map_factors(Job& job, ConstView a, ConstView left, ConstView right) {
  job.a = form == Form::weights ? hopper::tensor_map(a, kOwnRows, kDepth)
                                : hopper::tensor_map(a, kDepth, kTileRows);
  const int high = form == Form::forward ? kTileColumns / 2 : kDepth;
  job.b[0] = hopper::tensor_map(left, 64, high);
  job.b[1] = hopper::tensor_map(right, 64, high);
}

template <Form form, Finish finish, int cluster = kCluster>
Job job_of(const CudaStream& stream, const MatrixProduct& p) {
  Job job{};
  map_factors<form>(job, p.a, p.b, p.b);
  job.c[0] = hopper::tensor_map(p.c, finish == Finish::exact ? 32 : 64, kOwnRows);
  job.bias = p.bias.empty() ? nullptr : p.bias.row<float>(0);
  job.columns = static_cast<int>(p.c.cols);
  job.add = p.add;
  job.tiles = tiles_of<finish, cluster>(stream, p.c.rows, p.c.cols,
                                        form == Form::weights ? p.a.rows : p.a.cols);
  return job;
}

inline Job gated_job(const CudaStream& stream, const op::Linear& op) {
  const Index width = op.y.cols;
  Job job{};
  map_factors<Form::forward>(job, op.x, op.w.block(0, width), op.w.block(width, width));
  job.keep = !op.product.empty();
  if (job.keep)
    for (int i = 0; i < 2; ++i)
      job.c[i] = hopper::tensor_map(op.product.columns(i * width, width), 64, kOwnRows);
  job.c[2] = hopper::tensor_map(op.y, 64, kOwnRows);
  job.tiles = tiles_of<Finish::gated>(stream, op.y.rows, width, op.x.cols);
  return job;
}

inline Job gated_backward_job(const CudaStream& stream, const op::LinearBackward& op) {
  const Index width = op.w.cols;
  Job job{};
  map_factors<Form::inputs>(job, op.dy, op.w, op.w);
  for (int i = 0; i < 2; ++i)
    job.c[i] = hopper::tensor_map(op.product.columns(i * width, width), 64, kOwnRows);
  job.c[2] = hopper::tensor_map(op.again, 64, kOwnRows);
  job.columns = static_cast<int>(width);
  job.tiles = tiles_of<Finish::gated_backward>(stream, op.dy.rows, width, op.dy.cols);
  return job;
}

template <Form form, Finish finish>
void multiply_plain(CudaStream& stream, const MatrixProduct& p) {
  Job job = job_of<form, finish>(stream, p);
  run_job<form, finish>(stream, job);
}

}  // namespace samba::product
