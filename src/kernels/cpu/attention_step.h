#pragma once

#include "kernels/cpu/attention_tile.h"

// One token against its ring, which is bound by reading keys and values once: no tiles, no copies.
// A task is kChunk keys of one span, for all heads, so that it reads whole rows one after another.
// Chunks begin at multiples of kChunk of the position, and their sums are added in order.

namespace samba {
namespace {

template <class T>
class Steps {
 public:
  Steps(CpuStream& stream, const op::Attention& op, const Array<Span>& spans)
      : stream_(stream),
        op_(op),
        window_{op.window, op.chunked},
        spans_(spans),
        first_task_(stream, spans.count + 1) {
    first_task_[0] = 0;
    for (Index i = 0; i < spans.count; ++i)
      first_task_[i + 1] =
          first_task_[i] + spans[i].position / kChunk - first_key(spans[i]) / kChunk + 1;
  }

  void run() {
    const Index heads = op_.heads.heads, width = op_.heads.width, tasks = first_task_[spans_.count];
    const Index value_width = op_.heads.value_width;
    sums_ = Matrix(stream_, DType::f32, tasks, heads * value_width);
    largest_ = Matrix(stream_, DType::f32, tasks, heads);
    totals_ = Matrix(stream_, DType::f32, tasks, heads);
    queries_ = Matrix(stream_, DType::f32, spans_.count, heads * width);
    weights_ = Matrix(stream_, DType::f32, stream_.threads(), heads * kChunk);
    rows_ = Matrix(stream_, DType::f32, stream_.threads(), kRows * std::max(width, value_width));
    for (Index i = 0; i < spans_.count; ++i) prepare(i);
    parallel_tasks(stream_, tasks, [&](Index task) { attend(task); });
    parallel_tasks(stream_, spans_.count, [&](Index i) { finish(i); });
  }

 private:
  using Vector = Register<float>::Type;
  static constexpr Index kChunk = 128;
  static constexpr Index kRows = 8;  // keys in flight
  static constexpr Index kVector = Tiling<float>::kPerVector;

  Index first_key(const Span& span) const { return window_.first_key(span.position); }

  /// The sum, or with kLargest the largest, of the elements.
  template <bool kLargest>
  [[gnu::always_inline]] static float fold(Vector x) {
    typedef std::int32_t Order __attribute__((vector_size(kVectorBytes)));
    for (Index half = kVector / 2; half > 0; half /= 2) {
      Order order;
      for (Index i = 0; i < kVector; ++i) order[i] = static_cast<std::int32_t>(i ^ half);
      const Vector other = __builtin_shuffle(x, order);
      if constexpr (kLargest)
        x = x < other ? other : x;
      else
        x += other;
    }
    return x[0];
  }

  /// Two orders that join vectors of runs of `run` elements: what halves of the runs are added.
  struct Halves {
    std::int32_t low[kVector];
    std::int32_t high[kVector];
  };
  static constexpr Halves halves_of(Index run) {
    Halves halves{};
    for (Index i = 0; i < kVector; ++i) {
      const Index of_half = i % (kVector / 2), half = run / 2;
      const Index at = i / (kVector / 2) * kVector + of_half / half * run + of_half % half;
      halves.low[i] = static_cast<std::int32_t>(at);
      halves.high[i] = static_cast<std::int32_t>(at + half);
    }
    return halves;
  }

  /// A vector holds runs of partial sums, one for each row that has gone into it. A step halves the
  /// runs and joins two vectors. The orders are constants by declaration: left to itself the
  /// compiler at times builds them again for every call.
  template <Index kRun, Index kCount>
  [[gnu::always_inline]] static void join_runs(Vector* rows) {
    if constexpr (kRun > 1) {
      typedef std::int32_t Order __attribute__((vector_size(kVectorBytes)));
      static constexpr Halves kHalves = halves_of(kRun);
      Order low, high;
      __builtin_memcpy(&low, kHalves.low, sizeof(low));
      __builtin_memcpy(&high, kHalves.high, sizeof(high));
      constexpr Index kJoined = std::max<Index>(1, kCount / 2);
#pragma GCC unroll 4
      for (Index i = 0; i < kJoined; ++i) {
        const Vector a = rows[2 * i % kCount], b = rows[(2 * i + 1) % kCount];
        rows[i] = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
      }
      join_runs<kRun / 2, kJoined>(rows);
    }
  }

