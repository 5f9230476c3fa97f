#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "text/packed.h"

namespace samba {

struct PrepareProgress {
  std::uint64_t bytes_read = 0;  ///< of the input files as they lie on the disk
  std::uint64_t bytes_total = 0;
  Index documents = 0;
  Index tokens = 0;
};

struct PrepareOptions {
  std::vector<std::string> inputs;  ///< files and folders, read in this order (see Corpus)
  std::string tokenizer;            ///< a file or folder (see Tokenizer), with an end mark
  std::string output;               ///< every split becomes a folder in this one
  std::string split = "train";
  std::string prefix;                ///< of file names; empty: the split's name
  Index chunk = Index{2049} * 1024;  ///< tokens of a file
  /// Share of the documents that go to a split "validation" instead, chosen by a hash of their
  /// text: repeated documents stay together, and neither order nor threads matter.
  double validation = 0;
  int threads = 0;  ///< 0: one for each core
  /// As the files of the paper were made: input files are split evenly over `processes` writers,
  /// whose files are `{split}_slimpajama_{process}_{counter}.bin`, and what does not fill a
  /// writer's last chunk is dropped. Else no token is lost: the last file is shorter.
  bool paper = false;
  int processes = 1;
  /// Called now and then, by one thread at a time. What it throws ends the work.
  std::function<void(const PrepareProgress&)> progress;
};

/// Encodes every document, appends the end mark, no begin mark, and packs them in input order: the
/// files are the same for every number of threads. A split's folder appears whole, with its
/// meta.json and a copy of the tokenizer, or not at all. Returns what was written, validation last.
/// Throws an Error that names the file on bad input, on a folder that already exists and on a split
/// that would be empty.
std::vector<PackedMeta> prepare(const PrepareOptions&);

}  // namespace samba
