#include "model/pth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "model/allocations.h"
#include "model/bytes.h"
#include "model/pickle.h"
#include "model/safetensors.h"
#include "model/temporary_folder.h"
#include "model/torch_archive.h"
#include "model/zip.h"

namespace samba::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kCheckpoint = SAMBA_SOURCE_DIR "/tests/data/pth/checkpoint.pth";

/// What opening a file may take at most, whatever stands in it.
constexpr std::size_t kMostMemory = 32 << 20;

/// Opens the file and reads all tensors, as doubles or integers and as bytes.
void read_everything(const std::string& path) {
  const TensorFile file = open_pth(path);
  for (const TensorInfo& tensor : file.tensors()) {
    const Index count = tensor.count();
    const bool floats = convertible(tensor.type, DType::f64);
    const DType dtype = floats ? DType::f64 : DType::i32;
    std::vector<double> to(static_cast<std::size_t>(count));
    const View view{reinterpret_cast<std::byte*>(to.data()), 1, count, count, dtype};
    error_of([&] { file.read(tensor.name, view); });
    bytes_of(file, tensor.name);
  }
}

class Pth : public testing::Test {
 protected:
  TemporaryFolder folder_;
  std::string path_ = folder_ / "x.pth";

  TensorFile open(const std::string& bytes) {
    write_bytes(path_, bytes);
    return open_pth(path_);
  }
  void expect_refused(const std::string& bytes, const std::string& message) {
    write_bytes(path_, bytes);
    const Allocations allocations;
    const std::string error = error_of([&] { open_pth(path_); });
    // The error's own text takes some.
    EXPECT_LT(allocations.peak(), std::min(50 * bytes.size() + 20000, kMostMemory));
    EXPECT_THAT(error, testing::StartsWith(path_ + ": "));
    EXPECT_THAT(error, HasSubstr(message));
    EXPECT_THAT(error, HasSubstr("expected"));
    EXPECT_LT(error.size(), 1000u);
  }
  void expect_pickle_refused(const std::string& pickled, const std::string& message) {
    expect_refused(torch::save(pickled, "12345678"), message);
  }
};