  /// Writes the sum of the elements of each of kRows vectors.
  [[gnu::always_inline]] static void fold_rows(Vector* rows, float* sums) {
    join_runs<kVector, kRows>(rows);
    for (Index i = 0; i < std::max<Index>(1, kRows / kVector); ++i)
      __builtin_memcpy(sums + i * kVector, &rows[i], std::min(kRows, kVector) * sizeof(float));
  }

  /// Leaves the token's key and value in the ring, where attend() finds all of them.
  void prepare(Index i) {
    const Span& span = spans_[i];
    const Index row = span.position % (op_.key_state.cols / op_.k.cols);
    const auto copy_row = [&](View ring, ConstView rows) {
      __builtin_memcpy(ring.row<T>(span.slot) + row * rows.cols, rows.row<T>(span.first),
                       static_cast<std::size_t>(rows.cols) * sizeof(T));
    };
    copy_row(op_.key_state, op_.k);
    copy_row(op_.value_state, op_.v);
    for (Index d = 0; d < op_.q.cols; ++d)
      queries_.row<float>(i)[d] = get(op_.q.row<T>(span.first)[d]);
  }

  void attend(Index task) {
    Index i = 0;
    while (first_task_[i + 1] <= task) ++i;
    const Span& span = spans_[i];
    const Index base = (first_key(span) / kChunk + task - first_task_[i]) * kChunk;
    const Index first = std::max(base, first_key(span));
    const Index last = std::min(base + kChunk - 1, span.position);
    const Index begin = (first - base) / kRows * kRows, end = round_up(last - base + 1, kRows);
    float* weights = weights_.row<float>(omp_get_thread_num());
    float* sums = sums_.row<float>(task);
    const float* queries = queries_.row<float>(i);
    for (Index j = begin; j < end; j += kRows) {
      const T* rows[kRows];
      find(op_.key_state, op_.k.cols, span, first, base + j + kRows, last, rows);
      prefetch(rows, op_.k.cols);
      find(op_.key_state, op_.k.cols, span, first, base + j, last, rows);
      for_each_head(rows, op_.heads.width, [&](Index h, const auto* const* keys) {
        score(queries + h * op_.heads.width, keys, weights + h * kChunk + j);
      });
    }
    for (Index h = 0; h < op_.heads.heads; ++h)
      weigh(weights + h * kChunk, first - base, last - base, largest_.row<float>(task)[h],
            totals_.row<float>(task)[h]);
    for (Index d = 0; d < sums_.cols(); ++d) sums[d] = 0;
    for (Index j = begin; j < end; j += kRows) {
      const T* rows[kRows];
      find(op_.value_state, op_.v.cols, span, first, base + j + kRows, last, rows);
      prefetch(rows, op_.v.cols);
      find(op_.value_state, op_.v.cols, span, first, base + j, last, rows);
      for_each_head(rows, op_.heads.value_width, [&](Index h, const auto* const* values) {
        add(values, weights + h * kChunk + j, sums + h * op_.heads.value_width);
      });
    }
  }

  /// Calls f(h, rows of its kv head), `width` wide; heads that share bf16 rows find them widened
  /// once.
  template <class F>
  [[gnu::always_inline]] void for_each_head(const T* const* rows, Index width, F&& f) const {
    const Index group = op_.heads.heads / op_.heads.kv_heads;
    const bool widened = group > 1 && std::is_same_v<T, Bf16>;
    const T* narrow[kRows];
    const float* wide[kRows];
    for (Index g = 0; g < op_.heads.kv_heads; ++g) {
      for (Index r = 0; r < kRows; ++r) narrow[r] = rows[r] + g * width;
      if (widened)
        for (Index r = 0; r < kRows; ++r) {
          float* to = rows_.row<float>(omp_get_thread_num()) + r * width;
#pragma omp simd
          for (Index d = 0; d < width; ++d) to[d] = get(narrow[r][d]);
          wide[r] = to;
        }
      for (Index h = g * group; h < (g + 1) * group; ++h) {
        if (widened)
          f(h, wide);
        else
          f(h, narrow);
      }
    }
  }

  /// Asks for rows that are needed next. Where heads share rows the work on a few of them lasts too
  /// long for the machine to see the pattern; elsewhere it does.
  void prefetch(const T* const* rows, Index cols) const {
    if (op_.heads.heads == op_.heads.kv_heads) return;
    const Index bytes = cols * static_cast<Index>(sizeof(T));
    for (Index r = 0; r < kRows; ++r)
      for (Index b = 0; b < bytes; b += 64)
        __builtin_prefetch(reinterpret_cast<const std::byte*>(rows[r]) + b, 0, 2);
  }

