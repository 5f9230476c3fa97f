#include "measure.h"

#include <cstdio>

#include "core/files.h"
#include "core/human.h"
#include "core/rng.h"

namespace samba::bench {

Matrix random_matrix(Stream& stream, DType dtype, Index rows, Index cols, double scale) {
  static std::uint32_t next = 0;
  const Rng rng{1, next++};
  // A pattern of fewer numbers than the matrix has, so that making it is quick; rows shift it.
  constexpr Index kPattern = 65537;
  std::vector<float> pattern(kPattern);
  for (Index i = 0; i < kPattern; ++i)
    pattern[static_cast<std::size_t>(i)] =
        static_cast<float>(scale * rng.normal(static_cast<std::uint64_t>(i)));
  const Matrix host(stream.host(), dtype, rows, cols);
#pragma omp parallel for
  for (Index i = 0; i < rows * cols; ++i) {
    const float value = pattern[static_cast<std::size_t>(i % kPattern)];
    if (dtype == DType::bf16)
      host.row<Bf16>(0)[i] = Bf16(value);
    else
      host.row<float>(0)[i] = value;
  }
  return upload(stream, host);
}

void add(std::vector<Row>& rows, Row row) {
  std::printf("%-64s %10.3f ms", row.job.c_str(), row.seconds * 1e3);
  if (row.tokens > 0) std::printf("  %8.0f tokens/s", row.tokens / row.seconds);
  if (row.flops > 0) std::printf("  %6.1f TFLOP/s", row.flops / row.seconds / 1e12);
  if (row.bytes > 0) std::printf("  %5.2f TB/s", row.bytes / row.seconds / 1e12);
  if (row.memory > 0) std::printf("  %s", human_bytes(row.memory).c_str());
  if (row.goal > 0)
    std::printf("  goal %.3f (%.0f%%)", row.goal * 1e3, 100 * row.goal / row.seconds);
  std::printf("\n");
  std::fflush(stdout);
  rows.push_back(std::move(row));
}

void write_table(const std::string& path, const std::string& title, const Ceilings& ceilings,
                 const std::vector<Row>& rows) {
  char line[512];
  std::string text = "# " + title + "\n\n";
  std::snprintf(
      line, sizeof(line),
      "Shares are of this card's own rates in the same run: %.0f TFLOP/s in bf16 products "
      "of 8192 x 8192, %.2f TB/s in copies (read and written). Memory is what the job held "
      "at most. PyTorch's times and the goals were set on an H200. Written by `script/bench "
      "cuda`.\n\n",
      ceilings.flops / 1e12, ceilings.bytes / 1e12);
  text += line;
  text +=
      "| job | time | rate | share | PyTorch | goal | memory |\n|---|--:|--:|--:|--:|--:|--:|\n";
  const auto milliseconds = [](double seconds) {
    char part[32];
    std::snprintf(part, sizeof(part), "%.3f ms", seconds * 1e3);
    return seconds > 0 ? std::string(part) : std::string();
  };
  for (const Row& row : rows) {
    char rate[96] = "", share[32] = "";
    const double flops = row.flops / row.seconds, bytes = row.bytes / row.seconds;
    if (row.tokens > 0)
      std::snprintf(rate, sizeof(rate), "%.0f tokens/s", row.tokens / row.seconds);
    else if (row.flops > 0)
      std::snprintf(rate, sizeof(rate), "%.0f TFLOP/s", flops / 1e12);
    else if (row.bytes > 0)
      std::snprintf(rate, sizeof(rate), "%.2f TB/s", bytes / 1e12);
    const double part = row.flops > 0 ? flops / ceilings.flops : bytes / ceilings.bytes;
    if (part > 0) std::snprintf(share, sizeof(share), "%.0f%%", 100 * part);
    std::snprintf(line, sizeof(line), "| %s | %s | %s | %s | %s | %s | %s |\n", row.job.c_str(),
                  milliseconds(row.seconds).c_str(), rate, share, milliseconds(row.pytorch).c_str(),
                  milliseconds(row.goal).c_str(),
                  row.memory > 0 ? human_bytes(row.memory).c_str() : "");
    text += line;
  }
  write_text(path, text);
}

}  // namespace samba::bench
