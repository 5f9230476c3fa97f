#include "model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>
#include <random>

#include "model/allocations.h"
#include "model/bytes.h"
#include "model/temporary_folder.h"
#include "model/tensor_writer.h"

namespace samba::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using namespace std::string_literals;

/// A safetensors file of this header and data.
std::string file_of(const std::string& header, const std::string& data = "") {
  return bytes_of(std::uint64_t{header.size()}) + header + data;
}

class Safetensors : public testing::Test {
 protected:
  TemporaryFolder folder_;

  TensorFile open(const std::string& bytes) {
    write_bytes(folder_ / "x.safetensors", bytes);
    return open_safetensors(folder_ / "x.safetensors");
  }
  void expect_refused(const std::string& bytes, const std::string& message) {
    write_bytes(folder_ / "x.safetensors", bytes);
    const std::string error = error_of([&] { open_safetensors(folder_ / "x.safetensors"); });
    EXPECT_THAT(error, testing::StartsWith(folder_ / "x.safetensors: "));
    EXPECT_THAT(error, HasSubstr(message));
    EXPECT_THAT(error, HasSubstr("expected"));
    EXPECT_LT(error.size(), 1000u);
  }
};

TEST_F(Safetensors, WritesWhatItReadsInEveryStoredType) {
  constexpr StoredType kAll[] = {StoredType::boolean, StoredType::u8,      StoredType::i8,
                                 StoredType::f8_e5m2, StoredType::f8_e4m3, StoredType::i16,
                                 StoredType::u16,     StoredType::f16,     StoredType::bf16,
                                 StoredType::i32,     StoredType::u32,     StoredType::f32,
                                 StoredType::f64,     StoredType::i64,     StoredType::u64};
  std::vector<std::uint8_t> noise(6 * 8);
  std::iota(noise.begin(), noise.end(), std::uint8_t{0});
  TensorWriter writer;
  writer.metadata("format", "pt");
  for (const StoredType type : kAll)
    writer.add(name_of(type), type, {2, 3}, [&noise, type](const TensorWriter::Put& put) {
      put(std::as_bytes(std::span(noise)).first(static_cast<std::size_t>(6 * size_of(type))));
    });
  writer.write_safetensors(folder_ / "all.safetensors");
  const TensorFile file = open_safetensors(folder_ / "all.safetensors");
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  ASSERT_EQ(file.tensors().size(), std::size(kAll));
  for (std::size_t i = 0; i < std::size(kAll); ++i) {
    const TensorInfo& tensor = file.tensors()[i];
    EXPECT_EQ(tensor.name, name_of(kAll[i]));
    EXPECT_EQ(tensor.type, kAll[i]);
    EXPECT_THAT(tensor.shape, ElementsAre(2, 3));
    EXPECT_EQ(bytes_of(file, tensor.name),
              bytes_of(noise).substr(0, static_cast<std::size_t>(6 * size_of(kAll[i]))));
  }
}

TEST_F(Safetensors, ReadsBackTheViewsThatItWrote) {
  std::vector<double> values{0, -1, 1.0 / 3, 1e-30, 65504, -2.5};
  std::vector<std::int32_t> ids{0, -1, std::numeric_limits<std::int32_t>::max(),
                                std::numeric_limits<std::int32_t>::min()};
  std::vector<float> floats(values.begin(), values.end());
  const View all = view_of(values, 2, 3);
  TensorWriter writer;
  writer.add("f64", all);
  writer.add("f32", StoredType::f32, {6}, all);
  writer.add("bf16", StoredType::bf16, {3, 1, 2}, all);
  writer.add("columns", all.columns(1, 2));
  writer.add("i64", StoredType::i64, {1, 4}, view_of(ids, 1, 4));
  writer.add("i32", view_of(ids, 2, 2));
  writer.write_safetensors(folder_ / "x.safetensors");
  const TensorFile file = open_safetensors(folder_ / "x.safetensors");
  EXPECT_THAT(file.names(), ElementsAre("f64", "f32", "bf16", "columns", "i64", "i32"));
  EXPECT_EQ(bytes_of(file, "f64"), bytes_of(values));
  EXPECT_EQ(bytes_of(file, "f32"), bytes_of(floats));
  EXPECT_EQ(bytes_of(file, "columns"), bytes_of(std::vector<double>{-1, 1.0 / 3, 65504, -2.5}));
  EXPECT_EQ(bytes_of(file, "i64"), bytes_of(std::vector<std::int64_t>(ids.begin(), ids.end())));
  std::vector<std::int32_t> read(4);
  file.read("i64", view_of(read, 1, 4));
  EXPECT_EQ(read, ids);
  std::vector<float> rounded(6);
  file.read("bf16", view_of(rounded, 3, 2));
  for (std::size_t i = 0; i < 6; ++i)
    EXPECT_EQ(rounded[i], static_cast<float>(Bf16(floats[i]))) << i;
}

