#include "text/prepare.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "text/corpus.h"
#include "text/encoder.h"

namespace samba {
namespace {

namespace fs = std::filesystem;

/// Text that one thread encodes at a time; large against the cost of two locks.
constexpr std::size_t kBatchBytes = std::size_t{256} << 10;
/// How many batches per thread may wait for an earlier one.
constexpr std::uint64_t kWaitingBatches = 8;
constexpr Index kMaxChunk = Index{1} << 28;

/// The folder that splits go in: made with its parents where they are missing, and those removed
/// again where they stay empty.
class Output {
 public:
  explicit Output(const std::string& path) {
    for (fs::path p = fs::absolute(path); !fs::exists(p); p = p.parent_path()) made_.push_back(p);
    make_folder(path);
  }
  ~Output() {
    std::error_code ignored;
    for (const fs::path& path : made_) fs::remove(path, ignored);  // only an empty one
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

 private:
  std::vector<fs::path> made_;  ///< the innermost first
};

/// A folder under a temporary name, removed again unless it is committed.
class NewFolder {
 public:
  explicit NewFolder(std::string path)
      : path_(std::move(path)), temporary_(path_ + ".tmp" + std::to_string(::getpid())) {
    if (fs::exists(path_)) fail(path_, ": exists; expected a new folder");
    remove_abandoned();
    make_folder(temporary_);
  }
  ~NewFolder() {
    std::error_code ignored;
    if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  const std::string& working_path() const { return temporary_; }

  void commit() {
    std::error_code error;
    fs::rename(temporary_, path_, error);
    if (error) fail(path_, ": cannot make the folder: ", error.message());
    temporary_.clear();
    sync_folder(fs::absolute(path_).parent_path().string());
  }

 private:
  /// Removes what processes that were killed have left under such names.
  void remove_abandoned() const {
    const fs::path parent = fs::absolute(path_).parent_path();
    const std::string prefix = fs::path(path_).filename().string() + ".tmp";
    std::vector<fs::path> abandoned;
    for (const fs::directory_entry& entry : fs::directory_iterator(parent)) {
      const std::string name = entry.path().filename().string();
      if (name.rfind(prefix, 0) != 0) continue;
      int process = 0;
      const char* end = name.data() + name.size();
      const auto number = std::from_chars(name.data() + prefix.size(), end, process);
      if (number.ec != std::errc() || number.ptr != end || process < 1) continue;
      const bool runs = ::kill(process, 0) == 0 || errno != ESRCH;
      if (!runs || process == ::getpid()) abandoned.push_back(entry.path());
    }
    for (const fs::path& path : abandoned) fs::remove_all(path);
  }

  std::string path_, temporary_;
};

/// A split that is being written.
struct Split {
  PackedMeta meta;
  NewFolder folder;
  std::unique_ptr<PackedWriter> writer;

  Split(const std::string& output, PackedMeta begun)
      : meta(std::move(begun)), folder((fs::path(output) / meta.split).string()) {}

  /// Begins a new series of files; each has a name of its own.
  void begin(const std::string& prefix) {
    writer = std::make_unique<PackedWriter>(folder.working_path(), prefix, meta.chunk, meta.type);
  }

  void end() {
    if (!meta.paper) writer->finish();
    for (const auto& file : writer->files()) meta.tokens += file.tokens;
    meta.files.insert(meta.files.end(), writer->files().begin(), writer->files().end());
  }
};

/// The ids of some documents, one after the other.
struct Packet {
  struct Part {
    std::size_t ids = 0;
    std::size_t bytes = 0;
    bool validation = false;
  };
  std::vector<std::int32_t> ids;
  std::vector<Part> parts;
};

/// N threads that each read a batch, encode it, and hand it over in the order of reading. Whoever
/// has the next one in order also writes.
class Pipeline {
 public:
  Pipeline(const Tokenizer& tokenizer, const PrepareOptions& options, std::vector<Split*> splits)
      : tokenizer_(tokenizer), options_(options), splits_(std::move(splits)) {}

  void run(const std::vector<std::string>& files, int threads) {
    corpus_ = std::make_unique<Corpus>(files);
    read_ = written_ = 0;
    std::vector<std::jthread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back([&] { work(); });
    work();
    others.clear();  // joins them
    if (error_) std::rethrow_exception(error_);
    progress.bytes_read += corpus_->bytes_read();
  }

