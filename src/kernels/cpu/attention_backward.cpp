#include <cstring>

#include "kernels/attention.h"
#include "kernels/cpu/attention_tile.h"

namespace samba {
namespace {

// A piece's tiles are shared out in so many parts, each with sums of dk and dv of its own that are
// added in order at the end. The number depends on the piece alone: neither threads nor company
// change a bit.
constexpr Index kParts = 8;
/// Tiles of one piece that are worked on in order, and the blocks of keys that they see.
struct Part {
  Index piece;
  Index first_tile;
  Index end_tile;
  Index first_block;
  Index blocks;
  Index before;  ///< blocks of the parts before
};

/// One tile's share of memory that a thread owns.
template <class T>
struct Workspace {
  using Element = typename Tiling<T>::Element;
  using Vector = typename Tiling<T>::Vector;
  static constexpr Index kLanes = Tiling<T>::kLanes;
  Vector* scores;         ///< [kBlock, lanes], then weights where they are not rounded
  Vector* slopes;         ///< [kBlock, lanes], the gradients of weights, then of scores
  Vector* dq;             ///< [width, lanes]
  Element* q_columns;     ///< [width, lanes]
  Element* dy_columns;    ///< [value width, lanes]
  Element* q_rows;        ///< [lanes, width]
  Element* dy_rows;       ///< [lanes, value width]
  Element* weights;       ///< [kBlock, lanes] of scores, rounded
  Element* score_slopes;  ///< the same of slopes
  Element* slope_pairs;   ///< [kBlock / 2, lanes, 2] of slopes

  /// In elements of Exact<T>.
  static Index size(Index width, Index value_width) {
    return (4 * kBlock + 3 * width + 2 * value_width) * kLanes;
  }

  Workspace(Exact<T>* memory, Index width, Index value_width) {
    auto take = [&]<class To>(To*& to, Index count) {
      to = reinterpret_cast<To*>(memory);
      memory += count * kLanes;
    };
    take(scores, kBlock);
    take(slopes, kBlock);
    take(dq, width);
    for (Element** q : {&q_columns, &q_rows}) take(*q, width);
    for (Element** dy : {&dy_columns, &dy_rows}) take(*dy, value_width);
    if constexpr (Tiling<T>::kTerms == 1) {
      weights = reinterpret_cast<Element*>(scores);
      score_slopes = slope_pairs = reinterpret_cast<Element*>(slopes);
    } else {
      take(weights, kBlock / 2);
      take(score_slopes, kBlock / 2);
      take(slope_pairs, kBlock / 2);
    }
  }
};

/// Writes the lanes' rows of x, whose heads are `width` wide, as rows:
/// to[lane / kTerms][d][lane % kTerms], zeros beside them.
template <class T>
void pack_rows(ConstView x, const Lanes<T>& lanes, Index width, typename Tiling<T>::Element* to) {
  constexpr Index kTerms = Tiling<T>::kTerms;
  auto* items = reinterpret_cast<typename Tiling<T>::Item*>(to);
  for (Index i = 0; i < lanes.vectors * Tiling<T>::kPerVector; i += kTerms) {
    const T* rows[kTerms];
    for (Index r = 0; r < kTerms; ++r)
      rows[r] =
          i + r < lanes.count ? x.row<T>(lanes.row[i + r]) + lanes.head[i + r] * width : nullptr;
    pack_items<T>(rows, width, items + i / kTerms * padded<T>(width));
  }
}

/// From scores and the gradients of weights to weights and the gradients of scores.
template <class T>
struct Slopes {
  using Vector = typename Tiling<T>::Vector;
  using E = Exact<T>;
  Vector lse[kTileVectors];  ///< as exponents of two
  Vector dot[kTileVectors];  ///< dy . y
  E scale;                   ///< of the scores, as exponents of two

  Slopes(const op::AttentionBackward& op, const Lanes<T>& lanes)
      : scale(static_cast<E>(op.scale * kLog2e)) {
    for (Index i = 0; i < lanes.vectors * Tiling<T>::kPerVector; ++i) {
      const Index width = op.heads.value_width;
      const T* y = op.y.row<T>(lanes.row[i]) + lanes.head[i] * width;
      const T* dy = op.dy.row<T>(lanes.row[i]) + lanes.head[i] * width;
      E sum = 0;
      for (Index d = 0; d < width; ++d) sum += get(dy[d]) * get(y[d]);
      const Index n = i / Tiling<T>::kPerVector, lane = i % Tiling<T>::kPerVector;
      dot[n][lane] = sum;
      lse[n][lane] = op.lse.row<E>(lanes.row[i])[lanes.head[i]] * static_cast<E>(kLog2e);
    }
  }

