#include "kernels/cpu/linear_attention_tile.h"
#include "kernels/cpu/parallel.h"
#include "kernels/linear_attention.h"

namespace samba {
namespace {

/// One head of one span. With s_ij the decayed scores and D the gradient of the state behind the
/// chunk, in the notation of linear_attention_tile.h:
///
///   ds_ij  = dy_i . v_j                                          j <= i
///   dq_i   = scale 2^G_i [S dy_i + sum_j ds_ij k_j 2^-G_j]
///   dk_j   = 2^(G_end - G_j) D v_j + 2^-G_j sum_i ds_ij scale q_i 2^G_i
///   dv_j   = Dᵀ (k_j 2^(G_end - G_j)) + sum_i s_ij dy_i
///   D'     = 2^G_end D + sum_i (scale q_i 2^G_i) dy_iᵀ
///
/// A first walk, from the beginning, carries S for dq; a second, from the end, carries D. The
/// logarithm of a decay at t takes part in all pairs j < t <= i, and those are what remains of
///   sum over t' >= t of q_t' dq_t' - k_t' dk_t'.
template <class T>
class Backward {
 public:
  using R = Exact<T>;
  using L = Lanes<R>;

  static Index memory(Index keys, Index values, Index longest) {
    const Index k = whole_tiles<R>(keys), v = whole_tiles<R>(values);
    // Whole tiles, so that each thread's share begins where a vector may.
    return kChunk * (6 * k + 3 * v + kChunk) + k * (v + kChunk + 2) + v * kChunk +
           (longest + kChunk) * (k + kChunk) + whole_tiles<R>(longest + kChunk);
  }

  Backward(const op::LinearAttentionBackward& op, Index span, Index head, R* memory)
      : op_(op),
        span_(op.batch.spans[span]),
        head_(head),
        keys_(op.q.cols / op.heads),
        values_(op.dy.cols / op.heads) {
    Arena<R> arena{memory};
    const Index k = whole_tiles<R>(keys_), v = whole_tiles<R>(values_);
    state_ = arena.take(k, v);
    decay_ = arena.take(kChunk + 1, k);
    q_ = arena.take(kChunk, k);
    k_ = arena.take(kChunk, k);
    key_ = arena.take(kChunk, k);
    rest_ = arena.take(kChunk, k);
    sums_ = arena.take(kChunk, k);
    change_ = arena.take(1, k);
    key_columns_ = arena.take(k, kChunk);
    v_ = arena.take(kChunk, v);
    dy_ = arena.take(kChunk, v);
    dv_ = arena.take(kChunk, v);
    value_columns_ = arena.take(v, kChunk);
    scores_ = arena.take(kChunk, kChunk);
    // A chunk's last rows are padding: the next chunk, or the memory behind, takes them over.
    dscores_ = arena.take(span_.length + kChunk, kChunk);
    query_share_ = arena.take(span_.length + kChunk, k);
    lengths_ = arena.take(span_.length, 1);
  }

  void run() {
    Index chunks = 0;
    // The state stands transposed in this walk: [V, K].
    state_.cols = whole_tiles<R>(keys_);
    clear_state();
    for (Index done = 0; done < span_.length; ++chunks) {
      const Index length = query_gradient(done);
      lengths_.p[chunks] = static_cast<R>(length);
      done += length;
    }
    state_.cols = whole_tiles<R>(values_);
    clear_state();
    std::fill_n(change_.p, change_.cols, R{0});
    for (Index end = span_.length; end > 0;) {
      const auto length = static_cast<Index>(lengths_.p[--chunks]);
      end -= length;
      key_and_value_gradient(end, length);
    }
  }

 private:
  Index key_column() const { return head_ * keys_; }
  Index value_column() const { return head_ * values_; }
  void clear_state() {
    std::fill_n(state_.p, whole_tiles<R>(keys_) * whole_tiles<R>(values_), R{0});
  }

  /// Fills q_ with scale q 2^G, k_ with k 2^-G, key_ with k, rest_ with k 2^(G_end - G).
  void load(Index row, Index length) {
    load_chunk<T>(op_.q, row, length, key_column(), keys_, q_);
    load_chunk<T>(op_.k, row, length, key_column(), keys_, key_);
    load_chunk<T>(op_.v, row, length, value_column(), values_, v_);
    load_chunk<T>(op_.dy, row, length, value_column(), values_, dy_);
    const R* end = decay_.row(length - 1);
    const L scale = L::all(static_cast<R>(op_.scale));
    for (Index t = 0; t < length; ++t)
      for (Index c = 0; c < q_.cols; c += L::kCount) {
        const L sum = L::load(decay_.row(t) + c), key = L::load(key_.row(t) + c);
        (L::load(q_.row(t) + c) * scale * exp2(sum)).store(q_.row(t) + c);
        (key * exp2(L::all(0) - sum)).store(k_.row(t) + c);
        (key * exp2(L::load(end + c) - sum)).store(rest_.row(t) + c);
      }
    std::fill(k_.row(length), k_.row(kChunk), R{0});
    std::fill(rest_.row(length), rest_.row(kChunk), R{0});
    transpose(v_, kChunk, value_columns_);
  }