/// The value of a half by its definition.
double half_value(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST_F(Safetensors, ConvertsEveryHalfExactly) {
  std::vector<std::uint16_t> halves(65536);
  std::iota(halves.begin(), halves.end(), std::uint16_t{0});
  const TensorFile file = open(file_of(
      R"({"h":{"dtype":"F16","shape":[65536],"data_offsets":[0,131072]}})", bytes_of(halves)));
  std::vector<float> single(65536);
  std::vector<double> twofold(65536);
  std::vector<Bf16> brain(65536);
  file.read("h", view_of(single, 1, 65536));
  file.read("h", view_of(twofold, 256 * 256, 1));
  file.read("h", view_of(brain, 1, 65536));
  for (std::size_t i = 0; i < 65536; ++i) {
    const double expected = half_value(halves[i]);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(single[i]) && std::isnan(twofold[i])) << i;
      EXPECT_TRUE(std::isnan(static_cast<float>(brain[i]))) << i;
      continue;
    }
    ASSERT_EQ(twofold[i], expected) << i;
    ASSERT_EQ(single[i], static_cast<float>(expected)) << i;
    ASSERT_EQ(std::signbit(single[i]), std::signbit(expected)) << i;
    ASSERT_EQ(brain[i].bits, Bf16(static_cast<float>(expected)).bits) << i;
  }
}

TEST_F(Safetensors, ReadsLargeTensorsIntoSpacedRows) {
  // Large enough for two threads; rows are no multiple of a piece.
  constexpr Index kRows = 1237, kCols = 1001;
  std::vector<float> values(kRows * kCols);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 16777213);
  TensorWriter writer;
  writer.add("w", view_of(values, kRows, kCols));
  writer.write_safetensors(folder_ / "x.safetensors");
  const TensorFile file = open_safetensors(folder_ / "x.safetensors");
  std::vector<double> wide(kRows * (kCols + 3), -1);
  View to = view_of(wide, kRows, kCols + 3);
  file.read("w", to.columns(2, kCols));
  for (Index r = 0; r < kRows; ++r) {
    ASSERT_EQ(to.row<double>(r)[0], -1);
    ASSERT_EQ(to.row<double>(r)[kCols + 2], -1);
    for (Index c = 0; c < kCols; ++c)
      ASSERT_EQ(to.row<double>(r)[c + 2], values[static_cast<std::size_t>(r * kCols + c)]);
  }
  std::vector<float> flat(values.size());
  file.read("w", view_of(flat, kRows, kCols));
  EXPECT_EQ(flat, values);
}

TEST_F(Safetensors, FlattensLeadingAndTrailingDimensionsOnly) {
  const TensorFile file = open(file_of(
      R"({"w":{"dtype":"U8","shape":[2,1,3],"data_offsets":[0,6]},"s":{"dtype":"U8","shape":[],"data_offsets":[6,7]}})",
      "\1\2\3\4\5\6\7"));
  std::vector<std::int32_t> to(6);
  for (const auto& [rows, cols] : {std::pair{1, 6}, {2, 3}, {6, 1}}) {
    file.read("w", view_of(to, rows, cols));
    EXPECT_THAT(to, ElementsAre(1, 2, 3, 4, 5, 6));
  }
  for (const auto& [rows, cols] : {std::pair{3, 2}, {1, 5}, {2, 2}, {0, 6}})
    EXPECT_THAT(error_of([&] { file.read("w", view_of(to, rows, cols)); }),
                HasSubstr("tensor \"w\": found U8[2, 1, 3]; expected what can be read as i32["));
  file.read("s", view_of(to, 1, 1));
  EXPECT_EQ(to[0], 7);
  EXPECT_THAT(error_of([&] { file.read("v", view_of(to, 1, 1)); }), HasSubstr("no tensor \"v\""));
  EXPECT_THAT(file.shape("w"), ElementsAre(2, 1, 3));
  EXPECT_EQ(file.find("v"), nullptr);
}