  template <bool kAll>
  void weigh(const Workspace<T>& work, const Sight<T>& sight) {
    for (Index n = 0; n < sight.vectors; ++n)
      for (Index j = sight.begin[n]; j < sight.end[n]; ++j) {
        Vector& weight = work.scores[j * kTileVectors + n];
        Vector& slope = work.slopes[j * kTileVectors + n];
        weight = power_of_two(weight * scale - lse[n]);
        if constexpr (!kAll) weight = sight.of(j, n) ? weight : Vector{};
        slope = weight * (slope - dot[n]);
      }
    if constexpr (Tiling<T>::kTerms == 2) round(work, sight);
  }

  void round([[maybe_unused]] const Workspace<T>& work, [[maybe_unused]] const Sight<T>& sight) {
#if defined(__AVX512BF16__)
    auto* weights = reinterpret_cast<HalfRegister*>(work.weights);
    auto* slopes = reinterpret_cast<HalfRegister*>(work.score_slopes);
    auto* both = reinterpret_cast<typename Tiling<T>::Items*>(work.slope_pairs);
    for (Index n = 0; n < sight.vectors; ++n)
      for (Index j = sight.begin[n]; j < sight.end[n]; j += 2) {
        const Index at = j * kTileVectors + n, next = at + kTileVectors;
        weights[at] = rounded(work.scores[at]);
        weights[next] = rounded(work.scores[next]);
        slopes[at] = rounded(work.slopes[at]);
        slopes[next] = rounded(work.slopes[next]);
        both[j / 2 * kTileVectors + n] = pairs(slopes[at], slopes[next]);
      }
#endif
  }
};

/// One call: its pieces and parts, and the keys and values of a few heads in packed form.
template <class T>
class Backward {
 public:
  using E = Exact<T>;
  using Element = typename Tiling<T>::Element;
  using Vector = typename Tiling<T>::Vector;
  using Item = typename Tiling<T>::Item;
  using Items = typename Tiling<T>::Items;

  Backward(CpuStream& stream, const op::AttentionBackward& op)
      : stream_(stream),
        op_(op),
        window_{op.window, op.chunked},
        pieces_(stream, op.batch.count),
        first_part_(stream, op.batch.count + 1),
        parts_(stream, op.batch.count * kParts),
        width_(padded<T>(op.heads.width)),
        value_width_(padded<T>(op.heads.value_width)) {
    first_part_[0] = 0;
    for (Index i = 0; i < pieces_.count; ++i) {
      Piece& piece = pieces_[i];
      piece.span = op.batch.spans[i];
      piece.first_key = piece.span.position;
      describe(piece, i > 0 ? &pieces_[i - 1] : nullptr, op.heads.heads / op.heads.kv_heads,
               Tiling<T>::kLanes);
      divide(i);
    }
  }

  void run() {
    if (pieces_.count == 0) return;
    const Piece& last = pieces_[pieces_.count - 1];
    const Index blocks = last.packed + last.blocks, parts = first_part_[pieces_.count];
    part_blocks_ = parts_[parts - 1].before + parts_[parts - 1].blocks;
    const Index heads = std::clamp<Index>(4 * stream_.threads() / parts, 1, op_.heads.kv_heads);
    for (Matrix* packed : {&keys_, &key_panels_})
      *packed = Matrix(stream_, dtype_of<Element>(), heads * blocks, kBlock * width_);
    values_ = Matrix(stream_, dtype_of<Element>(), heads * blocks, kBlock * value_width_);
    dk_ = Matrix(stream_, dtype_of<E>(), heads * part_blocks_, kBlock * width_);
    dv_ = Matrix(stream_, dtype_of<E>(), heads * part_blocks_, kBlock * value_width_);
    workspaces_ =
        Matrix(stream_, dtype_of<E>(), stream_.threads(), Workspace<T>::size(width_, value_width_));
    for (Index head = 0; head < op_.heads.kv_heads; head += heads) {
      const Index count = std::min(heads, op_.heads.kv_heads - head);
      parallel_tasks(stream_, count * blocks,
                     [&](Index i) { pack(head + i / blocks, i % blocks, i); });
      parallel_tasks(stream_, count * parts, [&](Index i) {
        work(head + i / parts, parts_[i % parts], i / parts * blocks, i / parts * part_blocks_);
      });
      parallel_tasks(stream_, count * blocks, [&](Index i) {
        finish(head + i / blocks, i % blocks, i / blocks * part_blocks_);
      });
    }
  }

