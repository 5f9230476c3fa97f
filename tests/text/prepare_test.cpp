#include "text/prepare.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include "core/files.h"
#include "core/json.h"
#include "model/temporary_folder.h"
#include "support/shared.h"
#include "text/tokenizer.h"

namespace samba::test {
namespace {

namespace fs = std::filesystem;

using Ids = std::vector<std::int32_t>;

/// Names and bytes of a folder's files.
std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = read_text(entry.path().string());
  return files;
}

class Prepare : public testing::Test {
 protected:
  TemporaryFolder folder_;
  Tokenizer tokenizer_{test_file("tokenizer/small.model")};

  PrepareOptions options(const std::string& output, Index chunk = 1000) {
    PrepareOptions options;
    options.inputs = {folder_ / "in"};
    options.tokenizer = test_file("tokenizer/small.model");
    options.output = folder_ / output;
    options.chunk = chunk;
    options.threads = 2;
    return options;
  }

  void write(const std::string& name, const std::string& text) {
    fs::create_directories(folder_ / "in");
    write_text(folder_ / ("in/" + name), text);
  }

  /// Documents of all lengths from none on, in three files.
  std::vector<std::string> write_documents(int count) {
    std::vector<std::string> texts;
    std::string lines[3];
    for (int i = 0; i < count; ++i) {
      std::string text;
      for (int n = 0; n < i * i % 97; ++n)
        text += text_of("word", n * i % 13, n % 5 == 0 ? "\n" : " ");
      lines[3 * i / count] += Json({{"text", text}}).dump() + "\n";
      texts.push_back(text);
    }
    for (int k = 0; k < 3; ++k) write(text_of("part", k, ".jsonl"), lines[k]);
    return texts;
  }

  Ids read_ids(const PackedMeta& meta, const std::string& folder) {
    Ids all;
    for (const auto& listed : meta.files) {
      const PackedFile file(folder + "/" + listed.name);
      EXPECT_EQ(file.tokens(), listed.tokens);
      Ids ids(static_cast<std::size_t>(file.tokens()));
      file.read(0, meta.vocabulary, ids);
      all.insert(all.end(), ids.begin(), ids.end());
    }
    return all;
  }

  Ids expected(const std::vector<std::string>& texts) {
    Ids all;
    for (const std::string& text : texts) {
      const Ids ids = tokenizer_.encode(text);
      all.insert(all.end(), ids.begin(), ids.end());
      all.push_back(tokenizer_.eos());
    }
    return all;
  }
};

TEST_F(Prepare, LosesNothing) {
  const auto texts = write_documents(300);
  const auto metas = prepare(options("out"));
  ASSERT_EQ(metas.size(), 1u);
  const PackedMeta meta = read_packed_meta(folder_ / "out/train");
  EXPECT_EQ(meta.documents, 300);
  EXPECT_EQ(meta.eos, 2);
  EXPECT_EQ(meta.vocabulary, 700);
  EXPECT_EQ(meta.tokenizer_hash, tokenizer_.hash());
  const Ids ids = expected(texts);
  EXPECT_EQ(meta.tokens, static_cast<Index>(ids.size()));
  EXPECT_TRUE(read_ids(meta, folder_ / "out/train") == ids);
  ASSERT_GT(meta.files.size(), 3u);
  EXPECT_EQ(meta.files.front().name, "train_0000000000.bin");
  EXPECT_EQ(meta.files.front().tokens, 1000);
  EXPECT_EQ(meta.files.back().tokens, static_cast<Index>(ids.size() % 1000));
  EXPECT_EQ(read_text(folder_ / "out/train/tokenizer.model"), tokenizer_.files().front().bytes);
}

TEST_F(Prepare, WritesTheSameFilesForEveryNumberOfThreads) {
  std::vector<std::string> texts = write_documents(400);
  // Enough for many batches, so that threads overtake each other.
  for (int copy = 0; copy < 12; ++copy) {
    std::string lines;
    for (const auto& text : texts)
      lines += Json({{"text", text_of(copy, text, text)}}).dump() + "\n";
    write(text_of("more", copy, ".jsonl"), lines);
  }
  std::map<std::string, std::string> first_train, first_validation;
  for (const int threads : {1, 2, 5}) {
    PrepareOptions given = options(text_of("out", threads), 5000);
    given.threads = threads;
    given.validation = 0.1;
    prepare(given);
    const auto train = contents(given.output + "/train");
    const auto validation = contents(given.output + "/validation");
    if (threads == 1) {
      first_train = train;
      first_validation = validation;
    }
    EXPECT_TRUE(train == first_train) << threads;
    EXPECT_TRUE(validation == first_validation) << threads;
  }
  EXPECT_GT(first_train.size(), 10u);
}

TEST_F(Prepare, HoldsOutWholeDocumentsByTheirText) {
  write_documents(500);
  PrepareOptions given = options("out");
  given.validation = 0.2;
  const auto metas = prepare(given);
  ASSERT_EQ(metas.size(), 2u);
  EXPECT_EQ(metas[1].split, "validation");
  EXPECT_EQ(metas[0].documents + metas[1].documents, 500);
  EXPECT_GT(metas[1].documents, 50);
  EXPECT_LT(metas[1].documents, 150);
  const Ids ids = read_ids(metas[1], given.output + "/validation");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), metas[1].documents);
  EXPECT_EQ(metas[1].files.front().name, "validation_0000000000.bin");
}