TEST_F(Safetensors, ReadsIntegersOfEveryTypeAndRefusesThoseOutsideOfI32) {
  const auto read = [&](const std::string& type, const std::string& data) {
    const TensorFile file =
        open(file_of(R"({"t":{"dtype":")" + type + R"(","shape":[1],"data_offsets":[0,)" +
                         std::to_string(data.size()) + "]}}",
                     data));
    std::vector<std::int32_t> to(1);
    file.read("t", view_of(to, 1, 1));
    return to[0];
  };
  EXPECT_EQ(read("BOOL", "\1"), 1);
  EXPECT_EQ(read("U8", "\xff"), 255);
  EXPECT_EQ(read("I8", "\xff"), -1);
  EXPECT_EQ(read("U16", "\xff\xff"), 65535);
  EXPECT_EQ(read("I16", "\xff\xff"), -1);
  EXPECT_EQ(read("I32", "\xff\xff\xff\xff"), -1);
  EXPECT_EQ(read("U32", bytes_of(std::uint32_t{0x7fffffff})), 0x7fffffff);
  EXPECT_EQ(read("I64", bytes_of(std::int64_t{-0x80000000LL})), -0x80000000LL);
  EXPECT_EQ(read("U64", bytes_of(std::uint64_t{5})), 5);
  for (const auto& [type, data] : {std::pair{"U32", bytes_of(std::uint32_t{0x80000000})},
                                   {"I64", bytes_of(std::int64_t{0x80000000LL})},
                                   {"I64", bytes_of(std::int64_t{-0x80000001LL})},
                                   {"U64", bytes_of(std::uint64_t{0xffffffffffffffff})}})
    EXPECT_THAT(error_of([&] { read(type, data); }), HasSubstr("do not fit i32")) << type;
}

TEST_F(Safetensors, RefusesToMixFloatsAndIntegers) {
  const TensorFile file =
      open(file_of(R"({"f":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                   R"("i":{"dtype":"I32","shape":[1],"data_offsets":[4,8]},)"
                   R"("e":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[8,9]}})",
                   std::string(9, '\0')));
  std::vector<float> floats(1);
  std::vector<std::int32_t> ids(1);
  EXPECT_THAT(error_of([&] { file.read("f", view_of(ids, 1, 1)); }), HasSubstr("i32[1 x 1]"));
  EXPECT_THAT(error_of([&] { file.read("i", view_of(floats, 1, 1)); }), HasSubstr("f32[1 x 1]"));
  EXPECT_THAT(error_of([&] { file.read("e", view_of(floats, 1, 1)); }), HasSubstr("F8_E4M3"));
}

TEST_F(Safetensors, AllowsEmptyFilesEmptyTensorsAndTrailingSpaces) {
  EXPECT_TRUE(open(file_of("{}")).tensors().empty());
  const TensorFile file =
      open(file_of(R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                   R"("a":{"dtype":"F32","shape":[0,4611686018427387904],"data_offsets":[4,4]},)"
                   R"("c":{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]}}      )",
                   "\0\0\200\77"s));
  EXPECT_THAT(file.names(), ElementsAre("c", "b", "a"));
  std::vector<float> to(1);
  file.read("b", view_of(to, 1, 1));
  EXPECT_EQ(to[0], 1);
  file.read("c", View{nullptr, 3, 0, 0, DType::f32});
  EXPECT_EQ(bytes_of(file, "a"), "");
}

TEST_F(Safetensors, ReadsTensorsInTheOrderOfTheirBytes) {
  const TensorFile file = open(file_of(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},)"
                                       R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                                       "xy"));
  EXPECT_THAT(file.names(), ElementsAre("a", "b"));
  EXPECT_EQ(bytes_of(file, "b"), "y");
}

TEST_F(Safetensors, RefusesAFileThatEndsEarly) {
  const std::string whole =
      file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", std::string(8, 'x'));
  EXPECT_EQ(open(whole).tensors().size(), 1u);
  for (std::size_t size = 0; size < whole.size(); ++size) expect_refused(whole.substr(0, size), "");
  expect_refused(whole + "x", "9 bytes of data; expected 8");
}

TEST_F(Safetensors, RefusesAHeaderLengthThatTheFileDoesNotHave) {
  expect_refused(bytes_of(std::uint64_t{100'000'001}) + "{}", "header of 100000001 bytes");
  expect_refused(bytes_of(~std::uint64_t{0}) + "{}", "header of 18446744073709551615 bytes");
  expect_refused(bytes_of(std::uint64_t{3}) + "{}", "expected a header of 3");
  expect_refused(bytes_of(std::uint64_t{0}), "without '{'");
}

