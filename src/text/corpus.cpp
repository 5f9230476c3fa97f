#include "text/corpus.h"

#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/utf8.h"
#include "text/byte_stream.h"

namespace samba {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxDocument = std::size_t{1} << 30;
constexpr std::size_t kBlock = std::size_t{1} << 20;

bool has_lines(std::string_view path) {
  if (path.ends_with(".zst")) path.remove_suffix(4);
  return path.ends_with(".jsonl");
}

/// Cuts a stream at line breaks. A line lies in memory with simdjson's padding after it.
class LineReader {
 public:
  LineReader(ByteStream& stream, const std::string& path) : stream_(stream), path_(path) {}

  bool next(std::string_view& line) {
    std::size_t searched = begin_;
    for (;;) {
      const void* found = std::memchr(buffer_.data() + searched, '\n', end_ - searched);
      if (found != nullptr) {
        const auto at = static_cast<std::size_t>(static_cast<const char*>(found) - buffer_.data());
        line = {buffer_.data() + begin_, at - begin_};
        begin_ = at + 1;
        return true;
      }
      searched = end_ - begin_;
      if (!refill()) break;
    }
    line = {buffer_.data() + begin_, end_ - begin_};
    begin_ = end_;
    return !line.empty();
  }

 private:
  ByteStream& stream_;
  const std::string& path_;
  std::string buffer_;
  std::size_t begin_ = 0;  ///< of the unread bytes
  std::size_t end_ = 0;

  /// Moves the unread bytes to the front and reads more behind them.
  bool refill() {
    end_ -= begin_;
    if (begin_ > 0) std::memmove(buffer_.data(), buffer_.data() + begin_, end_);
    begin_ = 0;
    if (end_ > kMaxDocument) fail(path_, ": found a line of more than ", kMaxDocument, " bytes");
    if (buffer_.size() < end_ + kBlock + simdjson::SIMDJSON_PADDING)
      buffer_.resize(2 * end_ + kBlock + simdjson::SIMDJSON_PADDING);
    const std::size_t wanted = buffer_.size() - simdjson::SIMDJSON_PADDING - end_;
    const std::size_t count = stream_.read(buffer_.data() + end_, wanted);
    end_ += count;
    return count > 0;
  }
};

void expect_utf8(std::string_view text, const std::string& place) {
  const std::size_t at = first_invalid_utf8(text);
  if (at != text.npos) fail(place, ": found text that is not UTF-8 at byte ", at);
}

const char* kind_of(simdjson::dom::element element) {
  switch (element.type()) {
    case simdjson::dom::element_type::ARRAY: return "an array";
    case simdjson::dom::element_type::OBJECT: return "an object";
    case simdjson::dom::element_type::STRING: return "a string";
    case simdjson::dom::element_type::BOOL: return "a boolean";
    case simdjson::dom::element_type::NULL_VALUE: return "null";
    default: return "a number";
  }
}

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == line.npos;
}

}  // namespace

struct Corpus::State {
  std::vector<std::string> files;
  std::uint64_t total = 0;
  std::uint64_t done = 0;  ///< bytes of files before the current one
  std::size_t current = 0;
  std::unique_ptr<ByteStream> stream;
  std::unique_ptr<LineReader> lines;  ///< null: the file is one document
  std::uint64_t line_number = 0;
  simdjson::dom::parser parser;

  void open() {
    stream = std::make_unique<ByteStream>(files[current]);
    if (has_lines(files[current])) lines = std::make_unique<LineReader>(*stream, files[current]);
    line_number = 0;
  }

  void close() {
    done += stream->consumed();
    lines.reset();
    stream.reset();
    ++current;
  }

  void read_whole(Document& document) {
    document.place = files[current];
    std::string& text = document.text;
    std::size_t size = 0;
    for (;;) {
      text.resize(std::max(size + kBlock, 2 * size));
      const std::size_t count = stream->read(text.data() + size, text.size() - size);
      size += count;
      if (size > kMaxDocument)
        fail(document.place, ": found a document of more than ", kMaxDocument,
             " bytes; expected it in parts, for example as JSONL");
      if (size < text.size()) break;
    }
    text.resize(size);
    expect_utf8(text, document.place);
  }

  void parse_line(std::string_view line, Document& document) {
    document.place = text_of(files[current], ':', line_number);
    constexpr bool kCopyForPadding = false;
    const auto parsed = parser.parse(line.data(), line.size(), kCopyForPadding);
    if (parsed.error() == simdjson::UTF8_ERROR) expect_utf8(line, document.place);
    if (parsed.error() != simdjson::SUCCESS)
      fail(document.place, ": not JSON: ", simdjson::error_message(parsed.error()));
    simdjson::dom::object object;
    if (parsed.get(object) != simdjson::SUCCESS)
      fail(document.place, ": expected a JSON object with a field \"text\"");
    simdjson::dom::element field;
    if (object.at_key("text").get(field) != simdjson::SUCCESS)
      fail(document.place, ": found no field \"text\"");
    std::string_view text;
    if (field.get(text) != simdjson::SUCCESS)
      fail(document.place, ": field \"text\": found ", kind_of(field), "; expected a string");
    document.text = text;
  }

  /// The next document of the current file.
  bool next_in_file(Document& document) {
    std::string_view line;
    while (lines->next(line)) {
      ++line_number;
      if (is_blank(line)) continue;
      parse_line(line, document);
      return true;
    }
    return false;
  }
};

std::vector<std::string> corpus_files(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!is_folder(path)) {
      if (!exists(path)) fail(path, ": no such file or folder");
      files.push_back(path);
      continue;
    }
    std::vector<std::string> found;
    fs::recursive_directory_iterator entry(path, error), end;
    for (; !error && entry != end; entry.increment(error)) {
      if (entry->path().filename().string().starts_with('.')) {
        entry.disable_recursion_pending();
      } else if (entry->is_regular_file(error)) {
        found.push_back(entry->path().string());
      }
    }
    if (error) fail(path, ": cannot list: ", error.message());
    if (found.empty()) fail(path, ": found no files in this folder");
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

Corpus::Corpus(std::vector<std::string> files) : state_(std::make_unique<State>()) {
  state_->files = std::move(files);
  for (const std::string& file : state_->files) {
    std::error_code error;
    const auto size = fs::file_size(file, error);
    if (!error) state_->total += size;
  }
}

Corpus::~Corpus() = default;
Corpus::Corpus(Corpus&&) noexcept = default;

bool Corpus::next(Document& document) {
  State& state = *state_;
  while (state.current < state.files.size()) {
    if (!state.stream) state.open();
    if (!state.lines) {
      state.read_whole(document);
      state.close();
      return true;
    }
    if (state.next_in_file(document)) return true;
    state.close();
  }
  return false;
}

std::uint64_t Corpus::bytes_read() const {
  return state_->done + (state_->stream ? state_->stream->consumed() : 0);
}

std::uint64_t Corpus::bytes_total() const {
  return state_->total;
}

}  // namespace samba
