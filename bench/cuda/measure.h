#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "core/stream.h"

namespace samba::bench {

/// One line of the benchmark table.
struct Row {
  std::string job;
  double seconds = 0;
  double flops = 0;    ///< of matrix products; 0: none that count
  double bytes = 0;    ///< that must at least be moved; 0: not counted
  double pytorch = 0;  ///< seconds of the best PyTorch stack, as measured; 0: not measured
  double goal = 0;     ///< seconds; 0: none
  double tokens = 0;   ///< for rows that speak of tokens a second
  double memory = 0;   ///< bytes that the job holds at most
};

/// What shares are of: rates that this card reached a moment ago.
struct Ceilings {
  double flops = 0;  ///< of a product of 8192 x 8192 bf16 matrices
  double bytes = 0;  ///< read and written by a copy
};

/// Appends a row, and prints it as a line on standard output.
void add(std::vector<Row>&, Row);
/// The rows as a table of Markdown, with the title above it.
void write_table(const std::string& path, const std::string& title, const Ceilings&,
                 const std::vector<Row>&);

/// The median time of one `work`, which queues the same kernels every time: rounds of enough calls
/// to last 20 ms, each waited for.
inline double median_seconds(Stream& stream, const std::function<void()>& work, int rounds = 7) {
  using Clock = std::chrono::steady_clock;
  const auto timed = [&](int calls) {
    stream.wait();
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) work();
    stream.wait();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  timed(1);
  timed(1);
  const int calls = std::clamp(static_cast<int>(0.02 / timed(1)), 1, 1000);
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) times.push_back(timed(calls) / calls);
  std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
  return times[static_cast<std::size_t>(rounds / 2)];
}

/// The time of the second of two runs.
inline double seconds_of_second(Stream& stream, const std::function<void()>& work) {
  double seconds = 0;
  for (int i = 0; i < 2; ++i) {
    stream.wait();
    const auto start = std::chrono::steady_clock::now();
    work();
    stream.wait();
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return seconds;
}

/// A matrix on the stream's device of normal numbers with this deviation; never zeros: they run
/// faster than real data.
Matrix random_matrix(Stream&, DType, Index rows, Index cols, double scale = 1);

}  // namespace samba::bench
