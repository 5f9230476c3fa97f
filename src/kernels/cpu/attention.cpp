#include "kernels/attention.h"

#include <cstring>

#include "kernels/cpu/attention_step.h"
#include "kernels/cpu/attention_tile.h"

namespace samba {
namespace {

/// The softmax of the lanes, block by block: largest raw score and sum of the weights so far.
template <class T>
struct Softmax {
  using Vector = typename Tiling<T>::Vector;
  using Items = typename Tiling<T>::Items;
  using E = Exact<T>;
  Vector largest[kTileVectors];
  Vector sum[kTileVectors];
  Vector factor[kTileVectors];  ///< what the last block multiplies everything before it by
  E scale;                      ///< of the scores, as exponents of two

  explicit Softmax(double scale_of_scores) : scale(static_cast<E>(scale_of_scores * kLog2e)) {
    for (Index n = 0; n < kTileVectors; ++n) {
      largest[n] = Vector{} + static_cast<E>(kNothing);
      sum[n] = Vector{};
    }
  }

  template <bool kAll>
  void raise(Vector* scores, const Sight<T>& sight) {
    for (Index n = 0; n < sight.vectors; ++n) {
      Vector most = largest[n];
      for (Index j = sight.begin[n]; j < sight.end[n]; ++j) {
        Vector& s = scores[j * kTileVectors + n];
        if constexpr (!kAll) s = sight.of(j, n) ? s : Vector{} + static_cast<E>(kNothing);
        most = most < s ? s : most;
      }
      factor[n] = power_of_two((largest[n] - most) * scale);
      largest[n] = most;
    }
  }

  template <bool kAll>
  [[gnu::always_inline]] Vector weight(Vector s, Vector most) {
    const Vector w = power_of_two((s - most) * scale);
    if constexpr (kAll)
      return w;
    else
      return s > static_cast<E>(kNothing / 2) ? w : Vector{};
  }

  /// Turns scores into weights; pairs of bf16 weights of two keys go into the lower key's row.
  template <bool kAll>
  void weigh(Vector* scores, const Sight<T>& sight) {
    raise<kAll>(scores, sight);
    auto* items = reinterpret_cast<Items*>(scores);
    for (Index n = 0; n < sight.vectors; ++n) {
      const Vector most = largest[n];
      Vector total = sum[n] * factor[n];
      for (Index j = sight.begin[n]; j < sight.end[n]; j += Tiling<T>::kTerms) {
        Vector w = weight<kAll>(scores[j * kTileVectors + n], most);
        total += w;
        if constexpr (Tiling<T>::kTerms == 1) {
          items[j * kTileVectors + n] = w;
        } else {
          const Vector next = weight<kAll>(scores[(j + 1) * kTileVectors + n], most);
          total += next;
#if defined(__AVX512BF16__)
          items[j / 2 * kTileVectors + n] = pairs(rounded(w), rounded(next));
#endif
        }
      }
      sum[n] = total;
    }
  }
};

/// One call: its pieces, and the keys and values of a few heads in packed form.
template <class T>
class Forward {
 public:
  using E = Exact<T>;
  using Element = typename Tiling<T>::Element;
  using Vector = typename Tiling<T>::Vector;

  Forward(CpuStream& stream, const op::Attention& op, const Array<Span>& spans)
      : stream_(stream),
        op_(op),
        window_{op.window, op.chunked},
        pieces_(stream, spans.count),
        width_(padded<T>(op.heads.width)),
        value_width_(padded<T>(op.heads.value_width)) {
    const Index group = op.heads.heads / op.heads.kv_heads;
    for (Index i = 0; i < pieces_.count; ++i) {
      Piece& piece = pieces_[i];
      piece.span = spans[i];
      piece.first_key = piece.span.position;
      if (piece.span.continues() && !op.key_state.empty())
        piece.first_key = window_.first_key(piece.span.position);
      describe(piece, i > 0 ? &pieces_[i - 1] : nullptr, group, Tiling<T>::kLanes);
    }
  }

  void run() {
    const Piece& last = pieces_[pieces_.count - 1];
    const Index blocks = last.packed + last.blocks, tiles = last.tile + last.tiles;
    // A few heads at a time where one has too few tiles to keep all threads busy.
    const Index heads = std::clamp<Index>(4 * stream_.threads() / tiles, 1, op_.heads.kv_heads);
    keys_ = Matrix(stream_, dtype_of<Element>(), heads * blocks, kBlock * width_);
    values_ = Matrix(stream_, dtype_of<Element>(), heads * blocks, kBlock * value_width_);
    scratch_ = Matrix(stream_, dtype_of<E>(), stream_.threads(),
                      (kBlock + width_ + value_width_) * Tiling<T>::kLanes);
    for (Index head = 0; head < op_.heads.kv_heads; head += heads) {
      const Index count = std::min(heads, op_.heads.kv_heads - head);
      parallel_tasks(stream_, count * blocks,
                     [&](Index i) { pack(head + i / blocks, i % blocks, i); });
      parallel_tasks(stream_, count * tiles,
                     [&](Index i) { attend(head + i / tiles, i % tiles, i / tiles * blocks); });
    }
    if (!op_.key_state.empty())
      parallel_tasks(stream_, pieces_.count, [&](Index i) { leave(pieces_[i].span); });
  }

 private:
  Index capacity() const { return op_.key_state.cols / (op_.heads.kv_heads * op_.heads.width); }