TEST_F(Prepare, PacksAsThePaperDid) {
  const auto texts = write_documents(300);
  PrepareOptions given = options("out", 700);
  given.paper = true;
  given.processes = 2;
  const auto metas = prepare(given);
  // Two of the three files for process 0, one for process 1; what fills no chunk is dropped.
  const std::vector<std::string> early(texts.begin(), texts.begin() + 200);
  const std::vector<std::string> late(texts.begin() + 200, texts.end());
  Ids ids;
  std::size_t file = 0;
  for (int process = 0; process < 2; ++process) {
    const Ids own = expected(process == 0 ? early : late);
    const std::size_t chunks = (own.size() - 1) / 700;
    ids.insert(ids.end(), own.begin(), own.begin() + static_cast<std::ptrdiff_t>(700 * chunks));
    for (std::size_t chunk = 0; chunk < chunks; ++chunk, ++file) {
      ASSERT_LT(file, metas[0].files.size());
      EXPECT_EQ(metas[0].files[file].name,
                text_of("train_slimpajama_", process, chunk < 10 ? "_000000000" : "_00000000",
                        chunk, ".bin"));
    }
  }
  EXPECT_EQ(metas[0].files.size(), file);
  EXPECT_TRUE(read_ids(metas[0], given.output + "/train") == ids);
}

TEST_F(Prepare, ReportsProgressToTheEnd) {
  write_documents(50);
  PrepareOptions given = options("out");
  PrepareProgress last;
  given.progress = [&](const PrepareProgress& progress) { last = progress; };
  const auto metas = prepare(given);
  EXPECT_EQ(last.documents, 50);
  EXPECT_EQ(last.tokens, metas[0].tokens);
  EXPECT_EQ(last.bytes_read, last.bytes_total);
}

TEST_F(Prepare, LeavesNothingBehindAfterAnError) {
  write_documents(200);
  write("zz.jsonl", "{\"text\": \"good\"}\n{\"text\": 1}\n");
  const std::string error = error_of([&] { prepare(options("out")); });
  EXPECT_NE(error.find("zz.jsonl:2: "), std::string::npos) << error;
  EXPECT_FALSE(fs::exists(folder_ / "out"));

  fs::remove(folder_ / "in/zz.jsonl");
  PrepareOptions given = options("out");
  given.progress = [](const PrepareProgress&) { fail("stopped"); };
  EXPECT_EQ(error_of([&] { prepare(given); }), "stopped");
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(Prepare, RemovesWhatAKilledProcessLeft) {
  write("a.txt", "one two three");
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  ::waitpid(gone, nullptr, 0);
  const std::string left = folder_ / text_of("out/train.tmp", gone);
  const std::string parent = folder_ / text_of("out/train.tmp", ::getppid());
  const std::string other = folder_ / "out/train.tmpfile";
  for (const std::string& path : {left, parent, other}) fs::create_directories(path);
  write_text(left + "/00000.bin", "half");
  prepare(options("out"));
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(fs::exists(parent)) << "a process that runs still needs it";
  EXPECT_TRUE(fs::exists(other));
}

TEST_F(Prepare, RefusesWhatItCannotDo) {
  const auto refused = [&](const PrepareOptions& given, const std::string& text) {
    const std::string error = error_of([&] { prepare(given); });
    EXPECT_NE(error.find(text), std::string::npos) << error;
    EXPECT_FALSE(fs::exists(folder_ / "out/train"));
  };
  write("empty.jsonl", "");
  refused(options("out"), "found no documents");
  write("one.txt", "a single document");
  PrepareOptions given = options("out");
  given.validation = 1e-6;
  refused(given, "split validation: found none of 1 documents");
  given = options("out");
  given.paper = true;
  refused(given, "nothing fills a chunk of 1000 tokens");
  given = options("out");
  given.inputs = {folder_ / "nowhere"};
  refused(given, "nowhere: no such file");
  given = options("out");
  given.chunk = 0;
  refused(given, "chunk: found 0");
  given = options("out");
  given.processes = 2;
  refused(given, "processes: found 2");

  prepare(options("out"));
  EXPECT_NE(error_of([&] { prepare(options("out")); }).find("out/train: exists"),
            std::string::npos);
}

}  // namespace
}  // namespace samba::test
