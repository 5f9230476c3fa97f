#include "kernels/probe.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "core/matrix.h"
#include "core/rng.h"
#include "kernels/linear.h"
#include "kernels/run.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define SAMBA_TARGET(features) [[gnu::target(features)]]
#else
#define SAMBA_TARGET(features)
#endif

namespace samba {
namespace {

// Short runs: on a busy machine some of them pass without an interruption.
constexpr int kRuns = 25;
constexpr double kSecondsPerRun = 0.002;
constexpr double kMostSeconds = 0.3;  // on a slow machine fewer runs must do
constexpr int kChains = 12;  // independent results in flight: more than latency times units

template <class T, int kBytes>
struct Vector {
  using Type [[gnu::vector_size(kBytes)]] = T;
};

/// Keeps the compiler from dropping what computed x.
template <class T>
[[gnu::always_inline]] inline void use(const T& x) {
  asm volatile("" : : "m"(x) : "memory");
}

template <int kBytes>
[[gnu::always_inline]] inline void multiply_add(Index rounds) {
  using Floats = typename Vector<float, kBytes>::Type;
  Floats sums[kChains] = {};
  Floats factor = Floats{} + 0.5f;
  asm volatile("" : "+m"(factor));
  for (Index i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (Floats& sum : sums) sum = sum * factor + factor;
  use(sums);
}

void multiply_add_plain(Index rounds) {
  multiply_add<16>(rounds);
}
SAMBA_TARGET("avx2,fma") void multiply_add_avx2(Index rounds) {
  multiply_add<32>(rounds);
}
SAMBA_TARGET("avx512f") void multiply_add_avx512(Index rounds) {
  multiply_add<64>(rounds);
}

#if defined(__x86_64__)
SAMBA_TARGET("avx512f,avx512bf16") void multiply_pairs(Index rounds) {
  __m512 sums[kChains] = {};
  __m512i bits = _mm512_set1_epi32(0x3f003f00);
  asm volatile("" : "+m"(bits));
  const auto factor = reinterpret_cast<__m512bh>(bits);
  for (Index i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, factor, factor);
  use(sums);
}
#endif

constexpr Index kNumbers = 2048;  // and as many results, in the first cache

template <int kBytes>
[[gnu::always_inline]] inline void exp2_loop(Index rounds) {
  using Floats = typename Vector<float, kBytes>::Type;
  using Bits = typename Vector<std::uint32_t, kBytes>::Type;
  constexpr Index kCount = kNumbers * 4 / kBytes;
  Floats x[kCount] = {}, y[kCount];
  const Floats least = Floats{} - 126.0f;  // below it the exponent would wrap
  for (Index i = 0; i < rounds; ++i) {
    asm volatile("" : "+m"(x));
#pragma GCC unroll 4
    for (Index k = 0; k < kCount; ++k) {
      // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
      Floats bounded = x[k] > least ? x[k] : least;
#if defined(__x86_64__)
      // Two instructions otherwise.
      if constexpr (kBytes > 16) asm("vmaxps %1, %2, %0" : "=v"(bounded) : "v"(x[k]), "v"(least));
#endif
      const Floats shifted = bounded + 12582912.0f;
      const Floats r = bounded - (shifted - 12582912.0f);
      Floats p = r * 1.3398874e-3f + 9.6184373e-3f;
      p = p * r + 5.5503324e-2f;
      p = p * r + 2.4022648e-1f;
      p = p * r + 6.9314720e-1f;
      p = p * r + 1.0f;
      Bits bits, exponent;
      std::memcpy(&bits, &p, sizeof(p));
      std::memcpy(&exponent, &shifted, sizeof(shifted));
      bits += exponent << 23;
      std::memcpy(&y[k], &bits, sizeof(bits));
    }
    use(y);
  }
}

void exp2_plain(Index rounds) {
  exp2_loop<16>(rounds);
}
SAMBA_TARGET("avx2,fma") void exp2_avx2(Index rounds) {
  exp2_loop<32>(rounds);
}
SAMBA_TARGET("avx512f") void exp2_avx512(Index rounds) {
  exp2_loop<64>(rounds);
}

template <int kBytes>
[[gnu::always_inline]] inline void read(const std::byte* from, Index bytes) {
  using Words = typename Vector<std::uint32_t, kBytes>::Type;
  Words sums[4] = {};
  const auto* p = reinterpret_cast<const Words*>(from);
  const auto* end = reinterpret_cast<const Words*>(from + bytes);
  for (; p < end; p += 4)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      __builtin_prefetch(p + i + 4096 / kBytes);
      sums[i] += p[i];
    }
  use(sums);
}

void read_plain(const std::byte* from, Index bytes) {
  read<16>(from, bytes);
}
SAMBA_TARGET("avx2") void read_avx2(const std::byte* from, Index bytes) {
  read<32>(from, bytes);
}
SAMBA_TARGET("avx512f") void read_avx512(const std::byte* from, Index bytes) {
  read<64>(from, bytes);
}

/// Seconds that f(thread) takes on all threads of the stream.
template <class F>
double seconds(const Stream& stream, F&& f) {
  const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(stream.threads())
  f(omp_get_thread_num());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Rounds of f per second, summed over the threads.
template <class F>
double rounds_per_second(const Stream& stream, F&& f) {
  // On the calling thread alone: starting threads, or waiting for them on a busy machine, would
  // make a short run look long.
  const Stream one(1, stream.tier());
  Index rounds = 100;
  double trial = 1;
  for (int i = 0; i < kRuns; ++i) trial = std::min(trial, seconds(one, [&](int) { f(rounds); }));
  rounds = static_cast<Index>(static_cast<double>(rounds) * kSecondsPerRun / trial) + 1;
  double best = 1e9;
  for (int i = 0; i < kRuns; ++i) best = std::min(best, seconds(stream, [&](int) { f(rounds); }));
  return static_cast<double>(rounds * stream.threads()) / best;
}

int vector_bytes(Tier tier) {
  switch (tier) {
    case Tier::plain: return 16;
    case Tier::avx2: return 32;
    case Tier::avx512:
    case Tier::avx512bf16: return 64;
  }
  return 0;
}

template <class F>
F* of_tier(const Stream& stream, F* plain, F* avx2, F* avx512) {
  switch (stream.tier()) {
    case Tier::plain: return plain;
    case Tier::avx2: return avx2;
    case Tier::avx512:
    case Tier::avx512bf16: return avx512;
  }
  return plain;
}

double since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Numbers in [-1, 1): matrix units run faster on zeros than on data.
Matrix random_matrix(Stream& stream, DType dtype, Index rows, Index cols, std::uint32_t number) {
  const Rng rng{1, number};
  std::vector<double> row(static_cast<std::size_t>(cols));
  for (Index c = 0; c < cols; ++c)
    row[static_cast<std::size_t>(c)] = 2 * rng.uniform(static_cast<std::uint64_t>(c)) - 1;
  const Matrix values(stream.host(), dtype, rows, cols);
  // Every row begins the same numbers elsewhere.
  for (Index r = 0; r < rows; ++r) {
    std::rotate(row.begin(), row.begin() + 1, row.end());
    copy(values.view().block(r, 1),
         View{reinterpret_cast<std::byte*>(row.data()), 1, cols, cols, DType::f64});
  }
  return upload(stream, values);
}

/// Bytes read and written per second by copies within a GPU's memory.
double probe_copy(Stream& stream) {
  constexpr Index kRows = 1 << 10, kCols = 1 << 18;  // 1 GiB of f32
  const Matrix from(stream, DType::f32, kRows, kCols), to(stream, DType::f32, kRows, kCols);
  clear(stream, from);
  double best = 1e9;
  for (int i = 0; i < kRuns; ++i) {
    stream.wait();
    const auto start = std::chrono::steady_clock::now();
    copy(stream, to, from);
    stream.wait();
    best = std::min(best, since(start));
  }
  return 2.0 * static_cast<double>(from.bytes()) / best;
}

}  // namespace

double probe_f32(const Stream& stream) {
  auto* loop = of_tier(stream, multiply_add_plain, multiply_add_avx2, multiply_add_avx512);
  return rounds_per_second(stream, loop) * kChains * vector_bytes(stream.tier()) / 4 * 2;
}

double probe_bf16(const Stream& stream) {
#if defined(__x86_64__)
  if (stream.tier() == Tier::avx512bf16)
    return rounds_per_second(stream, multiply_pairs) * kChains * 64;
#endif
  return probe_f32(stream);
}

double probe_flops(Stream& stream, DType dtype) {
  if (stream.cuda() != nullptr) return gemm_flops(stream, dtype);
  return dtype == DType::bf16 ? probe_bf16(stream) : probe_f32(stream);
}

double probe_read(Stream& stream) {
  if (stream.cuda() != nullptr) return probe_copy(stream);
  constexpr Index kBytes = Index{256} << 20, kChunk = kBytes / 8;
  static Stream owner(1);
  static const Matrix memory = [] {
    Matrix m(owner, DType::f32, kBytes / 4, 1);
    fill(m, 1);
    return m;
  }();
  auto* loop = of_tier(stream, read_plain, read_avx2, read_avx512);
  const Index part = kChunk / stream.threads() / 4096 * 4096;
  double best = 1e9;
  // One chunk after the other: when one comes round again, caches have long forgotten it.
  for (int i = 0; i < 2 * kRuns; ++i) {
    const std::byte* chunk = memory.view().data + i * kChunk % kBytes;
    best = std::min(best, seconds(stream, [&](int thread) { loop(chunk + thread * part, part); }));
  }
  return static_cast<double>(part * stream.threads()) / best;
}

double probe_exp2(const Stream& stream) {
  auto* loop = of_tier(stream, exp2_plain, exp2_avx2, exp2_avx512);
  return rounds_per_second(stream, loop) * kNumbers;
}

double gemm_flops(Stream& stream, DType dtype) {
  // Large enough for full speed, small enough for a few rounds.
  const Index size = stream.cuda() == nullptr ? 1024 : 8192;
  const Matrix x = random_matrix(stream, dtype, size, size, 0),
               w = random_matrix(stream, dtype, size, size, 1), y(stream, dtype, size, size);
  double best = 1e9, spent = 0;
  for (int i = 0; i < kRuns && spent < kMostSeconds; ++i) {
    stream.wait();
    const auto start = std::chrono::steady_clock::now();
    run(stream, op::Linear{.y = y, .x = x, .w = w});
    stream.wait();
    const double took = since(start);
    best = std::min(best, took);
    spent += took;
  }
  return 2.0 * static_cast<double>(size * size * size) / best;
}

}  // namespace samba
