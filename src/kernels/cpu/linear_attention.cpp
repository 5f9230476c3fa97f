#include "kernels/linear_attention.h"

#include "kernels/cpu/linear_attention_tile.h"
#include "kernels/cpu/parallel.h"

namespace samba {
namespace {

/// One head of one span, and the columns of its values that a task takes.
struct Work {
  Index span, head, first_value, values;
};

/// Spans of fewer tokens are quicker one by one.
constexpr Index kShort = 8;

template <class T>
class Forward {
 public:
  using R = Exact<T>;
  using L = Lanes<R>;

  static Index memory(Index keys, Index values) {
    const Index k = whole_tiles<R>(keys), v = whole_tiles<R>(values);
    return kChunk * (5 * k + 2 * v + kChunk) + k * (v + 1);
  }

  Forward(const op::LinearAttention& op, const Work& work, R* memory)
      : op_(op),
        work_(work),
        span_(op.batch.spans[work.span]),
        keys_(op.q.cols / op.heads),
        head_values_(op.y.cols / op.heads) {
    Arena<R> arena{memory};
    const Index k = whole_tiles<R>(keys_), v = whole_tiles<R>(work.values);
    state_ = arena.take(k, v);
    decay_ = arena.take(kChunk + 1, k);
    q_ = arena.take(kChunk, k);
    k_ = arena.take(kChunk, k);
    rest_ = arena.take(kChunk, k);
    transposed_ = arena.take(k, kChunk);
    v_ = arena.take(kChunk, v);
    y_ = arena.take(kChunk, v);
    scores_ = arena.take(kChunk, kChunk);
  }

  void run() {
    const bool kept = !op_.state.empty() && span_.slot >= 0;
    R* slot =
        kept ? op_.state.row<R>(span_.slot) + work_.head * keys_ * head_values_ + work_.first_value
             : nullptr;
    // What a slot holds is worked on in place where it is not padded.
    const bool steps = std::is_same_v<R, double> || span_.length < kShort;
    if (steps && kept) {
      if (!span_.continues())
        for (Index r = 0; r < keys_; ++r) std::fill_n(slot + r * head_values_, work_.values, R{0});
      for (Index t = 0; t < span_.length; ++t) step(span_.first + t, slot, head_values_);
      return;
    }
    std::fill(state_.p, state_.row(whole_tiles<R>(keys_)), R{0});
    if (kept && span_.continues())
      for (Index r = 0; r < keys_; ++r)
        std::copy_n(slot + r * head_values_, work_.values, state_.row(r));
    if (steps) {
      for (Index t = 0; t < span_.length; ++t) step(span_.first + t, state_.p, state_.cols);
      return;
    }
    for (Index done = 0; done < span_.length;)
      done += chunk(span_.first + done, span_.length - done);
    if (kept)
      for (Index r = 0; r < keys_; ++r)
        std::copy_n(state_.row(r), work_.values, slot + r * head_values_);
  }

 private:
  Index key_column() const { return work_.head * keys_; }
  Index value_column() const { return work_.head * head_values_ + work_.first_value; }

  /// The recurrence for one token; state [K, values], rows `stride` apart.
  void step(Index row, R* state, Index stride) {
    R* decay = decay_.p;
    R* query = q_.p;
    R* key = k_.p;
    const R constant = static_cast<R>(retention(work_.head));
    const auto at = [&](ConstView x, Index c) {
      return load_left(x.row<T>(row) + key_column() + c, keys_ - c);
    };
    for (Index c = 0; c < keys_; c += L::kCount) {
      const L log = op_.gate.empty() ? L::all(constant) : gated_decay(at(op_.gate, c));
      exp2(log).store(decay + c);
      (at(op_.q, c) * L::all(static_cast<R>(op_.scale))).store(query + c);
      at(op_.k, c).store(key + c);
    }
    constexpr Index kTogether = 4 * L::kCount;
    Index c = 0;
    for (; c + kTogether <= work_.values; c += kTogether)
      step_columns<4>(row, state + c, stride, c);
    for (; c < work_.values; c += L::kCount) step_columns<1>(row, state + c, stride, c);
  }

