#pragma once

#include "core/matrix.h"
#include "kernels/cpu/panel.h"
#include "kernels/cpu/parallel.h"

// The one matrix product behind every linear op: y (+)= a bᵀ, blocked as in Goto & van de Geijn
// 2008, "Anatomy of High-Performance Matrix Multiplication". Rows of a are packed in tiles of up to
// kRows, rows of b in panels of kWidth; the innermost loop keeps a tile x panel of sums in
// registers. Sums that do not end inside a block of k wait in f32 (f64), so that blocks, tiles and
// threads never show in the result.

namespace samba {
namespace {

#if defined(__AVX512F__)
constexpr Index kRows = 14;     // rows of a tile: 14 x 2 registers of sums, of 32
constexpr Index kPairRows = 6;  // up to here a tile meets two panels at once, to have enough sums
constexpr Index kDepth = 384;   // units of k in a block: a tile of a fits L1, a panel of b streams
#elif defined(__AVX2__)
constexpr Index kRows = 6;  // 6 x 2 registers of sums, of 16
constexpr Index kPairRows = 2;
constexpr Index kDepth = 256;  // both fit L1
#else
constexpr Index kRows = 4;
constexpr Index kPairRows = 2;
constexpr Index kDepth = 256;
#endif

constexpr Index kGroupWidth = 128;    // columns of a task: its block of b fills a part of L2,
constexpr Index kTaskRows = 512;      // and so do the waiting sums of these rows
constexpr Index kSlabRows = 1024;     // rows of a packed at a time
constexpr Index kPrefetch = 12;       // units of k that memory is asked for ahead,
constexpr Index kRowPrefetch = 2048;  // and bytes where a row meets the weight at memory's pace
constexpr Index kRowPanels = 4;       // panels at once there: memory is faster in several places
constexpr Index kPackedLines = 16;    // units of k packed at a time where they lie far apart
constexpr Index kGrain = 1 << 17;     // multiplications that are worth a thread

/// Columns of a panel.
template <class T>
constexpr Index kWidth = 2 * Units<T>::Lane::kCount;

/// Numbers in a packed weight's panel.
template <class T>
Index panel_size(Index depth) {
  return (depth + depth % 2) / Units<T>::kElements * kWidth<T>;
}

/// What PackLinear leaves of a weight: units where T has units of its own, T's otherwise.
template <class T>
using Packed = std::conditional_t<Units<T>::kElements == 2, float, T>;

/// Where column i of a panel stands in each of its rows. Columns of bf16 that are widened stand in
/// pairs, so that a register holds the two registers' worth of a row.
template <class T>
constexpr Index packed_place(Index i) {
  constexpr Index kHalf = kWidth<T> / 2;
  if constexpr (std::is_same_v<Packed<T>, Bf16>)
    return i < kHalf ? 2 * i : 2 * (i - kHalf) + 1;
  else
    return i;
}

/// The two registers of a row of a panel.
template <class T, class B>
[[gnu::always_inline]] inline void load_row(const B* row, typename Units<T>::Lane* factors) {
  using Lane = typename Units<T>::Lane;
  if constexpr (std::is_same_v<B, Bf16>) {
    Lane::load_pairs(row, factors[0], factors[1]);
  } else {
    factors[0] = Lane::load(row);
    factors[1] = Lane::load(row + Lane::kCount);
  }
}

/// Panels that a tile of so many rows meets at once.
constexpr Index panels_at_once(Index rows) {
  return rows == 1 ? kRowPanels : rows <= kPairRows ? 2 : 1;
}

/// c += a bᵀ for a tile of kR rows and kP panels of b that lie `panel` numbers apart; c holds
/// [kP][kR][kWidth].
template <class T, int kR, int kP, class B>
[[gnu::noinline]] void multiply_tile(Index units, const Exact<T>* a, const B* b, Index panel,
                                     Exact<T>* c) {
  using Lane = typename Units<T>::Lane;
  constexpr Index kLanes = Lane::kCount;
  constexpr int kV = 2 * kP;
  constexpr Index kUnitBytes = kWidth<T> * static_cast<Index>(sizeof(B));
  constexpr Index kAhead = kR == 1 ? kRowPrefetch / kUnitBytes : kPrefetch;
  Lane sums[kR][kV];
#pragma GCC unroll 16
  for (int r = 0; r < kR; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v)
      sums[r][v] = Lane::load(c + ((v / 2) * kR + r) * kWidth<T> + (v % 2) * kLanes);
  const B* ahead = b + kAhead * kWidth<T>;
  for (Index u = 0; u < units; ++u) {
    // Behind a panel lies the next of these kP, but the next that is read is kP further.
    if (kR == 1 && units - u == kAhead) ahead += (kP - 1) * panel;
    __builtin_prefetch(a + kPrefetch * kR);
    Lane factors[kV];
#pragma GCC unroll 4
    for (int p = 0; p < kP; ++p)
#pragma GCC unroll 2
      for (Index i = 0; i < kWidth<T>; i += 64 / static_cast<Index>(sizeof(B)))
        __builtin_prefetch(ahead + p * panel + i);
#pragma GCC unroll 4
    for (int p = 0; p < kP; ++p) load_row<T>(b + p * panel, factors + 2 * p);
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) {
      const Lane factor = Lane::all(a[r]);
#pragma GCC unroll 8
      for (int v = 0; v < kV; ++v)
        sums[r][v] = Units<T>::multiply_add(factor, factors[v], sums[r][v]);
    }
    a += kR;
    b += kWidth<T>;
    ahead += kWidth<T>;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kR; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v)
      sums[r][v].store(c + ((v / 2) * kR + r) * kWidth<T> + (v % 2) * kLanes);
}

/// multiply_tile for `rows` rows and up to panels_at_once(rows) panels.
template <class T, class B, int kR = 1>
void multiply_tile(Index rows, Index panels, Index units, const Exact<T>* a, const B* b,
                   Index panel, Exact<T>* c) {
  if constexpr (kR < kRows) {
    if (rows > kR) return multiply_tile<T, B, kR + 1>(rows, panels, units, a, b, panel, c);
  }
  const auto step = [&]<int kP>() {
    for (; panels >= kP; panels -= kP, b += kP * panel, c += kP * kR * kWidth<T>)
      multiply_tile<T, kR, kP>(units, a, b, panel, c);
  };
  if constexpr (panels_at_once(kR) >= 4) step.template operator()<4>();
  if constexpr (panels_at_once(kR) >= 2) step.template operator()<2>();
  step.template operator()<1>();
}

/// y (+)= a bᵀ, or y = bias + a bᵀ.
template <class T>
struct Product {
  View y;  ///< [rows of a, rows of b]; dtype of T, or exact
  Operand<T> a;
  Operand<T> b = {};                  ///< left out where there are panels
  const Packed<T>* panels = nullptr;  ///< what PackLinear wrote of b
  ConstView bias = {};                ///< [1, columns of y], exact: begins the sums where given
  Index depth;                        ///< terms of each sum
  bool add;                           ///< y's old values begin the sums
};

template <class T>
class Gemm {
 public:
  explicit Gemm(const Product<T>& product)
      : product_(product), panels_((product.y.cols + kWidth<T> - 1) / kWidth<T>) {}

