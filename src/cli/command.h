#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/options.h"
#include "core/json.h"
#include "core/matrix.h"
#include "core/stream.h"

namespace samba {

/// One word behind `sambalm`. run() gets the words behind it and returns the exit code.
struct Command {
  const char* name;
  const char* help;
  int (*run)(const std::vector<std::string>& words);
};

/// Options with one meaning in every command that has them.
struct Common {
  std::string device = "cpu";
  std::string dtype = "f32";
  Index threads = 0;
  std::string tier;
  Index seed = 1;
  std::string json;
  bool quiet = false;

  void fields(auto& f) {
    f("device", device, "where to compute: cpu, cuda or cuda:N");
    f("dtype", dtype, "type of weights and activations: f32, bf16 or f64");
    f("threads", threads, "threads; 0: one per core");
    f("tier", tier, "instruction set: plain, avx2, avx512 or avx512bf16; empty: the fastest here");
    f("seed", seed, "seed of every random choice");
    f("json", json, "write the result as JSON to this file; -: to standard output");
    f("quiet", quiet, "no progress");
  }

  /// The stream and dtype that the options name. Throw an Error for what does not exist here.
  Stream stream() const;
  DType element_type() const;
  /// Does what --json asks for.
  void write_result(const Json&) const;
};

/// Parses the words of a command into its options. For --help prints `usage`, what it does, and the
/// options, and returns false. Throws a UsageError unless between `least` and `most` words remain;
/// `words` then holds those.
template <class Options>
bool parse(Options& options, std::vector<std::string>& words, const char* usage, std::size_t least,
           std::size_t most);

bool parse_fields(const OptionFields& fields, std::vector<std::string>& words, const char* usage,
                  std::size_t least, std::size_t most);

template <class Options>
bool parse(Options& options, std::vector<std::string>& words, const char* usage, std::size_t least,
           std::size_t most) {
  OptionFields fields;
  options.fields(fields);
  return parse_fields(fields, words, usage, least, most);
}

/// `sambalm` with these words: finds the command, runs it and turns exceptions into one line on
/// standard error and the exit code.
int run_program(const std::vector<std::string>& words);

}  // namespace samba