  /// The row of a position, in the ring or in the span.
  const T* find(ConstView rows, ConstView state, const Piece& piece, Index position) const {
    const Index end = piece.span.position + piece.span.length;
    if (position < piece.first_key || position >= end) return nullptr;
    if (position >= piece.span.position)
      return rows.row<T>(piece.span.first + position - piece.span.position);
    return state.row<T>(piece.span.slot) + position % capacity() * rows.cols;
  }

  void pack(Index head, Index block, Index to) {
    const Piece& piece = piece_of(pieces_, block, &Piece::packed);
    const Index base = (piece.first_block + block - piece.packed) * kBlock;
    const Index width = op_.heads.width, value_width = op_.heads.value_width;
    Element* keys = keys_.template row<Element>(to);
    auto* values = reinterpret_cast<typename Tiling<T>::Item*>(values_.template row<Element>(to));
    for (Index j = 0; j < kBlock; j += Tiling<T>::kTerms) {
      const T* rows[Tiling<T>::kTerms];
      for (Index r = 0; r < Tiling<T>::kTerms; ++r) {
        const T* key = find(op_.k, op_.key_state, piece, base + j + r);
        rows[r] = find(op_.v, op_.value_state, piece, base + j + r);
        if (key != nullptr) key += head * width, rows[r] += head * value_width;
        pack_row<T>(key, width, keys + (j + r) * width_);
      }
      pack_panels<T>(rows, value_width, j / Tiling<T>::kTerms, values);
    }
  }

  void attend(Index head, Index tile, Index packed) {
    const Piece& piece = piece_of(pieces_, tile, &Piece::tile);
    const Lanes<T> lanes(piece, op_.heads, window_, head, tile - piece.tile);
    auto* scores = reinterpret_cast<Vector*>(scratch_.template row<E>(omp_get_thread_num()));
    Vector* sums = scores + kBlock * kTileVectors;
    auto* queries = reinterpret_cast<Element*>(sums + value_width_ * kTileVectors);
    pack_columns<T>(op_.q, lanes, op_.heads.width, queries);
    for (Index i = 0; i < value_width_ * kTileVectors; ++i) sums[i] = Vector{};
    Softmax<T> softmax(op_.scale);
    for (Index b = lanes.first_key() / kBlock; b <= lanes.last_key() / kBlock; ++b) {
      const Sight<T> sight(lanes, b);
      const Index row = packed + piece.packed + b - piece.first_block;
      score<T>(keys_.template row<Element>(row), queries, op_.heads.width, sight, scores);
      if (sight.all)
        softmax.template weigh<true>(scores, sight);
      else
        softmax.template weigh<false>(scores, sight);
      accumulate<T>(values_.template row<Element>(row),
                    reinterpret_cast<typename Tiling<T>::Items*>(scores), op_.heads.value_width,
                    sight, softmax.factor, sums);
    }
    write(lanes, softmax, sums);
  }

  void write(const Lanes<T>& lanes, const Softmax<T>& softmax, const Vector* sums) {
    Vector inverse[kTileVectors] = {};
    for (Index n = 0; n < lanes.vectors; ++n) inverse[n] = 1 / softmax.sum[n];
    unpack_columns<T>(sums, inverse, lanes, op_.heads.value_width, op_.y);
    if (op_.lse.empty()) return;
    for (Index i = 0; i < lanes.count; ++i) {
      const Index n = i / Tiling<T>::kPerVector, lane = i % Tiling<T>::kPerVector;
      const E exponent = softmax.largest[n][lane] * softmax.scale + std::log2(softmax.sum[n][lane]);
      op_.lse.template row<E>(lanes.row[i])[lanes.head[i]] = exponent * static_cast<E>(kLn2);
    }
  }

  /// Writes the span's last keys and values to the ring.
  void leave(const Span& span) {
    if (span.slot < 0) return;
    const auto copy_row = [&](View ring, ConstView rows, Index i) {
      std::memcpy(ring.row<T>(span.slot) + (span.position + i) % capacity() * rows.cols,
                  rows.row<T>(span.first + i), static_cast<std::size_t>(rows.cols) * sizeof(T));
    };
    for (Index i = std::max<Index>(0, span.length - capacity()); i < span.length; ++i) {
      copy_row(op_.key_state, op_.k, i);
      copy_row(op_.value_state, op_.v, i);
    }
  }

  CpuStream& stream_;
  const op::Attention& op_;
  Window window_;
  Array<Piece> pieces_;
  Index width_;
  Index value_width_;
  Matrix keys_;     ///< [heads * blocks] of [kBlock, width]
  Matrix values_;   ///< [heads * blocks] of [kBlock, value width] in panels
  Matrix scratch_;  ///< a row for each thread: scores, sums, queries
};

template <class T>
void attend(CpuStream& stream, const op::Attention& op) {
  Array<Span> steps(stream, op.batch.count), others(stream, op.batch.count);
  steps.count = others.count = 0;
  for (Index i = 0; i < op.batch.count; ++i) {
    const Span& span = op.batch.spans[i];
    // Chunks of float64 must give the bits of the whole, so there a token takes the way of a tile.
    const bool step = dtype_of<T>() != DType::f64 && span.length == 1 && span.continues() &&
                      !op.key_state.empty();
    Array<Span>& to = step ? steps : others;
    to[to.count++] = span;
  }
  if constexpr (dtype_of<T>() != DType::f64)
    if (steps.count > 0) Steps<T>(stream, op, steps).run();
  if (others.count > 0) Forward<T>(stream, op, others).run();
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::Attention& op) {
  visit_float(op.dtype(), [&]<class T>() { attend<T>(stream, op); });
}

template void run_on<kTier>(CpuStream&, const op::Attention&);

}  // namespace samba
