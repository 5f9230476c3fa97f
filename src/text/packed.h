#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/files.h"

namespace samba {

/// How token ids are stored; the values are the file format's.
enum class PackedType : std::uint8_t { i32 = 4, u16 = 8 };

/// The narrowest type for ids below vocabulary.
PackedType packed_type(std::int32_t vocabulary);
const char* name_of(PackedType);

/// One file of token ids: "LITPKDS", u64 version 1, u8 type, u64 number of tokens (all little
/// endian, 24 bytes), then the ids.
class PackedFile {
 public:
  /// Maps the file. Throws an Error that names it when the header is not as above or promises
  /// another number of tokens than the file has.
  explicit PackedFile(const std::string& path);

  Index tokens() const { return tokens_; }
  PackedType type() const { return type_; }
  const std::string& path() const { return file_.path(); }
  /// Copies ids from position `first` on. Throws an Error on one outside 0 .. vocabulary - 1.
  void read(Index first, std::int32_t vocabulary, std::span<std::int32_t> ids) const;

 private:
  MappedFile file_;
  Index tokens_ = 0;
  PackedType type_ = PackedType::u16;
};

/// What a folder of packed files holds: its `meta.json`.
struct PackedMeta {
  struct File {
    std::string name;
    Index tokens = 0;
  };

  std::string split;           ///< e.g. "train"
  std::string tokenizer_hash;  ///< Tokenizer::hash() of the tokenizer beside it
  std::int32_t vocabulary = 0;
  std::int32_t bos = -1;
  std::int32_t eos = -1;  ///< ends every document
  PackedType type = PackedType::u16;
  Index chunk = 0;     ///< tokens of a full file
  bool paper = false;  ///< what did not fill a file was dropped
  Index documents = 0;
  Index tokens = 0;  ///< in the files
  std::uint64_t text_bytes = 0;
  double validation = 0;  ///< share of documents that was held out, or that this split holds
  std::vector<std::string> inputs;
  std::vector<File> files;  ///< in reading order
};

/// The name of what is said about the packed files, beside them. The tokenizer lies there too.
inline constexpr const char* kPackedMeta = "meta.json";

void write_packed_meta(const std::string& folder, const PackedMeta& meta);
/// Throws an Error that names the file and the field, and one with a hint when there is no
/// meta.json: an unfinished folder, or one of another program.
PackedMeta read_packed_meta(const std::string& folder);

/// Writes ids into files `{prefix}_{counter:010d}.bin` of `chunk` tokens. Documents run on from one
/// file into the next.
class PackedWriter {
 public:
  PackedWriter(std::string folder, std::string prefix, Index chunk, PackedType type);
  void write(std::span<const std::int32_t> ids);
  /// The last file, with what is left: shorter than the others.
  void finish();
  /// Files written so far.
  const std::vector<PackedMeta::File>& files() const { return files_; }

 private:
  std::string folder_, prefix_;
  Index chunk_;
  PackedType type_;
  std::string buffer_;  ///< ids as they are stored
  std::vector<PackedMeta::File> files_;

  std::size_t chunk_bytes() const;
  void write_file();
};

}  // namespace samba
