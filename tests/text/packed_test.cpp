#include "text/packed.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/json.h"
#include "model/temporary_folder.h"
#include "support/shared.h"

namespace samba::test {
namespace {

using Ids = std::vector<std::int32_t>;

class Packed : public testing::Test {
 protected:
  TemporaryFolder folder_;

  std::string write(const Ids& ids, PackedType type, Index chunk = 100) {
    PackedWriter writer(folder_.path(), "x", chunk, type);
    writer.write(ids);
    writer.finish();
    return folder_ / writer.files().back().name;
  }
  std::string error_of_bytes(const std::string& bytes) {
    write_text(folder_ / "bad.bin", bytes);
    return error_of([&] { PackedFile file(folder_ / "bad.bin"); });
  }
};

TEST_F(Packed, WritesTheLayoutOfThePaper) {
  const std::string path = write({1, 258, 65535}, PackedType::u16);
  EXPECT_EQ(std::filesystem::path(path).filename(), "x_0000000000.bin");
  const std::string expected("LITPKDS\1\0\0\0\0\0\0\0\10\3\0\0\0\0\0\0\0\1\0\2\1\xff\xff", 30);
  EXPECT_EQ(read_text(path), expected);
}

TEST_F(Packed, ReadsBackWhatItWrote) {
  for (const PackedType type : {PackedType::u16, PackedType::i32}) {
    const Ids ids{0, 5, 7, 65535, 3};
    const PackedFile file(write(ids, type));
    EXPECT_EQ(file.type(), type);
    EXPECT_EQ(file.tokens(), 5);
    Ids middle(3);
    file.read(1, 65536, middle);
    EXPECT_EQ(middle, (Ids{5, 7, 65535}));
    EXPECT_NE(error_of([&] { file.read(1, 65535, middle); }).find("token 3: found id 65535"),
              std::string::npos);
    EXPECT_NE(error_of([&] { file.read(3, 65536, middle); }).find("asked for 3"),
              std::string::npos);
  }
  EXPECT_EQ(packed_type(65535), PackedType::u16);
  EXPECT_EQ(packed_type(65536), PackedType::i32);
}

TEST_F(Packed, RefusesLyingHeaders) {
  const std::string good = read_text(write({1, 2, 3}, PackedType::u16));
  const auto with = [&](std::size_t at, char byte) {
    std::string bytes = good;
    bytes[at] = byte;
    return error_of_bytes(bytes);
  };
  EXPECT_EQ(error_of_bytes(good), "");
  EXPECT_NE(error_of_bytes("").find("bad.bin: not a packed token file"), std::string::npos);
  EXPECT_NE(with(0, 'l').find("not a packed token file"), std::string::npos);
  EXPECT_NE(with(7, 2).find("version 2"), std::string::npos);
  EXPECT_NE(with(15, 7).find("element type 7"), std::string::npos);
  EXPECT_NE(with(16, 4).find("promises 4 tokens"), std::string::npos);
  EXPECT_NE(with(16, 2).find("promises 2 tokens"), std::string::npos);
  // 2^63 + 3 tokens of 2 bytes are 6 bytes in 64 bits.
  EXPECT_NE(with(23, '\x80').find("promises 9223372036854775811"), std::string::npos);
  EXPECT_NE(error_of_bytes(good.substr(0, good.size() - 1)).find("found 5 bytes"),
            std::string::npos);
  EXPECT_NE(error_of_bytes(good.substr(0, 20)).find("not a packed"), std::string::npos);
}

TEST_F(Packed, RefusesBrokenMeta) {
  EXPECT_NE(error_of([&] { read_packed_meta(folder_.path()); }).find("sambalm prepare"),
            std::string::npos);
  PackedMeta meta;
  meta.split = "train";
  meta.files = {{"x_0.bin", 5}};
  write_packed_meta(folder_.path(), meta);
  EXPECT_EQ(read_packed_meta(folder_.path()).files.front().tokens, 5);
  const std::string path = folder_ / "meta.json";
  const Json good = read_json(path);
  const auto with = [&](const std::string& key, const Json& value) {
    Json json = good;
    json[key] = value;
    write_json(path, json);
    return error_of([&] { read_packed_meta(folder_.path()); });
  };
  EXPECT_NE(with("version", 2).find("meta.json: version: found 2"), std::string::npos);
  EXPECT_NE(with("dtype", "u8").find("dtype"), std::string::npos);
  EXPECT_NE(with("tokens", "many").find("meta.json: "), std::string::npos);
  EXPECT_NE(with("files", Json::parse(R"([{"name": "../x.bin", "tokens": 5}])")).find("../x.bin"),
            std::string::npos);
  Json json = good;
  json.erase("eos");
  write_json(path, json);
  EXPECT_NE(error_of([&] { read_packed_meta(folder_.path()); }).find("eos"), std::string::npos);
  write_text(path, "{");
  EXPECT_NE(error_of([&] { read_packed_meta(folder_.path()); }).find("not JSON"),
            std::string::npos);
}

}  // namespace
}  // namespace samba::test