 private:
  /// Lists the parts of piece i.
  void divide(Index i) {
    const Piece& piece = pieces_[i];
    const Index count = std::clamp<Index>(piece.tiles / 2, 1, kParts);
    for (Index p = 0; p < count; ++p) {
      const Index at = first_part_[i] + p;
      const Index first = piece.tiles * p / count, end = piece.tiles * (p + 1) / count;
      const Lanes<T> low(piece, op_.heads, window_, 0, first);
      const Lanes<T> high(piece, op_.heads, window_, 0, end - 1);
      const Index first_block = low.first_key() / kBlock;
      parts_[at] = {.piece = i,
                    .first_tile = first,
                    .end_tile = end,
                    .first_block = first_block,
                    .blocks = high.last_key() / kBlock - first_block + 1,
                    .before = at > 0 ? parts_[at - 1].before + parts_[at - 1].blocks : 0};
    }
    first_part_[i + 1] = first_part_[i] + count;
  }

  void pack(Index head, Index block, Index to) {
    const Piece& piece = piece_of(pieces_, block, &Piece::packed);
    const Index base = (piece.first_block + block - piece.packed) * kBlock - piece.span.position;
    const Index width = op_.heads.width, value_width = op_.heads.value_width;
    Element* keys = keys_.template row<Element>(to);
    Element* values = values_.template row<Element>(to);
    auto* panels = reinterpret_cast<Item*>(key_panels_.template row<Element>(to));
    for (Index j = 0; j < kBlock; j += Tiling<T>::kTerms) {
      const T* rows[Tiling<T>::kTerms];
      for (Index r = 0; r < Tiling<T>::kTerms; ++r) {
        const Index at = base + j + r, row = piece.span.first + at;
        const bool present = at >= 0 && at < piece.span.length;
        const T* value = present ? op_.v.template row<T>(row) + head * value_width : nullptr;
        rows[r] = present ? op_.k.template row<T>(row) + head * width : nullptr;
        pack_row<T>(rows[r], width, keys + (j + r) * width_);
        pack_row<T>(value, value_width, values + (j + r) * value_width_);
      }
      pack_panels<T>(rows, width, j / Tiling<T>::kTerms, panels);
    }
  }

  /// packed and sums: where the head's blocks and sums begin.
  void work(Index head, const Part& part, Index packed, Index sums) {
    const Workspace<T> space(workspaces_.template row<E>(omp_get_thread_num()), width_,
                             value_width_);
    for (const Matrix* gradient : {&dk_, &dv_})
      std::memset(gradient->template row<E>(sums + part.before), 0,
                  static_cast<std::size_t>(part.blocks * gradient->cols()) * sizeof(E));
    for (Index tile = part.first_tile; tile < part.end_tile; ++tile)
      work_on_tile(space, Lanes<T>(pieces_[part.piece], op_.heads, window_, head, tile), part,
                   packed, sums);
  }

  void work_on_tile(const Workspace<T>& space, const Lanes<T>& lanes, const Part& part,
                    Index packed, Index sums) {
    const Index width = op_.heads.width, value_width = op_.heads.value_width;
    const Piece& piece = pieces_[part.piece];
    pack_columns<T>(op_.q, lanes, width, space.q_columns);
    pack_columns<T>(op_.dy, lanes, value_width, space.dy_columns);
    pack_rows<T>(op_.q, lanes, width, space.q_rows);
    pack_rows<T>(op_.dy, lanes, value_width, space.dy_rows);
    for (Index i = 0; i < width_ * kTileVectors; ++i) space.dq[i] = Vector{};
    Slopes<T> slopes(op_, lanes);
    for (Index b = lanes.first_key() / kBlock; b <= lanes.last_key() / kBlock; ++b) {
      const Sight<T> sight(lanes, b);
      const Index row = packed + piece.packed + b - piece.first_block;
      score<T>(keys_.template row<Element>(row), space.q_columns, width, sight, space.scores);
      score<T>(values_.template row<Element>(row), space.dy_columns, value_width, sight,
               space.slopes);
      if (sight.all)
        slopes.template weigh<true>(space, sight);
      else
        slopes.template weigh<false>(space, sight);
      accumulate<T>(key_panels_.template row<Element>(row),
                    reinterpret_cast<const Items*>(space.slope_pairs), width, sight, nullptr,
                    space.dq);
      const Index sum = sums + part.before + b - part.first_block;
      add_keys(space.score_slopes, space.q_rows, width_, sight, dk_.template row<E>(sum));
      add_keys(space.weights, space.dy_rows, value_width_, sight, dv_.template row<E>(sum));
    }
    const Vector scale = Vector{} + static_cast<E>(op_.scale);
    const Vector scales[] = {scale, scale, scale};
    unpack_columns<T>(space.dq, scales, lanes, width, op_.dq);
  }

