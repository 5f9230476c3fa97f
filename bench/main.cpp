#include <benchmark/benchmark.h>

#include <cstdio>

#include "kernels/probe.h"

/// Prints what the machine can do, then runs the benchmarks; each states its share of that.
int main(int argc, char** argv) {
  samba::limit_spinning(argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  samba::Stream stream;
  std::printf("%s, %d threads: f32 %.0f GFLOP/s, bf16 %.0f GFLOP/s, read %.1f GB/s, 2^x %.1f G/s\n",
              samba::name_of(stream.tier()), stream.threads(), samba::probe_f32(stream) / 1e9,
              samba::probe_bf16(stream) / 1e9, samba::probe_read(stream) / 1e9,
              samba::probe_exp2(stream) / 1e9);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