  void run(CpuStream& stream) {
    const Index rows = product_.y.rows;
    if (product_.y.cols == 0) return;
    for (slab_ = 0; slab_ < rows; slab_ += kSlabRows) {
      slab_rows_ = std::min(rows - slab_, kSlabRows);
      tiles_ = (slab_rows_ + kRows - 1) / kRows;
      run_slab(stream);
    }
  }

 private:
  using Sum = Exact<T>;
  using Lane = typename Units<T>::Lane;

  /// A range of tiles times a range of panels, for one block of k after the other.
  struct Task {
    Index first_tile, last_tile, first_panel, last_panel;
    Index unit, units;  ///< the block of k
    Sum* sums;          ///< those that wait for the next block: tile by tile, panel by panel
  };

  /// Rows are shared out evenly: no tile is much smaller than the others.
  Index first_row(Index tile) const { return slab_rows_ * tile / tiles_; }
  Index units() const { return units_of<T>(product_.depth); }
  /// A single row asks nothing of the caches: it reads its panels end to end.
  bool streams() const { return product_.panels != nullptr && slab_rows_ == 1; }

  void run_slab(CpuStream& stream) {
    const Index depth = std::max<Index>(product_.depth, 1);
    // A row that meets a weight for itself waits for memory: as long as several rows would take.
    const Index work = std::max<Index>(slab_rows_, 8) * product_.y.cols * depth;
    const Index threads = std::clamp<Index>(work / kGrain, 1, stream.threads());
    const Matrix tiles(stream, dtype_of<Sum>(), slab_rows_, units());
    packed_rows_ = tiles.row<Sum>(0);
    parallel_ranges(stream, tiles_, std::max<Index>(1, kGrain / (kRows * depth)),
                    [&](Index first, Index last) { pack_rows(first, last); });

    // As many groups of columns as threads, or a multiple: none has to wait for another.
    const Index groups = (product_.y.cols + kGroupWidth - 1) / kGroupWidth;
    const Index multiple = (groups + threads - 1) / threads;
    groups_ = std::min(panels_, streams() ? stream_groups(threads) : multiple * threads);
    const Index blocks = (slab_rows_ + kTaskRows - 1) / kTaskRows;
    blocks_ = std::min(tiles_, std::max(blocks, (threads + groups_ - 1) / groups_));
    const Index columns = (panels_ + groups_ - 1) / groups_ * kWidth<T>;
    const Index rows = (tiles_ + blocks_ - 1) / blocks_ * kRows;
    const Matrix scratch(stream, dtype_of<Sum>(), stream.threads(), columns * (rows + kDepth));
    const auto run_one = [&](Index task, Index thread) {
      run_task(task, scratch.row<Sum>(thread));
    };
    if (threads == 1) {
      for (Index task = 0; task < groups_ * blocks_; ++task) run_one(task, 0);
    } else {
      parallel_tasks(stream, groups_ * blocks_,
                     [&](Index task) { run_one(task, omp_get_thread_num()); });
    }
  }

