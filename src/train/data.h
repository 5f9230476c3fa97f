#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "text/packed.h"

namespace samba {

/// The packed files of one folder, as consecutive windows of `length` ids that do not overlap.
///
/// A window lies inside one file: the ids behind a file's last whole window are not used, nor is a
/// file that is shorter than a window; unused() counts both.
class TokenWindows {
 public:
  /// Maps the files that the folder's meta.json lists. Throws an Error that names the file when one
  /// is missing, damaged or of another size than listed, and when no file holds a window.
  TokenWindows(const std::string& folder, Index length);

  /// Number of windows.
  Index count() const { return first_.back(); }
  /// Ids of one window.
  Index length() const { return length_; }
  /// Tokens that no window holds.
  Index unused() const { return unused_; }
  /// Copies window `index` into `ids`, of `length` elements. Throws an Error on an id that is not
  /// below the vocabulary.
  void read(Index index, std::span<std::int32_t> ids) const;

  const PackedMeta& meta() const { return meta_; }
  const std::string& folder() const { return folder_; }
  const std::vector<PackedFile>& files() const { return files_; }
  /// Number of the first window of a file.
  Index first_of(std::size_t file) const { return first_[file]; }

  /// Throws an Error that names the folder when it was packed with another tokenizer.
  void expect_tokenizer(const std::string& hash) const;

 private:
  std::string folder_;
  Index length_;
  PackedMeta meta_;
  std::vector<PackedFile> files_;
  std::vector<Index> first_;  ///< of every file, and the count
  Index unused_ = 0;
};

/// A folder of packed files and its share of the samples.
struct DataSource {
  std::string folder;
  double weight = 1;
};

/// Reads "FOLDER" or "FOLDER:WEIGHT". Throws an Error unless the weight is positive and finite.
DataSource parse_data_source(const std::string& text);

/// `folder/split` where that is a folder of packed files, else `folder`: what `sambalm prepare`
/// wrote can be named as a whole.
std::string find_split(const std::string& folder, const std::string& split);

/// In which order training windows are drawn.
enum class DataOrder : std::uint8_t {
  /// Every window once per pass over a source, each pass in another order.
  shuffled,
  /// That of the paper's program: files shuffled once by Python's generator, then the windows of 8
  /// files at a time by NumPy's. One source of equal files; those behind the last whole group of 8
  /// are not used.
  paper,
};

struct DataOptions {
  std::vector<DataSource> sources;
  Index length = 0;           ///< ids of a window: the context and one more
  std::uint64_t seed = 3407;  ///< 3407: that of the paper
  DataOrder order = DataOrder::shuffled;
  int rank = 0;  ///< paper: this process reads every `world`-th file
  int world = 1;
};

/// The endless sequence of training windows. A window depends on the options and its number alone,
/// so its number is all the state that there is to save.
class TokenStream {
 public:
  explicit TokenStream(const DataOptions&);
  ~TokenStream();
  TokenStream(TokenStream&&) noexcept;

  /// Copies window number `sample` (from 0) into `ids`, of options.length elements. Any number of
  /// threads may call it. Throws an Error on an id that is not below the vocabulary.
  void read(std::uint64_t sample, std::span<std::int32_t> ids) const;

  /// Where window `sample` comes from.
  struct Place {
    std::size_t source = 0;
    Index window = 0;  ///< of the source's TokenWindows
  };
  Place place(std::uint64_t sample) const;

  const std::vector<TokenWindows>& sources() const { return sources_; }
  void expect_tokenizer(const std::string& hash) const;

 private:
  class PaperOrder;
  DataOptions options_;
  std::vector<TokenWindows> sources_;
  std::vector<std::uint32_t> shares_;  ///< of what is left after the sources before, in 2^-32
  std::unique_ptr<PaperOrder> paper_;
};

/// Where documents begin inside a window: the positions after every `eos` but the last id's.
std::vector<Index> document_starts(std::span<const std::int32_t> ids, std::int32_t eos);

}  // namespace samba