  /// sums[j] += sum over lanes of factors[j][lane] rows[lane], rows of `width`
  void add_keys(const Element* factors, const Element* rows, Index width, const Sight<T>& sight,
                E* sums) {
    constexpr Index kItems = Tiling<T>::kPerVector / Tiling<T>::kTerms;  // of one vector of lanes
    const Index columns = width / Tiling<T>::kPerVector;
    sight.rectangles([&](Index begin, Index end, Index n, Index count) {
      for (Index j = begin; j < end; j += kTileRows)
        multiply_columns<T>(
            Product<T>{
                .terms = count * kItems,
                .a = reinterpret_cast<const Item*>(factors) + (j * kTileVectors + n) * kItems,
                .a_row = kTileVectors * kItems,
                .a_term = 1,
                .b = reinterpret_cast<const Items*>(rows) + n * kItems * columns,
                .b_term = columns,
                .sums = reinterpret_cast<Vector*>(sums) + j * columns,
                .sums_row = columns},
            columns);
    });
  }

  /// Adds up the parts' sums of one block, in the first of them.
  void finish(Index head, Index block, Index sums) {
    const Piece& piece = piece_of(pieces_, block, &Piece::packed);
    const Index b = piece.first_block + block - piece.packed, i = &piece - &pieces_[0];
    E* dk = nullptr;
    E* dv = nullptr;
    for (Index p = first_part_[i]; p < first_part_[i + 1]; ++p) {
      const Part& part = parts_[p];
      if (b < part.first_block || b >= part.first_block + part.blocks) continue;
      E* more_dk = dk_.template row<E>(sums + part.before + b - part.first_block);
      E* more_dv = dv_.template row<E>(sums + part.before + b - part.first_block);
      if (dk != nullptr) {
        add(dk, more_dk, dk_.cols());
        add(dv, more_dv, dv_.cols());
      } else {
        dk = more_dk;
        dv = more_dv;
      }
    }
    const Index base = b * kBlock - piece.span.position;
    const Index end = std::min(kBlock, piece.span.length - base);
    for (Index j = std::max<Index>(0, -base); j < end; ++j) {
      const Index row = piece.span.first + base + j;
      write(op_.dk.template row<T>(row) + head * op_.heads.width, op_.heads.width, dk + j * width_,
            static_cast<E>(op_.scale));
      write(op_.dv.template row<T>(row) + head * op_.heads.value_width, op_.heads.value_width,
            dv + j * value_width_, E{1});
    }
  }

  static void add(E* to, const E* from, Index count) {
#pragma omp simd
    for (Index i = 0; i < count; ++i) to[i] += from[i];
  }

  static void write(T* to, Index width, const E* sums, E scale) {
#pragma omp simd
    for (Index d = 0; d < width; ++d) put(to[d], sums[d] * scale);
  }

  CpuStream& stream_;
  const op::AttentionBackward& op_;
  Window window_;
  Array<Piece> pieces_;
  Array<Index> first_part_;  ///< of each piece; behind the last their number
  Array<Part> parts_;
  Index width_;
  Index value_width_;
  Index part_blocks_ = 0;
  Matrix keys_;        ///< [heads * blocks] of [kBlock, width]
  Matrix key_panels_;  ///< the same in panels
  Matrix values_;      ///< [heads * blocks] of [kBlock, value width]
  Matrix dk_;          ///< [heads * part_blocks] of [kBlock, width]: the parts' sums
  Matrix dv_;          ///< [heads * part_blocks] of [kBlock, value width]
  Matrix workspaces_;
};

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::AttentionBackward& op) {
  visit_float(op.dtype(), [&]<class T>() { Backward<T>(stream, op).run(); });
}

template void run_on<kTier>(CpuStream&, const op::AttentionBackward&);

}  // namespace samba