  /// Groups of columns for a single row: few, since each begins with a wait for memory, and none of
  /// fewer panels than are read at once where that leaves something for every thread.
  Index stream_groups(Index threads) const {
    return std::clamp(panels_ / kRowPanels, threads, 4 * threads);
  }

  void pack_rows(Index first_tile, Index last_tile) {
    // Where a's rows are columns of the matrix at hand, its lines hold a bit of several tiles: a
    // few lines at a time go to all of them.
    const Index step = product_.a.sums_along_rows ? std::max<Index>(units(), 1) : kPackedLines;
    for (Index unit = 0; unit < units(); unit += step) {
      const Index k = unit * Units<T>::kElements;
      const Index depth = std::min(product_.depth - k, step * Units<T>::kElements);
      for (Index tile = first_tile; tile < last_tile; ++tile) {
        const Index first = first_row(tile), rows = first_row(tile + 1) - first;
        pack_panel(packed_rows_ + first * units() + unit * rows, rows,
                   product_.a.from(slab_ + first, k), rows, depth);
      }
    }
  }

  void run_task(Index task, Sum* scratch) {
    const Index group = task / blocks_, block = task % blocks_;
    Task t{.first_tile = tiles_ * block / blocks_,
           .last_tile = tiles_ * (block + 1) / blocks_,
           .first_panel = panels_ * group / groups_,
           .last_panel = panels_ * (group + 1) / groups_,
           .unit = 0,
           .units = 0,
           .sums = scratch};
    const Index rows = first_row(t.last_tile) - first_row(t.first_tile);
    Sum* columns = scratch + (t.last_panel - t.first_panel) * kWidth<T> * rows;
    // Panels of narrower numbers are widened once where several tiles meet them.
    const bool direct = std::is_same_v<Packed<T>, Sum> || t.last_tile - t.first_tile == 1;
    do {
      t.units = std::min(units() - t.unit, streams() ? units() : kDepth);
      if (product_.panels != nullptr && direct) {
        const Index size = panel_size<T>(product_.depth);
        multiply_block(t, product_.panels + t.first_panel * size + t.unit * kWidth<T>, size);
      } else {
        pack_columns(t, columns);
        multiply_block(t, columns, t.units * kWidth<T>);
      }
      t.unit += t.units;
    } while (t.unit < units());
  }

