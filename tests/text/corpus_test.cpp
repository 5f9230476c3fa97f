#include "text/corpus.h"

#include <gtest/gtest.h>
#include <zstd.h>

#include <filesystem>

#include "core/files.h"
#include "model/temporary_folder.h"
#include "support/shared.h"

namespace samba::test {
namespace {

std::string zstd(const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

std::vector<Document> read_all(const std::vector<std::string>& paths) {
  Corpus corpus(corpus_files(paths));
  std::vector<Document> all;
  for (Document document; corpus.next(document);) all.push_back(document);
  EXPECT_EQ(corpus.bytes_read(), corpus.bytes_total());
  return all;
}

class CorpusOfFiles : public testing::Test {
 protected:
  TemporaryFolder folder_;

  std::string write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(folder_ / name).parent_path());
    write_text(folder_ / name, text);
    return folder_ / name;
  }
  /// The error of reading one file of this text.
  std::string error(const std::string& name, const std::string& text) {
    const std::string path = write(name, text);
    return error_of([&] { read_all({path}); });
  }
};

TEST_F(CorpusOfFiles, ReadsEveryKindInOrder) {
  const std::string lines =
      "{\"text\": \"one\"}\r\n\n{\"meta\": {\"a\": [1]}, \"text\": \"tw\\u00f6\\u0000\"}";
  write("c/b.jsonl", lines);
  write("c/a.md", "# Title\r\n");
  write("c/d/x.jsonl.zst",
        zstd("{\"text\": \"\"}\n") + zstd("{\"text\": \"in a second frame\"}\n"));
  write("c/e.txt.zst", zstd("compressed text"));
  write("c/.hidden", "not read");
  write("c/.git/objects", "not read");
  const auto all = read_all({folder_ / "c", folder_ / "c/a.md"});
  std::vector<std::string> texts;
  for (const Document& document : all) texts.push_back(document.text);
  EXPECT_EQ(texts,
            (std::vector<std::string>{"# Title\r\n", "one", std::string("tw\u00f6\0", 5), "",
                                      "in a second frame", "compressed text", "# Title\r\n"}));
  EXPECT_EQ(all[1].place, folder_ / "c/b.jsonl:1");
  EXPECT_EQ(all[2].place, folder_ / "c/b.jsonl:3");
}

TEST_F(CorpusOfFiles, ReadsLinesThatAreLongerThanItsBuffer) {
  std::string lines, expected;
  for (const std::size_t size : {10u, 3000000u, 1u, 1048576u, 5000000u}) {
    const std::string text(size, 'x');
    lines += "{\"text\": \"" + text + "\"}\n";
    expected += text + '|';
  }
  for (const std::string& path : {write("a.jsonl", lines), write("a.jsonl.zst", zstd(lines))}) {
    std::string found;
    for (const Document& document : read_all({path})) found += document.text + '|';
    EXPECT_TRUE(found == expected) << path;
  }
}

TEST_F(CorpusOfFiles, NamesFileAndLineOfABadOne) {
  const std::string good = "{\"text\": \"good\"}\n";
  EXPECT_NE(error("a.jsonl", good + "{\"text\": \"open\n").find("a.jsonl:2: not JSON"),
            std::string::npos);
  EXPECT_NE(error("a.jsonl", good + good + "{\"txt\": \"x\"}\n")
                .find("a.jsonl:3: found no field \"text\""),
            std::string::npos);
  EXPECT_NE(error("a.jsonl", "{\"text\": 5}")
                .find("a.jsonl:1: field \"text\": found a number; expected a string"),
            std::string::npos);
  EXPECT_NE(error("a.jsonl", "{\"text\": null}").find("expected a string"), std::string::npos);
  EXPECT_NE(error("a.jsonl", "[1, 2]\n").find("a.jsonl:1: expected a JSON object"),
            std::string::npos);
  EXPECT_NE(error("a.jsonl", good + "{\"text\": \"a\xff\"}\n")
                .find("a.jsonl:2: found text that is not UTF-8 at byte 11"),
            std::string::npos);
  EXPECT_NE(error("a.jsonl", "{\"text\": \"\\ud800\"}\n").find("a.jsonl:1: not JSON"),
            std::string::npos);
  EXPECT_NE(error("a.jsonl", good + "{\"text\": \"a\"} {\"text\": \"b\"}\n").find("a.jsonl:2: "),
            std::string::npos);
}

TEST_F(CorpusOfFiles, NamesFileAndByteOfTextThatIsNotUtf8) {
  EXPECT_NE(
      error("a.txt", "0123456789\xc3(").find("a.txt: found text that is not UTF-8 at byte 10"),
      std::string::npos);
}

TEST_F(CorpusOfFiles, RefusesDamagedCompression) {
  std::string lines;
  for (int i = 0; i < 20000; ++i) lines += text_of("{\"text\": \"", i * 7919, "\"}\n");
  const std::string packed = zstd(lines);
  ASSERT_GT(packed.size(), 1000u);
  EXPECT_EQ(error("a.jsonl.zst", packed), "");
  EXPECT_NE(
      error("a.jsonl.zst", packed.substr(0, packed.size() - 1)).find("a.jsonl.zst: truncated"),
      std::string::npos);
  EXPECT_NE(error("a.jsonl.zst", packed.substr(0, packed.size() / 2)).find("a.jsonl.zst: "),
            std::string::npos);
  EXPECT_NE(error("a.jsonl.zst", "").find("truncated"), std::string::npos);
  EXPECT_NE(error("a.jsonl.zst", "no zstd at all").find("cannot decompress"), std::string::npos);
  EXPECT_NE(error("a.jsonl.zst", packed + "junk behind").find("cannot decompress"),
            std::string::npos);
}

TEST_F(CorpusOfFiles, SaysWhatIsNotThere) {
  EXPECT_NE(error_of([&] { corpus_files({folder_ / "none"}); }).find("none: no such file"),
            std::string::npos);
  std::filesystem::create_directories(folder_ / "empty");
  EXPECT_NE(error_of([&] { corpus_files({folder_ / "empty"}); }).find("found no files"),
            std::string::npos);
}

TEST_F(CorpusOfFiles, AnEmptyFileIsAnEmptyDocumentAndOneWithoutLinesIsNone) {
  EXPECT_EQ(read_all({write("a.txt", "")}).size(), 1u);
  EXPECT_EQ(read_all({write("a.jsonl", "")}).size(), 0u);
  EXPECT_EQ(read_all({write("a.jsonl", "\n \n")}).size(), 0u);
}

TEST(Corpus, ReadsTheWidestWindow) {
  const std::string path = shared_file("data/text/validation/docs.jsonl.zst");
  SAMBA_SKIP_WITHOUT(path, "training text");
  EXPECT_EQ(read_all({path}).size(), 171u);
}

}  // namespace
}  // namespace samba::test
