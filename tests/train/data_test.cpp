#include "train/data.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numeric>
#include <thread>

#include "core/files.h"
#include "model/temporary_folder.h"
#include "support/shared.h"
#include "train/shuffle.h"

namespace samba::test {
namespace {

using Ids = std::vector<std::int32_t>;

class Data : public testing::Test {
 protected:
  TemporaryFolder folder_;

  /// A folder of packed files whose tokens count up from `first`, cut into files of `chunk`.
  std::string write(const std::string& name, Index tokens, Index chunk, std::int32_t first = 0,
                    const std::string& hash = "h") {
    const std::string folder = folder_ / name;
    make_folder(folder);
    PackedMeta meta;
    meta.split = "train";
    meta.tokenizer_hash = hash;
    meta.vocabulary = 60000;
    meta.eos = 2;
    meta.type = PackedType::u16;
    meta.chunk = chunk;
    meta.tokens = tokens;
    PackedWriter writer(folder, "x", chunk, meta.type);
    Ids ids(static_cast<std::size_t>(tokens));
    std::iota(ids.begin(), ids.end(), first);
    writer.write(ids);
    writer.finish();
    meta.files = writer.files();
    write_packed_meta(folder, meta);
    return folder;
  }

  DataOptions options(const std::vector<DataSource>& sources, Index length) {
    DataOptions options;
    options.sources = sources;
    options.length = length;
    options.seed = 17;
    return options;
  }