TEST_F(Pth, ReadsWhatTorchSaved) {
  const TensorFile file = open_pth(kCheckpoint);
  EXPECT_THAT(file.names(),
              ElementsAre("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16",
                          "int8", "uint8", "bool", "transposed", "columns", "rows", "convolution",
                          "scalar", "empty", "embedding", "head"));
  for (const char* name : {"float64", "float32", "float16", "bfloat16"}) {
    std::vector<float> to(6);
    file.read(name, view_of(to, 2, 3));
    EXPECT_THAT(to, ElementsAre(0, 1, 2, 3, 4, 5)) << name;
  }
  for (const char* name : {"int64", "int32", "int16", "int8", "uint8"}) {
    std::vector<std::int32_t> to(6);
    file.read(name, view_of(to, 2, 3));
    EXPECT_THAT(to, ElementsAre(0, 1, 2, 3, 4, 5)) << name;
  }
  std::vector<std::int32_t> truth(6);
  file.read("bool", view_of(truth, 2, 3));
  EXPECT_THAT(truth, ElementsAre(0, 1, 1, 1, 1, 1));
  std::vector<float> to(12);
  file.read("transposed", view_of(to, 3, 4));
  EXPECT_THAT(to, ElementsAre(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11));
  EXPECT_EQ(bytes_of(file, "transposed"), bytes_of(to));
  file.read("columns", view_of(to, 4, 3));
  EXPECT_THAT(to, ElementsAre(1, 2, 3, 7, 8, 9, 13, 14, 15, 19, 20, 21));
  file.read("convolution", view_of(to, 3, 4));
  EXPECT_THAT(to, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
  to.resize(4);
  file.read("rows", view_of(to, 2, 2));
  EXPECT_THAT(to, ElementsAre(4, 5, 6, 7));
  file.read("scalar", view_of(to, 1, 1));
  EXPECT_EQ(to[0], 7);
  EXPECT_EQ(file.at("empty").count(), 0);
  EXPECT_EQ(file.at("head").data, file.at("embedding").data);
  std::vector<float> head(600);
  file.read("head", view_of(head, 300, 2));
  for (std::size_t i = 0; i < head.size(); ++i) EXPECT_EQ(head[i], static_cast<float>(i % 100));
}

std::string shared() {
  const char* folder = std::getenv("SAMBA_SHARED");
  return folder != nullptr ? folder : SAMBA_SOURCE_DIR "/../shared";
}

TEST_F(Pth, EqualsTheSafetensorsOfTheSameWeights) {
  const std::string goldens = shared() + "/goldens/lit_gpt";
  if (!std::filesystem::exists(goldens)) GTEST_SKIP() << goldens << " is not on this machine";
  int compared = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(goldens)) {
    if (entry.path().extension() != ".pth") continue;
    const TensorFile torch = open_pth(entry.path().string());
    const std::string folder = entry.path().parent_path().string();
    const TensorFile safe = open_safetensors(folder + "/model.safetensors");
    EXPECT_EQ(torch.tensors().size(), safe.tensors().size());
    for (const TensorInfo& tensor : safe.tensors()) {
      EXPECT_EQ(torch.at(tensor.name).type, tensor.type);
      EXPECT_EQ(torch.shape(tensor.name), tensor.shape);
      EXPECT_EQ(bytes_of(torch, tensor.name), bytes_of(safe, tensor.name))
          << entry.path() << ' ' << tensor.name;
    }
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

TEST_F(Pth, ReadsTheTopLevelDictWhereThereIsNoModel) {
  const std::string pickled =
      torch::dict({{"step", torch::integer(3)},
                   {"w", torch::tensor(torch::storage("ShortStorage", "0", 4), 1, {3}, {1})}});
  const TensorFile file = open(torch::save(pickled, "12345678"));
  EXPECT_THAT(file.names(), ElementsAre("w"));
  EXPECT_EQ(bytes_of(file, "w"), "345678");
}

TEST_F(Pth, ReadsZipAndZip64AlikeAtAnyPaddingAndWithAComment) {
  const std::string pickled =
      torch::dict({{"w", torch::tensor(torch::storage("ByteStorage", "0", 3), 0, {3}, {1})}});
  const torch::Files files{{"a b/version", "3\n"},
                           {"a b/data.pkl", "\x80\x02" + pickled + "."},
                           {"a b/byteorder", "little"},
                           {"a b/data/1", ""},
                           {"a b/.data/serialization_id", "1"},
                           {"a b/data/0", "abc"}};
  for (const bool zip64 : {false, true})
    EXPECT_EQ(bytes_of(open(torch::zip(files, zip64)), "w"), "abc") << zip64;
  std::string commented = torch::zip(files);
  commented.replace(commented.size() - 2, 2, std::string("\5\0", 2) + "PK\5\6!");
  EXPECT_EQ(bytes_of(open(commented), "w"), "abc");
}

TEST_F(Pth, AcceptsAnyStrideOfADimensionOfOne) {
  const std::string pickled =
      torch::dict({{"w", torch::tensor(torch::storage("ByteStorage", "0", 8), 0, {1, 2, 1, 2},
                                       {INT64_MAX, 1, INT64_MAX, 4})}});
  EXPECT_EQ(bytes_of(open(torch::save(pickled, "12345678")), "w"), "1526");
}

TEST_F(Pth, GathersLargeTransposedTensorsWithTwoThreads) {
  constexpr std::int64_t kRows = 701, kCols = 523;
  std::vector<float> values(kRows * kCols);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const std::string pickled =
      torch::dict({{"w", torch::tensor(torch::storage("FloatStorage", "0", kRows * kCols), 0,
                                       {kCols, kRows}, {1, kCols})}});
  const TensorFile file = open(torch::save(pickled, bytes_of(values)));
  std::vector<double> to(values.size());
  file.read("w", view_of(to, kCols, kRows));
  for (std::size_t c = 0; c < kCols; ++c)
    for (std::size_t r = 0; r < kRows; ++r)
      ASSERT_EQ(to[c * kRows + r], static_cast<double>(r * kCols + c));
}

TEST_F(Pth, RefusesGlobalsThatAreNotTensors) {
  for (const auto& [module, name] : {std::pair{"os", "system"},
                                     {"posix", "system"},
                                     {"builtins", "eval"},
                                     {"torch._utils", "_rebuild_parameter"},
                                     {"torch", "ComplexFloatStorage"},
                                     {"torch", "load"},
                                     {"collections", "defaultdict"},
                                     {"collections.OrderedDict", ""}})
    expect_pickle_refused(torch::global(module, name) + torch::tuple({torch::text("true")}) + "R",
                          "global \"" + std::string(module) + "\" \"" + name + "\"");
  expect_pickle_refused(torch::global("os\x1b[2J", std::string(5000, 'x')), "global \"os?[2J\"");
  expect_pickle_refused("cos", "end");
}

TEST_F(Pth, RefusesOpcodesOutsideOfTheSubset) {
  const std::string allowed = ".(N\x88\x89JKM\x8aGX)t\x85\x86\x87]ae}suqrhjcQRb\x80";
  for (int op = 0; op < 256; ++op) {
    if (allowed.find(static_cast<char>(op)) != std::string::npos) continue;
    expect_pickle_refused(std::string(1, static_cast<char>(op)), "opcode " + std::to_string(op));
  }
  expect_pickle_refused("ios\nsystem\n", "(INST)");
  expect_pickle_refused("X\2\0\0\0osX\1\0\0\0x\x93", "");
  expect_pickle_refused("\x93", "(STACK_GLOBAL)");
  expect_refused(torch::zip({{"x/data.pkl", "\x80\4}."}}), "protocol 4");
}

TEST_F(Pth, RefusesCallsOfAnotherForm) {
  const std::string ordered = torch::global("collections", "OrderedDict");
  const std::string rebuild = torch::global("torch._utils", "_rebuild_tensor_v2");
  const std::string bytes = torch::storage("ByteStorage", "0", 8);
  const std::string one = torch::integers({1});
  expect_pickle_refused(ordered + torch::tuple({"]"}) + "R", "arguments of OrderedDict");
  expect_pickle_refused(ordered + "NR", "found None");
  expect_pickle_refused("N)R", "a call of None");
  expect_pickle_refused(torch::global("torch", "ByteStorage") + ")R", "a call of a storage class");
  expect_pickle_refused(rebuild + torch::tuple({bytes}) + "R", "1 arguments");
  const auto call = [&](const std::vector<std::string>& arguments) {
    return rebuild + torch::tuple(arguments) + "R";
  };
  expect_pickle_refused(call({"N", "K\1", one, one, "\x89", torch::ordered_dict()}), "other");
  expect_pickle_refused(call({bytes, "N", one, one, "\x89", torch::ordered_dict()}), "other");
  expect_pickle_refused(call({bytes, "K\1", one, one, "\x89", "N"}), "other");
  expect_pickle_refused(call({bytes, "K\1", one, one, "N", torch::ordered_dict()}), "other");
  for (const auto& [offset, shape, strides] :
       {std::tuple{torch::integer(-1), one, one},
        {torch::integer(0), torch::integers({-1}), one},
        {torch::integer(0), one, torch::integers({-1})},
        {torch::integer(0), one, torch::integers({1, 1})},
        {torch::integer(0), torch::tuple({"N"}), one},
        {torch::integer(0), std::string("N"), one},
        {torch::integer(0), torch::integers(std::vector<std::int64_t>(33, 1)),
         torch::integers(std::vector<std::int64_t>(33, 1))}})
    expect_pickle_refused(call({bytes, offset, shape, strides, "\x89", torch::ordered_dict()}),
                          "none of them negative");
  expect_pickle_refused(torch::text("x") + "Q", "found a str");
  expect_pickle_refused(torch::tuple({torch::text("storage")}) + "Q", "tuple of 1");
  expect_pickle_refused(torch::storage("ByteStorage", "0", -1), "another persistent id");
  const std::string state = torch::dict({{"_metadata", "}"}});
  expect_pickle_refused(torch::ordered_dict() + torch::dict({{"x", "N"}}) + "b", "BUILD");
  expect_pickle_refused("}" + state + "b", "BUILD on a dict");
  expect_pickle_refused(torch::ordered_dict() + "Nb", "BUILD");
  expect_pickle_refused(torch::ordered_dict() + state + "b", "no tensors");
}

TEST_F(Pth, RefusesAPickleThatMisusesItsStack) {
  for (const char* pickled :
       {"",   "a",   "e",      "s",      "u",      "t",    "\x85",  "N\x86", "NN\x87", "Q",
        "R",  "b",   "q",      "N(\x85", "](\x61", "}(Ns", "}NN(s", "(",     "((",     "(N",
        "NN", "NNa", "](NNeN", "NNNs",   "}(Nu",   "](Nu", "h",     "q\5",   "r\1"})
    expect_pickle_refused(pickled, "");
  // What stands below a mark belongs to what the mark began.
  for (const char* pickled : {"N(\x85", "NN(\x86", "](a", "}(Ns", "N(q\1", "N(b"})
    expect_pickle_refused(pickled, "too few of them");
  expect_pickle_refused("]((e", "nothing to add to");
  expect_pickle_refused(std::string("h\0", 2), "memo place 0");
  expect_pickle_refused("Nq\1h\2", "memo place 2");
  expect_pickle_refused("N.N", "after the end");
  expect_pickle_refused("]", "a list; expected a dict of tensors");
  expect_pickle_refused(torch::dict({{"model", "]"}}), "\"model\": found a list");
  expect_pickle_refused("\x8a\x09" + std::string(9, '\1'), "long of 9 bytes");
  expect_pickle_refused(std::string("\x8a\0", 2), "an int");
}

TEST_F(Pth, RefusesBombsWithoutSpendingMemoryOrStack) {
  expect_pickle_refused(std::string(100000, ']') + std::string(99999, 'a') + "\x85", "a tuple");
  expect_pickle_refused(")" + std::string(100000, '\x85'), "a tuple");
  expect_pickle_refused(std::string(100000, '('), "");
  expect_pickle_refused("Nr\xff\xff\xff\xff", "memo place 4294967295");
  expect_pickle_refused("Nr" + bytes_of(std::uint32_t{4000000}), "memo place 4000000");
  // A list of ten times the list before it, ten times over; and a dict that holds itself.
  std::string laughs = "]q" + std::string(1, '\0');
  for (char i = 1; i < 50; ++i) {
    laughs += "](";
    for (int k = 0; k < 10; ++k) laughs += std::string("h") + static_cast<char>(i - 1);
    laughs += std::string("eq") + i;
  }
  expect_pickle_refused(laughs + std::string(49, 'a') + "0", "opcode 48");
  expect_pickle_refused("}q\1" + torch::text("model") + "h\1s", "no tensors");
  expect_pickle_refused("X\xff\xff\xff\xffx", "its end");
  expect_pickle_refused("\x8a\xffx", "its end");
  expect_refused(torch::zip({{"x/data.pkl", std::string(5000000, ']')}}), "1048576 values");
}

TEST_F(Pth, RefusesTensorsThatLeaveTheirStorage) {
  const auto tensor = [](const std::string& type, std::int64_t count, std::int64_t offset,
                         const std::vector<std::int64_t>& shape,
                         const std::vector<std::int64_t>& strides) {
    return torch::dict(
        {{"w", torch::tensor(torch::storage(type, "0", count), offset, shape, strides)}});
  };
  const std::int64_t big = std::int64_t{1} << 62;
  EXPECT_EQ(open(torch::save(tensor("FloatStorage", 2, 0, {2}, {1}), "12345678")).at("w").count(),
            2);
  expect_pickle_refused(tensor("FloatStorage", 3, 0, {2}, {1}), "storage of 8 bytes; expected 3");
  expect_pickle_refused(tensor("FloatStorage", big, 0, {2}, {1}), "storage of 8 bytes");
  for (const auto& [offset, shape, strides] :
       {std::tuple{std::int64_t{0}, std::vector<std::int64_t>{9}, std::vector<std::int64_t>{1}},
        {1, {8}, {1}},
        {0, {2}, {8}},
        {0, {2, 4}, {5, 1}},
        {8, {}, {}},
        {0, {9}, {0}},
        {0, {3, 3}, {0, 1}},
        {big, {2}, {big}},
        {INT64_MAX, {1}, {1}},
        {0, {big, 4}, {1, 1}},
        {0, {big, big}, {0, 0}},
        {0, {4}, {INT64_MAX}},
        {0, {big, big, 0}, {1, 1, 1}}})
    expect_pickle_refused(tensor("ByteStorage", 8, offset, shape, strides), "inside of 8 elements");
  expect_pickle_refused(
      torch::dict({{"w", torch::tensor(torch::storage("ByteStorage", "1", 1), 0, {1}, {1})}}),
      "no storage \"1\"");
  expect_pickle_refused(
      torch::dict({{"w", torch::tensor(torch::storage("ByteStorage", "0/../0", 1), 0, {1}, {1})}}),
      "no storage");
  EXPECT_EQ(open(torch::save(tensor("ByteStorage", 8, INT64_MAX, {0, big}, {big, big}), "12345678"))
                .at("w")
                .count(),
            0);
}

TEST_F(Pth, RefusesOneNameTwice) {
  const std::string w = torch::tensor(torch::storage("ByteStorage", "0", 8), 0, {8}, {1});
  expect_pickle_refused(torch::dict({{"w", w}, {"w", w}}), "\"w\" is there twice");
}

TEST_F(Pth, RefusesArchivesOfAnotherKind) {
  const std::string pickle = "\x80\2}.";
  expect_refused("", "no end of a zip archive");
  expect_refused("\x80\2\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "since version 1.6");
  expect_refused(torch::zip({}), "no FOLDER/data.pkl");
  expect_refused(torch::zip({{"data.pkl", pickle}}), "no FOLDER/data.pkl");
  expect_refused(torch::zip({{"a/b/data.pkl", pickle}}), "no FOLDER/data.pkl");
  expect_refused(torch::zip({{"a/data.pkl", pickle}, {"b/data.pkl", pickle}}), "two data.pkl");
  expect_refused(torch::zip({{"a/data.pkl", pickle}, {"a/data.pkl", pickle}}), "twice");
  expect_refused(torch::zip({{"a/data.pkl", pickle}, {"a/byteorder", "big"}}), "\"big\"");
}

TEST_F(Pth, RefusesArchivesWithLyingRecords) {
  const torch::Files files{{"x/data.pkl", "\x80\2}."}, {"x/data/0", "12345678"}};
  const std::string valid = torch::zip(files);
  const std::size_t directory = valid.find("PK\1\2"), second = valid.find("PK\1\2", directory + 4);
  const std::size_t end = valid.find("PK\5\6");
  const auto with = [&](std::size_t at, const std::string& bytes) {
    std::string changed = valid;
    return changed.replace(at, bytes.size(), bytes);
  };
  const auto u32 = [](std::uint32_t value) { return bytes_of(value); };
  expect_refused(with(directory + 8, "\1"), "encrypted entry \"x/data.pkl\"");
  expect_refused(with(directory + 10, "\x08"), "compressed entry \"x/data.pkl\"");
  expect_refused(with(second + 20, u32(7)), "compressed entry \"x/data/0\"");
  expect_refused(with(second + 20, u32(9) + u32(9)), "beyond its place");
  expect_refused(with(second + 20, u32(0xfffffff0) + u32(0xfffffff0)), "beyond its place");
  expect_refused(with(second + 20, u32(0xffffffff) + u32(0xffffffff)), "without a zip64 field");
  expect_refused(with(second + 42, u32(0xfffffff0)), "beyond its place");
  expect_refused(with(second + 42, u32(1)), "no entry \"x/data/0\"");
  expect_refused(with(second + 42, u32(0)), "another name");
  expect_refused(with(second + 28, "\xff\xff"), "beyond its place");
  expect_refused(with(second + 30, "\xff\xff"), "beyond its place");
  expect_refused(with(directory, "QK"), "no entry in the directory");
  expect_refused(with(end + 10, "\3"), "beyond its place");
  expect_refused(with(end + 10, "\1"), "another size");
  expect_refused(with(end + 12, u32(0xfffffff0)), "directory beyond the end");
  expect_refused(with(end + 16, u32(0xfffffff0)), "directory beyond the end");
  expect_refused(with(26, "\xff\xff"), "beyond its place");
  expect_refused(with(28, "\xff\xff"), "beyond its place");
  const std::string valid64 = torch::zip(files, true);
  const std::size_t end64 = valid64.find("PK\6\6"), locator = valid64.find("PK\6\7");
  for (const std::size_t at : {end64 + 39, end64 + 47, end64 + 55, locator + 15, end64})
    expect_refused(std::string(valid64).replace(at, 1, "\xff"), "zip: ");
  expect_refused(std::string(valid64).replace(end64 + 39, 1, "\x7f"), "zip: ");
}

TEST_F(Pth, RefusesEntriesThatOverlap) {
  // The second entry's local header stands inside of the first one's bytes.
  const std::string inner = torch::zip({{"x/data/0", "12345678"}});
  const std::string local = inner.substr(0, inner.find("PK\1\2"));
  std::string archive = torch::zip({{"x/data.pkl", local}, {"x/data/0", "12345678"}});
  const std::size_t second = archive.rfind("PK\1\2");
  archive.replace(second + 42, 4, bytes_of(static_cast<std::uint32_t>(archive.find(local))));
  expect_refused(archive, "inside of another");
}

TEST_F(Pth, RefusesAFileThatEndsEarly) {
  const std::string whole = read_bytes(kCheckpoint);
  ASSERT_FALSE(whole.empty());
  for (std::size_t size = 0; size < whole.size(); size += 97)
    expect_refused(whole.substr(0, size), "zip: ");
  expect_refused(whole.substr(0, whole.size() - 1), "zip: ");
}

TEST_F(Pth, SurvivesDamagedBytes) {
  const std::string whole = read_bytes(kCheckpoint);
  ASSERT_FALSE(whole.empty());
  std::mt19937 generator(1);
  int opened = 0, refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = whole;
    // Half of the damage goes to the pickle, which stands first and is where most can go wrong.
    const std::size_t range = i % 2 == 0 ? 2300 : whole.size();
    for (int k = 0; k <= i % 3; ++k)
      damaged[generator() % range] = static_cast<char>(generator() % 256);
    write_bytes(path_, damaged);
    const Allocations allocations;
    const std::string error = error_of([&] { read_everything(path_); });
    ASSERT_LT(allocations.peak(), 30 * whole.size()) << "round " << i;
    ++(error.empty() ? opened : refused);
  }
  EXPECT_GT(opened, 100);
  EXPECT_GT(refused, 300);
}

TEST(Pickle, SurvivesDamageWithoutReadingBeyondItsEnd) {
  const std::string whole = read_bytes(kCheckpoint);
  std::string_view pickle;
  for (const ZipEntry& entry : read_stored_zip(std::as_bytes(std::span(whole)), kCheckpoint))
    if (entry.name.ends_with("data.pkl"))
      pickle = {reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size()};
  ASSERT_FALSE(pickle.empty());
  std::mt19937 generator(2);
  int opened = 0;
  for (int i = 0; i < 20000; ++i) {
    // On the heap and of just this size, so that the address sanitizer sees where it ends.
    std::vector<char> damaged(pickle.begin(), pickle.end());
    if (i % 4 == 0) damaged.resize(generator() % pickle.size());
    for (int k = 0; k <= i % 8 && !damaged.empty(); ++k)
      damaged[generator() % damaged.size()] =
          i % 3 == 0 ? pickle[generator() % pickle.size()] : static_cast<char>(generator() % 256);
    const Allocations allocations;
    const std::string error =
        error_of([&] { read_pickled_tensors(std::as_bytes(std::span(damaged)), "x"); });
    ASSERT_LT(allocations.peak(), 60 * pickle.size()) << "round " << i;
    opened += error.empty();
  }
  EXPECT_GT(opened, 100);
}

class ModelTensors : public testing::Test {
 protected:
  TemporaryFolder folder_;
};

TEST_F(ModelTensors, AreThoseOfTheFirstKindOfFileThatIsThere) {
  EXPECT_THAT(error_of([&] { open_model_tensors(folder_.path()); }),
              HasSubstr("found no weights; expected model.safetensors"));
  EXPECT_THAT(error_of([&] { open_model_tensors(folder_ / "missing"); }), HasSubstr("no weights"));
  const auto opened = [&] {
    return std::filesystem::path(open_model_tensors(folder_.path()).path()).filename().string();
  };
  const std::string torch = read_bytes(kCheckpoint);
  write_bytes(folder_ / "pytorch_model.bin", torch);
  EXPECT_EQ(opened(), "pytorch_model.bin");
  for (const char* name : {"iter-.pth", "iter-000100-ckpt.pth", "iter-99-ckpt.pth",
                           "iter-000200-ckpt.pth.tmp", "lit-000300-ckpt.pth"})
    write_bytes(folder_ / name, torch);
  EXPECT_EQ(opened(), "iter-000100-ckpt.pth");
  write_bytes(folder_ / "iter-123456789012345678901234567890-ckpt.pth", torch);
  EXPECT_EQ(opened(), "iter-123456789012345678901234567890-ckpt.pth");
  const std::string header = R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  const std::string safe = bytes_of(std::uint64_t{header.size()}) + header + "x";
  write_bytes(folder_ / "1.safetensors", safe);
  write_bytes(folder_ / "model.safetensors.index.json", R"({"weight_map":{"w":"1.safetensors"}})");
  EXPECT_EQ(opened(), "model.safetensors.index.json");
  write_bytes(folder_ / "model.safetensors", safe);
  EXPECT_EQ(opened(), "model.safetensors");
}

}  // namespace
}  // namespace samba::test