  PrepareProgress progress;

 private:
  const Tokenizer& tokenizer_;
  const PrepareOptions& options_;
  std::vector<Split*> splits_;
  std::unique_ptr<Corpus> corpus_;

  std::mutex reading_;
  std::uint64_t read_ = 0;

  std::mutex writing_;
  std::condition_variable turn_;
  std::map<std::uint64_t, std::pair<Packet, std::uint64_t>> waiting_;
  std::uint64_t written_ = 0;
  std::exception_ptr error_;

  void work() {
    try {
      Encoder encoder(tokenizer_);
      std::vector<Document> documents;
      std::uint64_t number = 0, bytes_read = 0;
      while (read(documents, number, bytes_read))
        if (!deliver(number, encode(encoder, documents), bytes_read)) return;
    } catch (...) {
      const std::lock_guard lock(writing_);
      if (!error_) error_ = std::current_exception();
      turn_.notify_all();
    }
  }

  bool read(std::vector<Document>& documents, std::uint64_t& number, std::uint64_t& bytes_read) {
    const std::lock_guard lock(reading_);
    std::size_t count = 0, bytes = 0;
    while (bytes < kBatchBytes) {
      if (count == documents.size()) documents.emplace_back();
      if (!corpus_->next(documents[count])) break;
      bytes += documents[count].text.size();
      ++count;
    }
    documents.resize(count);
    number = read_++;
    bytes_read = corpus_->bytes_read();
    return count > 0;
  }

  Packet encode(Encoder& encoder, const std::vector<Document>& documents) const {
    Packet packet;
    for (const Document& document : documents) {
      const std::size_t before = packet.ids.size();
      encoder.encode(document.text, packet.ids);
      packet.ids.push_back(tokenizer_.eos());
      packet.parts.push_back(
          {packet.ids.size() - before, document.text.size(), is_validation(document.text)});
    }
    return packet;
  }

  bool is_validation(std::string_view text) const {
    if (options_.validation <= 0) return false;
    constexpr double kScale = 0x1p-53;
    return static_cast<double>(mix(fnv1a(text)) >> 11) * kScale < options_.validation;
  }

  /// False when another thread has failed.
  bool deliver(std::uint64_t number, Packet packet, std::uint64_t bytes_read) {
    std::unique_lock lock(writing_);
    const std::uint64_t limit = kWaitingBatches * static_cast<std::uint64_t>(options_.threads);
    turn_.wait(lock, [&] { return error_ || number - written_ < limit; });
    if (error_) return false;
    waiting_.emplace(number, std::pair{std::move(packet), bytes_read});
    while (!waiting_.empty() && waiting_.begin()->first == written_) {
      auto node = waiting_.extract(waiting_.begin());
      write(node.mapped().first, node.mapped().second);
      ++written_;
    }
    turn_.notify_all();
    return true;
  }