  /// The chunk from token `begin` of the span on; returns its length.
  Index query_gradient(Index begin) {
    const Index row = span_.first + begin, k = q_.cols, v = v_.cols;
    const Index length =
        load_decays<T>(op_.gate, head_, row, span_.length - begin, key_column(), keys_, decay_);
    load(row, length);
    const Index rows = whole_tiles<R>(length);
    const Tile<R> dscores{dscores_.row(begin), kChunk};
    multiply<R, false, Part::result>(rows, rows, v, dy_.rows(), value_columns_.p, kChunk, dscores.p,
                                     kChunk);
    for (Index i = 0; i < length; ++i)
      std::fill(dscores.row(i) + i + 1, dscores.row(i) + kChunk, R{0});
    multiply<R, false>(rows, k, v, dy_.rows(), state_.p, k, sums_.p, k);
    multiply<R, true, Part::lower>(rows, k, length, dscores.rows(), k_.p, k, sums_.p, k);
    const L scale = L::all(static_cast<R>(op_.scale));
    for (Index t = 0; t < length; ++t) {
      const T* q = op_.q.row<T>(row + t) + key_column();
      for (Index c = 0; c < k; c += L::kCount) {
        const L dq = L::load(sums_.row(t) + c) * scale * exp2(L::load(decay_.row(t) + c));
        dq.store(sums_.row(t) + c);
        (dq * load_left(q + c, keys_ - c)).store(query_share_.row(begin + t) + c);
      }
    }
    store_chunk<T>(op_.dq, row, length, key_column(), keys_, sums_);
    const R* end = decay_.row(length - 1);
    for (Index c = 0; c < k; c += L::kCount) {
      const L factor = exp2(L::load(end + c));
      for (Index r = 0; r < values_; ++r)
        (L::load(state_.row(r) + c) * factor).store(state_.row(r) + c);
    }
    multiply<R, true>(v, k, length, v_.columns(), rest_.p, k, state_.p, k);
    return length;
  }

  void key_and_value_gradient(Index begin, Index length) {
    const Index row = span_.first + begin, k = q_.cols, v = v_.cols;
    load_decays<T>(op_.gate, head_, row, length, key_column(), keys_, decay_);
    load(row, length);
    const Index rows = whole_tiles<R>(length);
    const Tile<R> dscores{dscores_.row(begin), kChunk};
    transpose(k_, kChunk, key_columns_);
    multiply<R, false, Part::result>(rows, rows, k, q_.rows(), key_columns_.p, kChunk, scores_.p,
                                     kChunk);
    keep_lower(scores_);
    multiply<R, false>(rows, v, k, rest_.rows(), state_.p, v, dv_.p, v);
    multiply<R, true, Part::upper>(rows, v, length, scores_.columns(), dy_.p, v, dv_.p, v);
    store_chunk<T>(op_.dv, row, length, value_column(), values_, dv_);

    multiply<R, false, Part::upper>(rows, k, length, dscores.columns(), q_.p, k, sums_.p, k);
    // D v for each token stands in columns; key_columns_ is free to take it, then k_ its transpose.
    multiply<R, false>(k, rows, v, state_.rows(), value_columns_.p, kChunk, key_columns_.p, kChunk);
    transpose(key_columns_, k, k_);
    const R* end = decay_.row(length - 1);
    for (Index t = 0; t < length; ++t)
      for (Index c = 0; c < k; c += L::kCount) {
        const L sum = L::load(decay_.row(t) + c);
        const L later = L::load(k_.row(t) + c) * exp2(L::load(end + c) - sum);
        const L dk = L::multiply_add(L::load(sums_.row(t) + c), exp2(L::all(0) - sum), later);
        dk.store(sums_.row(t) + c);
      }
    store_chunk<T>(op_.dk, row, length, key_column(), keys_, sums_);
    if (!op_.gate.empty()) gate_gradient(begin, length);
    decay_rows(state_, keys_, end);
    multiply<R, true>(k, v, length, q_.columns(), dy_.p, v, state_.p, v);
  }

  /// sums_ holds dk.
  void gate_gradient(Index begin, Index length) {
    const L share = L::all(R{1} / op::LinearAttention::kGateDivisor);
    for (Index t = length; t-- > 0;) {
      const T* gate = op_.gate.row<T>(span_.first + begin + t) + key_column();
      T* to = op_.dgate.row<T>(span_.first + begin + t) + key_column();
      for (Index c = 0; c < q_.cols; c += L::kCount) {
        const L pairs = L::load(change_.p + c) + L::load(query_share_.row(begin + t) + c) -
                        L::load(key_.row(t) + c) * L::load(sums_.row(t) + c);
        pairs.store(change_.p + c);
        const L x = load_left(gate + c, keys_ - c);
        const L slope =
            where_above(gated_decay(x), kLeastDecay<R>, sigmoid(L::all(0) - x) * share, L::all(0));
        store_left(to + c, keys_ - c, pairs * slope);
      }
    }
  }

  const op::LinearAttentionBackward& op_;
  const Span& span_;
  const Index head_, keys_, values_;
  Tile<R> state_, decay_, q_, k_, key_, rest_, sums_, change_, key_columns_;
  Tile<R> v_, dy_, dv_, value_columns_, scores_;
  Tile<R> dscores_;      ///< of all chunks
  Tile<R> query_share_;  ///< q dq of all tokens
  Tile<R> lengths_;      ///< of the chunks
};

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::LinearAttentionBackward& op) {
  const Index spans = op.batch.count, heads = op.heads;
  if (spans == 0) return;
  visit_float(op.dtype(), [&]<class T>() {
    using R = Exact<T>;
    const Matrix memory(
        stream, dtype_of<R>(), stream.threads(),
        Backward<T>::memory(op.q.cols / heads, op.dy.cols / heads, op.batch.longest));
    parallel_tasks(stream, spans * heads, [&](Index task) {
      Backward<T>(op, task / heads, task % heads, memory.row<R>(omp_get_thread_num())).run();
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::LinearAttentionBackward&);

}  // namespace samba