  std::int32_t first_id(const TokenStream& stream, std::uint64_t sample) {
    Ids ids(static_cast<std::size_t>(stream.sources().front().length()));
    stream.read(sample, ids);
    for (std::size_t i = 1; i < ids.size(); ++i)
      EXPECT_EQ(ids[i], ids[0] + static_cast<std::int32_t>(i));
    return ids[0];
  }
};

TEST(Shuffle, IsNumpys) {
  NumpyGenerator numpy(3407);
  EXPECT_EQ(numpy.permutation(20),
            (std::vector<std::uint32_t>{4,  13, 5,  0,  17, 14, 7,  16, 2, 9,
                                        19, 18, 12, 15, 6,  3,  11, 8,  1, 10}));
  NumpyGenerator twice(3408);
  EXPECT_EQ(
      twice.permutation(33),
      (std::vector<std::uint32_t>{14, 12, 19, 21, 20, 31, 3,  23, 30, 16, 28, 7, 32, 4,  6,  11, 15,
                                  10, 2,  8,  27, 22, 1,  25, 13, 24, 9,  0,  5, 18, 29, 17, 26}));
  EXPECT_EQ(twice.permutation(5), (std::vector<std::uint32_t>{0, 3, 4, 2, 1}));
  NumpyGenerator wide(123456789012345);
  EXPECT_EQ(wide.permutation(10), (std::vector<std::uint32_t>{5, 2, 8, 3, 0, 9, 4, 7, 1, 6}));
  const auto many = NumpyGenerator(3407).permutation(4096);
  EXPECT_EQ(std::vector<std::uint32_t>(many.begin(), many.begin() + 8),
            (std::vector<std::uint32_t>{3382, 3406, 1209, 2769, 3270, 2918, 3788, 2670}));
  EXPECT_EQ(std::vector<std::uint32_t>(many.end() - 8, many.end()),
            (std::vector<std::uint32_t>{3315, 4043, 3944, 3160, 1788, 449, 1546, 3318}));
}

TEST(Shuffle, IsPythons) {
  EXPECT_EQ(python_shuffle(20, 3407),
            (std::vector<std::size_t>{18, 16, 0, 19, 12, 2, 11, 14, 8,  7,
                                      3,  5,  9, 17, 15, 6, 10, 4,  13, 1}));
  const auto many = python_shuffle(1000, 1);
  EXPECT_EQ(std::vector<std::size_t>(many.begin(), many.begin() + 8),
            (std::vector<std::size_t>{852, 836, 280, 575, 208, 609, 932, 725}));
  EXPECT_EQ(std::vector<std::size_t>(many.end() - 8, many.end()),
            (std::vector<std::size_t>{120, 261, 64, 782, 821, 867, 582, 137}));
}

TEST(Shuffle, PermutationHitsEveryPlaceOnceAndFollowsItsKey) {
  for (const Index count : {1, 2, 3, 5, 16, 17, 1000, 4097}) {
    const Permutation permutation(count, 5), other(count, 6);
    std::vector<bool> seen(static_cast<std::size_t>(count));
    Index moved = 0, differ = 0;
    for (Index i = 0; i < count; ++i) {
      const Index to = permutation(i);
      ASSERT_TRUE(to >= 0 && to < count);
      ASSERT_FALSE(seen[static_cast<std::size_t>(to)]);
      seen[static_cast<std::size_t>(to)] = true;
      moved += to != i;
      differ += to != other(i);
    }
    EXPECT_TRUE(count < 1000 || std::min(moved, differ) > count * 9 / 10);
  }
}

TEST_F(Data, WindowsLieInsideFiles) {
  // Files of 10, 10, 10 and 3 tokens, windows of 4.
  const TokenWindows windows(write("a", 33, 10), 4);
  EXPECT_EQ(windows.count(), 6);
  EXPECT_EQ(windows.unused(), 2 + 2 + 2 + 3);
  Ids ids(4);
  windows.read(0, ids);
  EXPECT_EQ(ids, (Ids{0, 1, 2, 3}));
  windows.read(3, ids);
  EXPECT_EQ(ids, (Ids{14, 15, 16, 17}));
  windows.read(5, ids);
  EXPECT_EQ(ids, (Ids{24, 25, 26, 27}));
}

TEST_F(Data, EveryPassHasEveryWindowOnceInAnotherOrder) {
  const TokenStream stream(options({{write("a", 1000, 100)}}, 5));
  const std::uint64_t windows = 200;
  std::vector<Ids> passes;
  for (std::uint64_t pass = 0; pass < 3; ++pass) {
    Ids first;
    for (std::uint64_t i = 0; i < windows; ++i)
      first.push_back(first_id(stream, pass * windows + i));
    passes.push_back(first);
    std::sort(first.begin(), first.end());
    for (std::size_t i = 0; i < windows; ++i) ASSERT_EQ(first[i], static_cast<std::int32_t>(5 * i));
  }
  EXPECT_NE(passes[0], passes[1]);
  EXPECT_NE(passes[1], passes[2]);
}

TEST_F(Data, ASampleDependsOnItsNumberAlone) {
  const DataOptions given =
      options({{write("a", 1000, 100), 0.7}, {write("b", 500, 100, 2000), 0.3}}, 5);
  const TokenStream stream(given), again(given);
  DataOptions other_seed = given;
  other_seed.seed = 18;
  const TokenStream other(other_seed);
  Ids forward, backward, others;
  for (std::uint64_t i = 0; i < 300; ++i) forward.push_back(first_id(stream, i));
  for (std::uint64_t i = 300; i-- > 0;) backward.push_back(first_id(again, i));
  for (std::uint64_t i = 0; i < 300; ++i) others.push_back(first_id(other, i));
  std::reverse(backward.begin(), backward.end());
  EXPECT_EQ(forward, backward);
  EXPECT_NE(forward, others);
  Ids threaded(300);
  std::vector<std::thread> threads;
  for (std::uint64_t k = 0; k < 3; ++k)
    threads.emplace_back([&, k] {
      Ids ids(5);
      for (std::uint64_t i = k; i < 300; i += 3) {
        stream.read(i, ids);
        threaded[i] = ids[0];
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(threaded, forward);
}

TEST_F(Data, SourcesKeepTheirSharesAtEveryMoment) {
  const std::vector<double> weights{5, 3, 2};
  DataOptions given =
      options({{write("a", 100, 100), 5}, {write("b", 100, 100), 3}, {write("c", 100, 100), 2}}, 5);
  const TokenStream stream(given);
  std::vector<double> counts(3);
  for (std::uint64_t i = 0; i < 10000; ++i) {
    counts[stream.place(i).source] += 1;
    for (std::size_t s = 0; s < 3; ++s)
      ASSERT_LT(std::abs(counts[s] - static_cast<double>(i + 1) * weights[s] / 10), 2) << i;
  }
  // Inside a source, too, every pass has every window.
  std::vector<int> seen(20);
  for (std::uint64_t i = 0, own = 0; own < 20; ++i)
    if (const auto place = stream.place(i); place.source == 2)
      ++seen[static_cast<std::size_t>(place.window)], ++own;
  for (const int times : seen) EXPECT_EQ(times, 1);
}

TEST_F(Data, ThePapersOrderIsThatOfItsProgram) {
  // 20 files of 4 windows; 20 / 2 processes = 10 files each, of which one group of 8 is used.
  DataOptions given = options({{write("a", 2000, 100)}}, 25);
  given.order = DataOrder::paper;
  given.seed = 3407;
  given.world = 2;
  given.rank = 1;
  const TokenStream stream(given);
  const auto files = python_shuffle(20, 3407);
  NumpyGenerator numpy(3408);
  for (std::uint64_t group = 0; group < 3; ++group) {
    const auto blocks = numpy.permutation(32);
    for (std::uint64_t i = 0; i < 32; ++i) {
      const std::size_t file = files[1 + 2 * (blocks[i] / 4)];
      ASSERT_EQ(first_id(stream, 32 * group + i),
                static_cast<std::int32_t>(100 * file + 25 * (blocks[i] % 4)));
    }
  }
  EXPECT_EQ(first_id(stream, 3), first_id(TokenStream(given), 3));
}

TEST_F(Data, FindsWhereDocumentsBegin) {
  EXPECT_EQ(document_starts(Ids{5, 2, 6, 7, 2, 2, 8}, 2), (std::vector<Index>{2, 5, 6}));
  EXPECT_EQ(document_starts(Ids{5, 2}, 2), (std::vector<Index>{}));
  EXPECT_EQ(document_starts(Ids{}, 2), (std::vector<Index>{}));
}

TEST_F(Data, ReadsSourcesAndSplits) {
  EXPECT_EQ(parse_data_source("data/x").weight, 1);
  EXPECT_EQ(parse_data_source("data/x:0.7").weight, 0.7);
  EXPECT_EQ(parse_data_source("data/x:0.7").folder, "data/x");
  EXPECT_EQ(parse_data_source("odd:name/x").folder, "odd:name/x");
  for (const char* bad : {"x:", "x:-1", "x:0", "x:nan", "x:inf", "x:1y"})
    EXPECT_NE(error_of([&] { parse_data_source(bad); }).find("weight"), std::string::npos) << bad;
  write("all/train", 100, 100);
  EXPECT_EQ(find_split(folder_ / "all", "train"), folder_ / "all/train");
  EXPECT_EQ(find_split(folder_ / "all/train", "train"), folder_ / "all/train");
}

TEST_F(Data, RefusesDamagedFolders) {
  const std::string folder = write("a", 100, 50);
  const auto error = [&](Index length = 10) {
    return error_of([&] { TokenWindows windows(folder, length); });
  };
  EXPECT_EQ(error(), "");
  EXPECT_NE(error(51).find("the longest file has 50 tokens; expected at least 51"),
            std::string::npos);
  const std::string file = folder + "/x_0000000001.bin", bytes = read_text(file);
  write_text(file, bytes.substr(0, bytes.size() - 2));
  EXPECT_NE(error().find("x_0000000001.bin: the header promises 50"), std::string::npos);
  std::filesystem::remove(file);
  EXPECT_NE(error().find("x_0000000001.bin: cannot open"), std::string::npos);
  // A whole file, but another than was listed.
  std::filesystem::copy_file(write("b", 40, 50) + "/x_0000000000.bin", file);
  EXPECT_NE(error().find("meta.json lists 50"), std::string::npos);
  std::filesystem::remove(folder + "/meta.json");
  EXPECT_NE(error().find("found no meta.json"), std::string::npos);
}

TEST_F(Data, RefusesWhatDoesNotFit) {
  const std::string a = write("a", 1000, 100), b = write("b", 1000, 100, 0, "other");
  const auto error = [&](const DataOptions& given) {
    return error_of([&] { TokenStream stream(given); });
  };
  EXPECT_NE(error(options({{a}, {b}}, 10)).find("b: packed with the tokenizer other"),
            std::string::npos);
  EXPECT_NE(
      error_of([&] { TokenStream(options({{a}}, 10)).expect_tokenizer("x"); }).find("expected x"),
      std::string::npos);
  EXPECT_NE(error(options({}, 10)).find("no source"), std::string::npos);
  EXPECT_NE(error(options({{a, 0}}, 10)).find("weight"), std::string::npos);
  EXPECT_NE(error(options({{a}}, 1)).find("at least 2"), std::string::npos);
  DataOptions paper = options({{a}}, 10);
  paper.order = DataOrder::paper;
  paper.world = 2;
  EXPECT_NE(error(paper).find("at least 8 for each"), std::string::npos);
  paper.world = 1;
  paper.sources.front().folder = write("c", 1050, 100);
  EXPECT_NE(error(paper).find("all alike"), std::string::npos);
}

TEST_F(Data, RefusesIdsAboveTheVocabulary) {
  const TokenWindows windows(write("a", 100, 100, 59950), 10);
  Ids ids(10);
  windows.read(4, ids);
  const std::string error = error_of([&] { windows.read(5, ids); });
  EXPECT_NE(error.find("x_0000000000.bin: token 50: found id 60000; expected 0 to 59999"),
            std::string::npos)
      << error;
}

}  // namespace
}  // namespace samba::test