  template <int kRegisters>
  void step_columns(Index row, R* state, Index stride, Index column) {
    const Index left = work_.values - column;
    const T* v = op_.v.row<T>(row) + value_column() + column;
    L values[kRegisters], sums[kRegisters] = {};
    for (int n = 0; n < kRegisters; ++n)
      values[n] = load_left(v + n * L::kCount, left - n * L::kCount);
    for (Index r = 0; r < keys_; ++r, state += stride) {
      const L decay = L::all(decay_.p[r]), key = L::all(k_.p[r]), query = L::all(q_.p[r]);
      for (int n = 0; n < kRegisters; ++n) {
        R* to = state + n * L::kCount;
        const L s = L::multiply_add(key, values[n], load_left(to, left - n * L::kCount) * decay);
        store_left(to, left - n * L::kCount, s);
        sums[n] = L::multiply_add(query, s, sums[n]);
      }
    }
    T* y = op_.y.row<T>(row) + value_column() + column;
    for (int n = 0; n < kRegisters; ++n)
      store_left(y + n * L::kCount, left - n * L::kCount, sums[n]);
  }

  /// The tokens from `row` on, at most `most`; returns how many it took.
  Index chunk(Index row, Index most) {
    const Index k = state_.cols > 0 ? whole_tiles<R>(keys_) : 0, v = state_.cols;
    const Index length =
        load_decays<T>(op_.gate, work_.head, row, most, key_column(), keys_, decay_);
    load_chunk<T>(op_.q, row, length, key_column(), keys_, q_);
    load_chunk<T>(op_.k, row, length, key_column(), keys_, k_);
    load_chunk<T>(op_.v, row, length, value_column(), work_.values, v_);
    const R* end = decay_.row(length - 1);
    const L scale = L::all(static_cast<R>(op_.scale));
    std::fill(rest_.row(length), rest_.row(kChunk), R{0});
    for (Index t = 0; t < length; ++t)
      for (Index c = 0; c < k; c += L::kCount) {
        const L sum = L::load(decay_.row(t) + c), key = L::load(k_.row(t) + c);
        (L::load(q_.row(t) + c) * scale * exp2(sum)).store(q_.row(t) + c);
        (key * exp2(L::all(0) - sum)).store(k_.row(t) + c);
        (key * exp2(L::load(end + c) - sum)).store(rest_.row(t) + c);
      }
    transpose(k_, kChunk, transposed_);
    const Index rows = whole_tiles<R>(length);
    multiply<R, false, Part::result>(rows, rows, k, q_.rows(), transposed_.p, kChunk, scores_.p,
                                     kChunk);
    keep_lower(scores_);
    multiply<R, false>(rows, v, k, q_.rows(), state_.p, v, y_.p, v);
    multiply<R, true, Part::lower>(rows, v, length, scores_.rows(), v_.p, v, y_.p, v);
    store_chunk<T>(op_.y, row, length, value_column(), work_.values, y_);
    decay_rows(state_, keys_, end);
    multiply<R, true>(k, v, length, rest_.columns(), v_.p, v, state_.p, v);
    return length;
  }

  const op::LinearAttention& op_;
  const Work work_;
  const Span& span_;
  const Index keys_, head_values_;
  Tile<R> state_, decay_, q_, k_, rest_, transposed_, v_, y_, scores_;
};

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::LinearAttention& op) {
  const Index spans = op.batch.count, heads = op.heads, values = op.y.cols / heads;
  if (spans == 0 || values == 0) return;
  visit_float(op.dtype(), [&]<class T>() {
    using R = Exact<T>;
    // Where there are fewer heads than threads, several share one: each takes some of its values.
    const Index lines = (values + whole_tiles<R>(1) - 1) / whole_tiles<R>(1);
    const Index parts =
        std::clamp<Index>((stream.threads() + spans * heads - 1) / (spans * heads), 1, lines);
    const Index width = (lines + parts - 1) / parts * whole_tiles<R>(1);
    const Matrix memory(stream, dtype_of<R>(), stream.threads(),
                        Forward<T>::memory(op.q.cols / heads, width));
    parallel_tasks(stream, spans * heads * parts, [&](Index task) {
      const Index part = task % parts, first = part * width;
      if (first >= values) return;
      const Work work{task / parts / heads, task / parts % heads, first,
                      std::min(width, values - first)};
      Forward<T>(op, work, memory.row<R>(omp_get_thread_num())).run();
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::LinearAttention&);

}  // namespace samba
