#include "text/packed.h"

#include <bit>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "core/error.h"
#include "core/json.h"

namespace samba {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little endian");

constexpr std::string_view kMagic = "LITPKDS";
constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kHeader = 24;
constexpr int kMetaVersion = 1;

std::size_t bytes_of(PackedType type) {
  return type == PackedType::u16 ? 2 : 4;
}

template <class T>
void copy_ids(const std::byte* from, std::span<std::int32_t> ids) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    T id;
    std::memcpy(&id, from + i * sizeof id, sizeof id);
    ids[i] = static_cast<std::int32_t>(id);
  }
}

std::string meta_path(const std::string& folder) {
  return (std::filesystem::path(folder) / kPackedMeta).string();
}

/// Plain names only: a file of the list must lie in its folder.
void expect_name(const std::string& name, const std::string& path) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos)
    fail(path, ": files: found \"", name, "\"; expected the name of a file in this folder");
}

}  // namespace

PackedType packed_type(std::int32_t vocabulary) {
  return vocabulary > std::numeric_limits<std::uint16_t>::max() ? PackedType::i32 : PackedType::u16;
}

const char* name_of(PackedType type) {
  return type == PackedType::u16 ? "u16" : "i32";
}

PackedFile::PackedFile(const std::string& path) : file_(path) {
  const auto bytes = file_.bytes();
  if (bytes.size() < kHeader || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
    fail(path, ": not a packed token file: expected it to begin with ", kMagic);
  std::uint64_t version, tokens;
  std::memcpy(&version, bytes.data() + 7, sizeof version);
  const auto type = static_cast<std::uint8_t>(bytes[15]);
  std::memcpy(&tokens, bytes.data() + 16, sizeof tokens);
  if (version != kVersion) fail(path, ": found version ", version, "; expected ", kVersion);
  if (type != 4 && type != 8)
    fail(path, ": found element type ", int{type}, "; expected 8 (u16) or 4 (i32)");
  type_ = static_cast<PackedType>(type);
  // Divided, not multiplied: a lying header must not overflow.
  const std::size_t held = (bytes.size() - kHeader) / bytes_of(type_);
  if (tokens != held || (bytes.size() - kHeader) % bytes_of(type_) != 0)
    fail(path, ": the header promises ", tokens, " tokens of ", bytes_of(type_), " bytes; found ",
         bytes.size() - kHeader, " bytes");
  tokens_ = static_cast<Index>(tokens);
}

void PackedFile::read(Index first, std::int32_t vocabulary, std::span<std::int32_t> ids) const {
  if (first < 0 || static_cast<Index>(ids.size()) > tokens_ - first)
    fail(path(), ": asked for ", ids.size(), " tokens at ", first, "; found ", tokens_);
  const std::byte* from =
      file_.bytes().data() + kHeader + static_cast<std::size_t>(first) * bytes_of(type_);
  if (type_ == PackedType::u16)
    copy_ids<std::uint16_t>(from, ids);
  else
    copy_ids<std::int32_t>(from, ids);
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= vocabulary)
      fail(path(), ": token ", first + static_cast<Index>(i), ": found id ", ids[i],
           "; expected 0 to ", vocabulary - 1);
}

void write_packed_meta(const std::string& folder, const PackedMeta& meta) {
  Json json = {{"format", "sambalm packed tokens"},
               {"version", kMetaVersion},
               {"split", meta.split},
               {"tokenizer_hash", meta.tokenizer_hash},
               {"vocabulary", meta.vocabulary},
               {"bos", meta.bos},
               {"eos", meta.eos},
               {"dtype", name_of(meta.type)},
               {"chunk", meta.chunk},
               {"paper", meta.paper},
               {"documents", meta.documents},
               {"tokens", meta.tokens},
               {"text_bytes", meta.text_bytes},
               {"validation", meta.validation},
               {"inputs", meta.inputs}};
  auto& files = json["files"] = Json::array();
  for (const auto& file : meta.files)
    files.push_back({{"name", file.name}, {"tokens", file.tokens}});
  write_json(meta_path(folder), json);
}

PackedMeta read_packed_meta(const std::string& folder) {
  const std::string path = meta_path(folder);
  if (!std::filesystem::exists(path))
    fail(folder, ": found no ", kPackedMeta,
         "; expected a folder that `sambalm prepare` wrote and finished");
  PackedMeta meta;
  try {
    const Json json = read_json(path);
    if (const int version = json.at("version"); version != kMetaVersion)
      fail(path, ": version: found ", version, "; expected ", kMetaVersion);
    json.at("split").get_to(meta.split);
    json.at("tokenizer_hash").get_to(meta.tokenizer_hash);
    json.at("vocabulary").get_to(meta.vocabulary);
    json.at("bos").get_to(meta.bos);
    json.at("eos").get_to(meta.eos);
    const std::string dtype = json.at("dtype");
    if (dtype != "u16" && dtype != "i32")
      fail(path, ": dtype: found \"", dtype, "\"; expected u16 or i32");
    meta.type = dtype == "u16" ? PackedType::u16 : PackedType::i32;
    json.at("chunk").get_to(meta.chunk);
    json.at("paper").get_to(meta.paper);
    json.at("documents").get_to(meta.documents);
    json.at("tokens").get_to(meta.tokens);
    json.at("text_bytes").get_to(meta.text_bytes);
    json.at("validation").get_to(meta.validation);
    json.at("inputs").get_to(meta.inputs);
    for (const auto& file : json.at("files")) {
      meta.files.push_back({file.at("name"), file.at("tokens")});
      expect_name(meta.files.back().name, path);
    }
  } catch (const Json::exception& error) {
    fail(path, ": ", error.what());
  }
  return meta;
}

PackedWriter::PackedWriter(std::string folder, std::string prefix, Index chunk, PackedType type)
    : folder_(std::move(folder)), prefix_(std::move(prefix)), chunk_(chunk), type_(type) {}

std::size_t PackedWriter::chunk_bytes() const {
  return static_cast<std::size_t>(chunk_) * bytes_of(type_);
}

void PackedWriter::write(std::span<const std::int32_t> ids) {
  for (const std::int32_t id : ids) {
    // Only when more follows: what ends with a full chunk has that chunk as its last, which
    // finish() writes, or nobody when the last is dropped.
    if (buffer_.size() == chunk_bytes()) write_file();
    const auto narrow = static_cast<std::uint16_t>(id);
    if (type_ == PackedType::u16)
      buffer_.append(reinterpret_cast<const char*>(&narrow), sizeof narrow);
    else
      buffer_.append(reinterpret_cast<const char*>(&id), sizeof id);
  }
}

void PackedWriter::finish() {
  if (!buffer_.empty()) write_file();
}

void PackedWriter::write_file() {
  char name[32];
  std::snprintf(name, sizeof name, "_%010" PRIu64 ".bin", std::uint64_t{files_.size()});
  files_.push_back({prefix_ + name, static_cast<Index>(buffer_.size() / bytes_of(type_))});
  AtomicFile file((std::filesystem::path(folder_) / files_.back().name).string());
  const std::uint64_t tokens = buffer_.size() / bytes_of(type_);
  const auto type = static_cast<std::uint8_t>(type_);
  file.write(kMagic);
  file.write(&kVersion, sizeof kVersion);
  file.write(&type, sizeof type);
  file.write(&tokens, sizeof tokens);
  file.write(buffer_.data(), buffer_.size());
  file.commit();
  buffer_.clear();
}

}  // namespace samba