  void write(const Packet& packet, std::uint64_t bytes_read) {
    const std::span<const std::int32_t> ids = packet.ids;
    std::size_t first = 0;
    for (const Packet::Part& part : packet.parts) {
      Split& split = *splits_[part.validation ? 1 : 0];
      split.writer->write(ids.subspan(first, part.ids));
      split.meta.documents += 1;
      split.meta.text_bytes += part.bytes;
      first += part.ids;
    }
    progress.documents += static_cast<Index>(packet.parts.size());
    progress.tokens += static_cast<Index>(ids.size());
    if (!options_.progress) return;
    PrepareProgress shown = progress;
    shown.bytes_read += bytes_read;
    options_.progress(shown);
  }
};

void check(const PrepareOptions& options, const Tokenizer& tokenizer) {
  if (options.inputs.empty()) fail("prepare: found no input; expected files or folders");
  if (options.chunk < 1 || options.chunk > kMaxChunk)
    fail("prepare: chunk: found ", options.chunk, "; expected 1 to ", kMaxChunk, " tokens");
  if (!(options.validation >= 0 && options.validation < 1))
    fail("prepare: validation: found ", options.validation, "; expected a share from 0 to below 1");
  if (options.validation > 0 && options.split == "validation")
    fail("prepare: split: found \"validation\" with a share held out for validation");
  if (options.processes < 1 || (options.processes > 1 && !options.paper))
    fail("prepare: processes: found ", options.processes, "; expected 1, or more with paper");
  if (options.split.empty() || options.split.find('/') != std::string::npos)
    fail("prepare: split: found \"", options.split, "\"; expected the name of a folder");
  if (options.prefix.find('/') != std::string::npos)
    fail("prepare: prefix: found \"", options.prefix, "\"; expected a part of a file name");
  if (tokenizer.eos() < 0)
    fail(tokenizer.name(), ": found no end mark; expected one to end documents with");
}

/// Part `index` of `count` parts whose sizes differ by at most 1, the larger ones first.
std::vector<std::string> part_of(const std::vector<std::string>& files, int index, int count) {
  const auto i = static_cast<std::size_t>(index), n = static_cast<std::size_t>(count);
  const std::size_t small = files.size() / n, larger = files.size() % n;
  const std::size_t first = i * small + std::min(i, larger);
  const std::size_t size = small + (i < larger ? 1 : 0);
  const auto begin = files.begin() + static_cast<std::ptrdiff_t>(first);
  return {begin, begin + static_cast<std::ptrdiff_t>(size)};
}

PackedMeta begin_meta(const PrepareOptions& options, const Tokenizer& tokenizer) {
  PackedMeta meta;
  meta.split = options.split;
  meta.tokenizer_hash = tokenizer.hash();
  meta.vocabulary = tokenizer.vocabulary();
  meta.bos = tokenizer.bos();
  meta.eos = tokenizer.eos();
  meta.type = packed_type(tokenizer.vocabulary());
  meta.chunk = options.chunk;
  meta.paper = options.paper;
  meta.validation = options.validation;
  meta.inputs = options.inputs;
  return meta;
}

void expect_tokens(const Split& split, const PrepareOptions& options, Index documents) {
  if (split.meta.tokens > 0) return;
  if (documents == 0) fail("prepare: ", options.inputs.front(), ": found no documents");
  if (split.meta.documents == 0)
    fail("prepare: split ", split.meta.split, ": found none of ", documents,
         " documents; expected more documents or another share for validation");
  fail("prepare: split ", split.meta.split, ": nothing fills a chunk of ", options.chunk,
       " tokens; expected more text, a smaller chunk, or files that keep the rest (without paper)");
}

}  // namespace

std::vector<PackedMeta> prepare(const PrepareOptions& given) {
  PrepareOptions options = given;
  const Tokenizer tokenizer(options.tokenizer);
  check(options, tokenizer);
  if (options.threads <= 0)
    options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const std::vector<std::string> files = corpus_files(options.inputs);

  const Output output(options.output);
  std::vector<std::unique_ptr<Split>> splits;
  PackedMeta meta = begin_meta(options, tokenizer);
  splits.push_back(std::make_unique<Split>(options.output, meta));
  if (options.validation > 0) {
    meta.split = "validation";
    splits.push_back(std::make_unique<Split>(options.output, meta));
  }

  std::vector<Split*> pointers;
  for (const auto& split : splits) pointers.push_back(split.get());
  Pipeline pipeline(tokenizer, options, pointers);
  pipeline.progress.bytes_total = Corpus(files).bytes_total();
  for (int process = 0; process < options.processes; ++process) {
    for (const auto& split : splits) {
      const bool named = !options.prefix.empty() && split == splits.front();
      split->begin(options.paper ? text_of(split->meta.split, "_slimpajama_", process)
                   : named       ? options.prefix
                                 : split->meta.split);
    }
    pipeline.run(part_of(files, process, options.processes), options.threads);
    for (const auto& split : splits) split->end();
  }

  std::vector<PackedMeta> metas;
  for (const auto& split : splits) {
    expect_tokens(*split, options, pipeline.progress.documents);
    const std::string& folder = split->folder.working_path();
    tokenizer.write(folder);
    write_packed_meta(folder, split->meta);
    metas.push_back(split->meta);
  }
  for (const auto& split : splits) split->folder.commit();
  return metas;
}

}  // namespace samba
