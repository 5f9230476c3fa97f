#include <algorithm>
#include <cstdio>
#include <string>

#include "core/error.h"
#include "kernels/probe.h"
#include "rows.h"

// sambalm-bench-cuda [FAMILY...] [--write FILE TITLE]: measures the GPU's table, or a part of it,
// and prints it; with --write also as a table of Markdown.

namespace {

using namespace samba;
using namespace samba::bench;

struct Family {
  const char* name;
  std::vector<Row> (*rows)(Stream&);
};
constexpr Family kFamilies[] = {{"product", product_rows}, {"attention", attention_rows},
                                {"scan", scan_rows},       {"rest", rest_rows},
                                {"decode", decode_rows},   {"train", training_rows},
                                {"infer", inference_rows}};

void run_all(std::vector<std::string> words) {
  std::string path, title;
  if (const auto at = std::find(words.begin(), words.end(), "--write"); at != words.end()) {
    if (words.end() - at != 3) fail("expected --write FILE TITLE at the end");
    path = at[1], title = at[2];
    words.erase(at, words.end());
  }
  Stream stream(CpuStream(), 0);
  const Ceilings ceilings{gemm_flops(stream, DType::bf16), probe_read(stream)};
  std::printf("%s: %.0f TFLOP/s in bf16 products, %.2f TB/s in copies\n", stream.device().c_str(),
              ceilings.flops / 1e12, ceilings.bytes / 1e12);
  std::fflush(stdout);
  std::vector<Row> all;
  for (const Family& family : kFamilies) {
    if (!words.empty() && std::find(words.begin(), words.end(), family.name) == words.end())
      continue;
    stream.pool()->clear();
    for (Row& row : family.rows(stream)) all.push_back(std::move(row));
  }
  if (!path.empty()) write_table(path, title + ", " + stream.device(), ceilings, all);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run_all({argv + 1, argv + argc});
  } catch (const Error& error) {
    std::fprintf(stderr, "sambalm-bench-cuda: %s\n", error.what());
    return 1;
  }
  return 0;
}