TEST_F(Safetensors, RefusesAHeaderThatIsNotOneJsonObject) {
  for (const char* header : {" {}", "[]", "\"x\"", "{", "{}}", "{} x", "{\"a\":}",
                             "{\"__metadata__\":{}", "{\"\xff\":{}}", "{,}", "{\"a\" {}}", "{}{}"})
    expect_refused(file_of(header), "JSON");
  expect_refused(file_of("{" + std::string(1000000, '[')), "JSON");
}

TEST_F(Safetensors, RefusesNestingBombs) {
  expect_refused(file_of("{\"a\":" + std::string(1000000, '[')), "found an array");
  std::string objects = "{";
  for (int i = 0; i < 1000000; ++i) objects += "\"a\":{";
  expect_refused(file_of(objects), "found an object");
  expect_refused(file_of(R"({"a":{"shape":)" + std::string(1000000, '[')), "found an array");
}

TEST_F(Safetensors, RefusesEntriesOfAnotherForm) {
  const std::string tail = R"(,"shape":[1],"data_offsets":[0,1]}})";
  expect_refused(file_of(R"({"a":{"dtype":"F31")" + tail, "x"), "dtype \"F31\"");
  expect_refused(file_of(R"({"a":{"dtype":3)" + tail, "x"), "found a number");
  expect_refused(file_of(R"({"a":{"dtype":null)" + tail, "x"), "found null");
  expect_refused(file_of(R"({"a":{"dtype":"U8","colour":"red")" + tail, "x"), "\"colour\"");
  expect_refused(file_of(R"({"a":{"dtype":"U8","colour":[])" + tail, "x"), "\"colour\"");
  expect_refused(file_of(R"({"a":{"dtype":"U8","shape":{},"data_offsets":[0,1]}})", "x"), "object");
  expect_refused(file_of(R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", "x"),
                 "fraction");
  expect_refused(file_of(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", "x"),
                 "negative");
  expect_refused(file_of(R"({"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}})", "x"),
                 "string");
  expect_refused(file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", "x"),
                 "complete entry");
  expect_refused(file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}})", "x"),
                 "complete entry");
  expect_refused(file_of(R"({"a":{"dtype":"U8","shape":[1]}})", "x"), "complete entry");
  expect_refused(file_of(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", "x"), "complete entry");
  expect_refused(file_of(R"({"a":1})"), "found a number");
  expect_refused(file_of(R"({"a":"x"})"), "found a string");
  expect_refused(file_of(R"({"a":[]})"), "found an array");
  expect_refused(file_of(R"({"__metadata__":{"a":1}})"), "expected text");
  expect_refused(file_of(R"({"__metadata__":{"a":{}}})"), "expected text");
  std::string ones = "1";
  for (int i = 0; i < 32; ++i) ones += ",1";
  expect_refused(
      file_of(R"({"a":{"dtype":"U8","shape":[)" + ones + R"(],"data_offsets":[0,1]}})", "x"),
      "more than 32");
}

TEST_F(Safetensors, RefusesDuplicateKeys) {
  const std::string entry = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  expect_refused(file_of("{\"a\":" + entry + ",\"a\":" + entry + "}"), "\"a\" is there twice");
  expect_refused(file_of("{\"a\":" + entry + ",\"\\u0061\":" + entry + "}"), "twice");
  expect_refused(file_of(R"({"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
                 "\"dtype\" is there twice");
  expect_refused(file_of(R"({"a":{"dtype":"U8","shape":[0],"shape":[0],"data_offsets":[0,0]}})"),
                 "\"shape\" is there twice");
  expect_refused(file_of(R"({"__metadata__":{"a":"","a":""}})"), "\"a\" is there twice");
  expect_refused(file_of(R"({"__metadata__":{},"__metadata__":{}})"), "twice");
}

TEST_F(Safetensors, RefusesOffsetsThatDisagreeWithTheShape) {
  const auto entry = [](const std::string& shape, const std::string& offsets) {
    return file_of(
        R"({"a":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
        std::string(8, 'x'));
  };
  EXPECT_EQ(open(entry("[2]", "[0,8]")).tensors().size(), 1u);
  expect_refused(entry("[3]", "[0,8]"), "expected 12 bytes for F32[3]");
  expect_refused(entry("[2]", "[8,0]"), "expected 8 bytes for F32[2]");
  expect_refused(entry("[]", "[0,8]"), "expected 4 bytes for F32[]");
  expect_refused(entry("[2305843009213693952]", "[0,8]"), "less than 2^63 bytes");
  expect_refused(entry("[4294967296,4294967296]", "[0,0]"), "less than 2^63 bytes");
  expect_refused(entry("[4294967296,4294967298]", "[0,8]"), "less than 2^63 bytes");
  expect_refused(entry("[0,4294967296,4294967296]", "[0,0]"), "less than 2^63 bytes");
  expect_refused(entry("[9223372036854775808]", "[0,8]"), "above 2^63");
  expect_refused(entry("[18446744073709551616]", "[0,8]"), "fraction");
  expect_refused(entry("[2]", "[9223372036854775800,9223372036854775808]"), "above 2^63");
  expect_refused(entry("[2]", "[9223372036854775799,9223372036854775807]"), "expected 0");
  expect_refused(entry("[3]", "[0,12]"), "expected 8 at most, the end of the file");
}

TEST_F(Safetensors, RefusesHolesAndOverlaps) {
  const auto two = [](const std::string& a, const std::string& b) {
    return file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + a +
                       R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + b + "}}",
                   "1234");
  };
  EXPECT_EQ(open(two("[2,4]", "[0,2]")).tensors().size(), 2u);
  expect_refused(two("[0,2]", "[1,3]"), "\"b\" begins at byte 1 of the data; expected 2");
  expect_refused(two("[0,2]", "[0,2]"), "begins at byte 0 of the data; expected 2");
  expect_refused(two("[0,2]", "[3,5]"), "\"b\" begins at byte 3 of the data; expected 2");
  expect_refused(two("[1,3]", "[3,5]"), "\"a\" begins at byte 1 of the data; expected 0");
  expect_refused(two("[0,2]", "[2,4]") + "5", "5 bytes of data; expected 4");
}

TEST_F(Safetensors, SurvivesDamagedHeaders) {
  const std::string whole = file_of(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"I64","shape":[2],"data_offsets":[24,40]}})",
      std::string(40, 'x'));
  std::mt19937 generator(1);
  int opened = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = whole;
    for (int k = 0; k <= i % 3; ++k) {
      char& byte = damaged[generator() % (whole.size() - 40)];
      byte = i % 2 == 0 ? whole[8 + generator() % 100] : static_cast<char>(generator() % 256);
    }
    write_bytes(folder_ / "x.safetensors", damaged);
    const Allocations allocations;
    const std::string error = error_of([&] {
      const TensorFile file = open_safetensors(folder_ / "x.safetensors");
      std::size_t bytes = 0;
      for (const std::string& name : file.names()) bytes += bytes_of(file, name).size();
      EXPECT_EQ(bytes, 40u);
    });
    ASSERT_LT(allocations.peak(), 20000u) << "round " << i;
    opened += error.empty();
  }
  EXPECT_GT(opened, 20);
}

