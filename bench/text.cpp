#include <benchmark/benchmark.h>
#include <sentencepiece_processor.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "measure.h"
#include "text/corpus.h"
#include "text/encoder.h"
#include "text/prepare.h"
#include "text/train_tokenizer.h"

// Encoding and packing the demo's books beside SentencePiece, which encodes the same documents,
// already in memory, with as many threads, in turns with ours. Besides the SentencePiece model
// there are the two small tokenizer.json of tests/data, bytes and characters. Columns:
//   MB/s    ours, of text: Encoder alone, or prepare from the compressed file to packed files
//   bare    SentencePiece's
//   ratio   ours / bare
namespace samba::bench {
namespace {

constexpr int kTurns = 3;
constexpr std::int32_t kPieces = 8000;

/// What all cases share: the text, a tokenizer trained on it, a folder to write to.
struct Setting {
  std::string text = std::string(SAMBA_SOURCE_DIR) + "/demo/books.jsonl.zst";
  std::string folder =
      std::filesystem::temp_directory_path() / text_of("sambalm-bench-", ::getpid());
  std::string model = folder + "/tokenizer.model";
  std::vector<std::string> documents;
  double bytes = 0;

  Setting() {
    make_folder(folder);
    TokenizerTraining training;
    training.inputs = {text};
    training.vocabulary = kPieces;
    write_text(model, train_tokenizer(training));
    Corpus corpus({text});
    for (Document document; corpus.next(document);) {
      bytes += static_cast<double>(document.text.size());
      documents.push_back(document.text);
    }
  }
  ~Setting() { std::filesystem::remove_all(folder); }
};

Setting& setting() {
  static Setting setting;
  return setting;
}

/// Runs `work` for every document, shared out between threads.
template <class Make>
void for_documents(int threads, const Make& make) {
  std::atomic<std::size_t> next = 0;
  std::vector<std::jthread> workers;
  for (int i = 0; i < threads; ++i)
    workers.emplace_back([&] {
      const auto work = make();
      for (std::size_t d; (d = next++) < setting().documents.size();) work(setting().documents[d]);
    });
}

void encode_bare(const sentencepiece::SentencePieceProcessor& processor, int threads) {
  for_documents(threads, [&] {
    return [&](const std::string& text) {
      std::vector<int> ids;
      if (!processor.Encode(text, &ids).ok()) fail("bench: SentencePiece cannot encode");
      benchmark::DoNotOptimize(ids.data());
    };
  });
}

void encode(const Tokenizer& tokenizer, int threads) {
  for_documents(threads, [&] {
    return [encoder = std::make_shared<Encoder>(tokenizer)](const std::string& text) {
      std::vector<std::int32_t> ids;
      encoder->encode(text, ids);
      benchmark::DoNotOptimize(ids.data());
    };
  });
}

void pack(int threads) {
  PrepareOptions options;
  options.inputs = {setting().text};
  options.tokenizer = setting().model;
  options.output = setting().folder + "/packed";
  options.threads = threads;
  prepare(options);
  std::filesystem::remove_all(options.output);
}

void compare(benchmark::State& state, bool packing, const std::string& path) {
  const auto threads = static_cast<int>(state.range(0));
  const Tokenizer tokenizer(path);
  sentencepiece::SentencePieceProcessor processor;
  if (!processor.Load(setting().model).ok()) fail("bench: SentencePiece cannot load");
  double ours = std::numeric_limits<double>::infinity(), bare = ours;
  for (auto _ : state) {
    for (int turn = 0; turn < kTurns; ++turn) {
      ours = std::min(ours, seconds([&] { packing ? pack(threads) : encode(tokenizer, threads); }));
      bare = std::min(bare, seconds([&] { encode_bare(processor, threads); }));
    }
    state.SetIterationTime(ours);
  }
  state.counters["MB/s"] = setting().bytes / ours / 1e6;
  state.counters["bare"] = setting().bytes / bare / 1e6;
  state.counters["ratio"] = bare / ours;
}

void encode_documents(benchmark::State& state) {
  compare(state, false, setting().model);
}
void encode_bytes(benchmark::State& state) {
  compare(state, false, SAMBA_SOURCE_DIR "/tests/data/tokenizer/bytes.json");
}
void encode_characters(benchmark::State& state) {
  compare(state, false, SAMBA_SOURCE_DIR "/tests/data/tokenizer/characters.json");
}
void prepare_folder(benchmark::State& state) {
  compare(state, true, setting().model);
}

void for_threads(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("threads")->Arg(1)->Arg(2)->Iterations(1)->UseManualTime();
}

BENCHMARK(encode_documents)->Name("text/encode")->Apply(for_threads);
BENCHMARK(encode_bytes)->Name("text/encode/bytes")->Apply(for_threads);
BENCHMARK(encode_characters)->Name("text/encode/characters")->Apply(for_threads);
BENCHMARK(prepare_folder)->Name("text/prepare")->Apply(for_threads);

}  // namespace
}  // namespace samba::bench