  void pack_columns(const Task& t, Sum* to) {
    const Index first_k = t.unit * Units<T>::kElements;
    const Index count_k = std::min(product_.depth - first_k, t.units * Units<T>::kElements);
    for (Index p = t.first_panel; p < t.last_panel; ++p, to += t.units * kWidth<T>) {
      if (product_.panels != nullptr) {
        const Packed<T>* from =
            product_.panels + p * panel_size<T>(product_.depth) + t.unit * kWidth<T>;
        for (Index i = 0; i < t.units * kWidth<T>; i += kWidth<T>) {
          Lane row[2];
          load_row<T>(from + i, row);
          row[0].store(to + i);
          row[1].store(to + i + Lane::kCount);
        }
      } else {
        const Index first = p * kWidth<T>, count = std::min(kWidth<T>, product_.y.cols - first);
        pack_panel(to, kWidth<T>, product_.b.from(first, first_k), count, count_k);
      }
    }
  }

  template <class B>
  void multiply_block(const Task& t, const B* block, Index panel) {
    Sum* sums = t.sums;
    for (Index tile = t.first_tile; tile < t.last_tile; ++tile) {
      const Index first = first_row(tile), rows = first_row(tile + 1) - first;
      const Sum* a = packed_rows_ + first * units() + t.unit * rows;
      const Index together = panels_at_once(rows);
      for (Index p = t.first_panel; p < t.last_panel; p += together) {
        const Index panels = std::min(together, t.last_panel - p);
        const B* b = block + (p - t.first_panel) * panel;
        if (t.unit == 0) begin_sums(sums, slab_ + first, rows, p, panels);
        if (t.unit == 0 && product_.add) {
          if (p + together < t.last_panel)
            ask_for_sums(tile, p + together);
          else
            ask_for_sums(tile + 1, t.first_panel);
        }
        multiply_tile<T>(rows, panels, t.units, a, b, panel, sums);
        if (t.unit + t.units == units()) end_sums(sums, slab_ + first, rows, p, panels);
        if (t.units < units()) sums += panels * rows * kWidth<T>;
      }
    }
  }

  /// Calls f(sums of a register, row of y, column of y) for `rows` rows and `panels` panels.
  template <class F>
  void for_each_lane(Sum* sums, Index first, Index rows, Index p, Index panels, F&& f) {
    for (Index q = p; q < p + panels; ++q)
      for (Index r = first; r < first + rows; ++r)
        for (Index i = 0; i < kWidth<T>; i += Lane::kCount, sums += Lane::kCount)
          f(sums, r, q * kWidth<T> + i);
  }

  void begin_sums(Sum* sums, Index first, Index rows, Index p, Index panels) {
    const View& y = product_.y;
    const bool biased = !product_.bias.empty();
    for_each_lane(sums, first, rows, p, panels, [&](Sum* to, Index r, Index c) {
      Lane start{};
      if (product_.add && y.dtype == dtype_of<Sum>())
        start = Lane::load_first(y.row<Sum>(r) + c, y.cols - c);
      else if (product_.add)
        start = Lane::load_first(y.row<T>(r) + c, y.cols - c);
      else if (biased)
        start = Lane::load_first(product_.bias.template row<Sum>(0) + c, y.cols - c);
      start.store(to);
    });
  }

  /// Asks memory for what begin_sums will read, while another tile is multiplied.
  void ask_for_sums(Index tile, Index p) const {
    if (tile == tiles_) return;
    const View& y = product_.y;
    const Index size = size_of(y.dtype);
    for (Index r = slab_ + first_row(tile); r < slab_ + first_row(tile + 1); ++r)
      for (Index i = 0; i < kWidth<T> * size; i += 64)
        __builtin_prefetch(y.data + (r * y.stride + p * kWidth<T>)*size + i, 1, 2);
  }

  void end_sums(Sum* sums, Index first, Index rows, Index p, Index panels) {
    const View& y = product_.y;
    for_each_lane(sums, first, rows, p, panels, [&](const Sum* from, Index r, Index c) {
      if (y.dtype == dtype_of<Sum>())
        Lane::load(from).store_first(y.row<Sum>(r) + c, y.cols - c);
      else
        Lane::load(from).store_first(y.row<T>(r) + c, y.cols - c);
    });
  }

  const Product<T> product_;
  const Index panels_;
  Index slab_ = 0, slab_rows_ = 0, tiles_ = 0;  // of a: the rows at hand
  Index groups_ = 0, blocks_ = 0;               // tasks: groups of panels x blocks of tiles
  Sum* packed_rows_ = nullptr;
};

}  // namespace
}  // namespace samba