  /// Rows of the ring, `cols` wide, of kRows positions from `from` on; those outside [first, last]
  /// repeat one inside.
  void find(ConstView state, Index cols, const Span& span, Index first, Index from, Index last,
            const T* (&rows)[kRows]) const {
    const Index capacity = state.cols / cols;
    for (Index r = 0; r < kRows; ++r)
      rows[r] = state.row<T>(span.slot) + std::clamp(from + r, first, last) % capacity * cols;
  }

  /// scores[r] = q . key in rows[r]
  template <class Row>
  void score(const float* q, const Row* const* rows, float* scores) const {
    const Index width = op_.heads.width;
    Vector sums[kRows] = {};
    Index d = 0;
    for (; d + kVector <= width; d += kVector) {
      const Vector x = load(q + d);
#pragma GCC unroll 8
      for (Index r = 0; r < kRows; ++r) sums[r] += x * load(rows[r] + d);
    }
    fold_rows(sums, scores);
    for (; d < width; ++d)
      for (Index r = 0; r < kRows; ++r) scores[r] += q[d] * get(rows[r][d]);
  }

  /// Turns the scores of keys first .. last into weights, all others into 0.
  void weigh(float* scores, Index first, Index last, float& largest, float& total) const {
    const auto scale = static_cast<float>(op_.scale * kLog2e);
    for (Index j = 0; j < kChunk; ++j)
      scores[j] = j < first || j > last ? static_cast<float>(kNothing) : scores[j] * scale;
    Vector most = load(scores);
    for (Index j = kVector; j < kChunk; j += kVector) {
      const Vector s = load(scores + j);
      most = most < s ? s : most;
    }
    largest = fold<true>(most);
    Vector sum = {};
    for (Index j = 0; j < kChunk; j += kVector) {
      const Vector s = load(scores + j);
      const Vector w = s <= static_cast<float>(kNothing / 2) ? Vector{} : power_of_two(s - largest);
      sum += w;
      __builtin_memcpy(scores + j, &w, sizeof(w));
    }
    total = fold<false>(sum);
  }

  /// sums += weights[r] * value in rows[r]
  template <class Row>
  void add(const Row* const* rows, const float* weights, float* sums) const {
    const Index width = op_.heads.value_width;
    Index d = 0;
    for (; d + kVector <= width; d += kVector) {
      Vector sum = load(sums + d);
#pragma GCC unroll 8
      for (Index r = 0; r < kRows; ++r) sum += weights[r] * load(rows[r] + d);
      __builtin_memcpy(sums + d, &sum, sizeof(sum));
    }
    for (; d < width; ++d)
      for (Index r = 0; r < kRows; ++r) sums[d] += weights[r] * get(rows[r][d]);
  }

  /// Adds up the chunks of span i.
  void finish(Index i) const {
    const Index first = first_task_[i], end = first_task_[i + 1], width = op_.heads.value_width;
    for (Index h = 0; h < op_.heads.heads; ++h) {
      float largest = largest_.row<float>(first)[h], total = 0;
      for (Index t = first + 1; t < end; ++t)
        largest = std::max(largest, largest_.row<float>(t)[h]);
      float* sums = sums_.row<float>(first) + h * width;
      for (Index t = first; t < end; ++t) {
        const Vector factors = power_of_two(Vector{} + (largest_.row<float>(t)[h] - largest));
        const float factor = factors[0];
        const float* chunk = sums_.row<float>(t) + h * width;
        total += factor * totals_.row<float>(t)[h];
        for (Index d = 0; d < width; ++d) sums[d] = factor * chunk[d] + (t > first ? sums[d] : 0);
      }
      T* y = op_.y.row<T>(spans_[i].first) + h * width;
      for (Index d = 0; d < width; ++d) put(y[d], sums[d] / total);
      if (!op_.lse.empty())
        op_.lse.row<float>(spans_[i].first)[h] =
            (largest + std::log2(total)) * static_cast<float>(kLn2);
    }
  }

  CpuStream& stream_;
  const op::Attention& op_;
  Window window_;
  const Array<Span>& spans_;
  Array<Index> first_task_;  ///< of each span; behind the last their number
  Matrix queries_;           ///< [spans, H * K]
  Matrix weights_;           ///< [threads, H * kChunk]
  Matrix rows_;              ///< [threads, kRows * K or V]: rows of one kv head, widened
  Matrix sums_;              ///< [tasks, H * V]: weights times values
  Matrix largest_;           ///< [tasks, H], as exponents of two
  Matrix totals_;            ///< [tasks, H]: the sums of the weights
};

}  // namespace
}  // namespace samba