TEST_F(Safetensors, KeepsErrorsToOneShortLine) {
  const std::string name = std::string(100000, 'n') + "\\n\\u001b[31m";
  expect_refused(file_of("{\"\\n\\u001b" + name + "\":1}"), "\"??nnn");
}

TEST_F(Safetensors, RefusesToWriteWhatItCouldNotRead) {
  std::vector<float> x(4);
  TensorWriter twice;
  twice.add("a", view_of(x, 2, 2));
  twice.add("a", view_of(x, 2, 2));
  EXPECT_THAT(error_of([&] { twice.write_safetensors(folder_ / "x"); }), HasSubstr("twice"));
  TensorWriter short_fill;
  short_fill.add("a", StoredType::u8, {2},
                 [&](const TensorWriter::Put& put) { put(std::as_bytes(std::span(x)).first(1)); });
  EXPECT_THAT(error_of([&] { short_fill.write_safetensors(folder_ / "x"); }),
              HasSubstr("found 1 bytes"));
  TensorWriter writer;
  EXPECT_THAT(error_of([&] { writer.add("a", StoredType::f32, {3}, view_of(x, 2, 2)); }),
              HasSubstr("f32[2 x 2]; expected F32[3]"));
  EXPECT_THAT(error_of([&] { writer.add("a", StoredType::i32, {4}, view_of(x, 2, 2)); }),
              HasSubstr("expected I32[4]"));
  writer.add("\xff", view_of(x, 2, 2));
  EXPECT_THAT(error_of([&] { writer.write_safetensors(folder_ / "x"); }), HasSubstr("UTF-8"));
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(Safetensors, CopiesPublishedFilesTensorForTensor) {
  int copied = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(SAMBA_SOURCE_DIR "/tests/data/goldens")) {
    if (entry.path().extension() != ".safetensors") continue;
    const TensorFile file = open_safetensors(entry.path().string());
    TensorWriter writer;
    for (const auto& [key, value] : file.metadata()) writer.metadata(key, value);
    for (const TensorInfo& tensor : file.tensors())
      writer.add(tensor.name, tensor.type, tensor.shape,
                 [&](const TensorWriter::Put& put) { file.each_piece(tensor.name, put); });
    writer.write_safetensors(folder_ / "copy.safetensors");
    const TensorFile copy = open_safetensors(folder_ / "copy.safetensors");
    EXPECT_EQ(copy.names(), file.names());
    EXPECT_EQ(copy.metadata(), file.metadata());
    for (const TensorInfo& tensor : file.tensors()) {
      EXPECT_EQ(copy.shape(tensor.name), tensor.shape);
      EXPECT_EQ(bytes_of(copy, tensor.name), bytes_of(file, tensor.name)) << tensor.name;
    }
    ++copied;
  }
  EXPECT_EQ(copied, 12);
}

class ShardedSafetensors : public testing::Test {
 protected:
  TemporaryFolder folder_;
  std::string index_ = folder_ / "model.safetensors.index.json";

  void write_shard(const std::string& file, const std::vector<std::string>& names) {
    TensorWriter writer;
    writer.metadata("format", "pt");
    for (const std::string& name : names)
      writer.add(name, StoredType::u8, {1}, [&](const TensorWriter::Put& put) {
        put(std::as_bytes(std::span(name)).first(1));
      });
    writer.write_safetensors(folder_ / file);
  }
  std::string error() {
    return error_of([&] { open_sharded_safetensors(index_); });
  }
};

TEST_F(ShardedSafetensors, ReadsAllShardsAsOneFile) {
  write_shard("model-00001-of-00002.safetensors", {"a", "c"});
  write_shard("model-00002-of-00002.safetensors", {"b"});
  write_bytes(index_, R"({"metadata":{"total_size":3,"more":[[],{"weight_map":1}]},"weight_map":{)"
                      R"("b":"model-00002-of-00002.safetensors",)"
                      R"("a":"model-00001-of-00002.safetensors",)"
                      R"("c":"model-00001-of-00002.safetensors"}})");
  const TensorFile file = open_sharded_safetensors(index_);
  EXPECT_THAT(file.names(), ElementsAre("a", "c", "b"));
  for (const std::string name : {"a", "b", "c"}) EXPECT_EQ(bytes_of(file, name), name);
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST_F(ShardedSafetensors, RefusesAnIndexThatDoesNotMatchItsShards) {
  write_shard("1.safetensors", {"a", "b"});
  write_shard("2.safetensors", {"b"});
  write_bytes(index_, R"({"weight_map":{"a":"1.safetensors","c":"1.safetensors"}})");
  EXPECT_THAT(error(), HasSubstr("\"1.safetensors\" for tensor \"c\""));
  write_bytes(index_, R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})");
  EXPECT_THAT(error(), HasSubstr("\"b\" is there twice"));
  write_bytes(index_, R"({"weight_map":{"a":"3.safetensors"}})");
  EXPECT_THAT(error(), HasSubstr("3.safetensors: cannot open"));
  write_bytes(index_, R"({"weight_map":{"a":"../1.safetensors"}})");
  EXPECT_THAT(error(), HasSubstr("in the same folder"));
  for (const char* text :
       {"", "[]", "{}", "\"x\"", "3", "null", R"({"weight_map":3})", R"({"weight_map":[]})",
        R"({"weight_map":{}})", R"({"weight_map":"x"})", R"({"weight_map":{"a":3}})",
        R"({"weight_map":{"a":{}}})", R"({"weight_map":{"a":["1.safetensors"]}})",
        R"({"weight_map":{"a":"1.safetensors","a":"1.safetensors"}})",
        R"({"weight_map":{"a":"1.safetensors"},"weight_map":{"b":"1.safetensors"}})",
        R"({"weight_map":{"a":"1.safetensors"})"}) {
    write_bytes(index_, text);
    EXPECT_THAT(error(), HasSubstr("expected")) << text;
  }
  write_bytes(index_, "{\"metadata\":" + std::string(1000000, '['));
  EXPECT_THAT(error(), HasSubstr("JSON"));
}

}  // namespace
}  // namespace samba::test
