#include "train/data.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <mutex>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "train/shuffle.h"

namespace samba {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kWhole = std::uint64_t{1} << 32;

/// floor(n * share / 2^32): how many of the first n samples a source has.
std::uint64_t taken(std::uint64_t n, std::uint64_t share) {
  return (n / kWhole) * share + ((n % kWhole) * share >> 32);
}

}  // namespace

TokenWindows::TokenWindows(const std::string& folder, Index length)
    : folder_(folder), length_(length), meta_(read_packed_meta(folder)), first_{0} {
  if (length < 2) fail(folder, ": window: found ", length, " ids; expected at least 2");
  Index longest = 0;
  for (const auto& listed : meta_.files) {
    const PackedFile& file = files_.emplace_back((fs::path(folder) / listed.name).string());
    if (file.tokens() != listed.tokens || file.type() != meta_.type)
      fail(file.path(), ": found ", file.tokens(), " tokens of type ", name_of(file.type()), "; ",
           kPackedMeta, " lists ", listed.tokens, " of type ", name_of(meta_.type));
    first_.push_back(first_.back() + file.tokens() / length);
    unused_ += file.tokens() % length;
    longest = std::max(longest, file.tokens());
  }
  if (count() == 0)
    fail(folder, ": the longest file has ", longest, " tokens; expected at least ", length,
         ", the context and one more");
}

void TokenWindows::read(Index index, std::span<std::int32_t> ids) const {
  const auto after = std::upper_bound(first_.begin(), first_.end(), index);
  const auto file = static_cast<std::size_t>(after - first_.begin()) - 1;
  files_.at(file).read((index - first_[file]) * length_, meta_.vocabulary, ids);
}

void TokenWindows::expect_tokenizer(const std::string& hash) const {
  if (meta_.tokenizer_hash != hash)
    fail(folder_, ": packed with the tokenizer ", meta_.tokenizer_hash, "; expected ", hash);
}

DataSource parse_data_source(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  DataSource source{text, 1};
  if (colon == text.npos || text.find('/', colon) != text.npos) return source;
  const char* first = text.data() + colon + 1;
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(first, last, source.weight);
  if (error != std::errc() || end != last || !std::isfinite(source.weight) || source.weight <= 0)
    fail("data ", text, ": weight: found \"", first, "\"; expected a positive number");
  source.folder.resize(colon);
  return source;
}

std::string find_split(const std::string& folder, const std::string& split) {
  const fs::path inner = fs::path(folder) / split;
  return fs::exists(inner / kPackedMeta) ? inner.string() : folder;
}

/// Draws as the paper's PackedDataset does. A group's order follows from those before it, so the
/// generator is run from the start, or from the last group that was asked for; no data are read.
class TokenStream::PaperOrder {
 public:
  PaperOrder(const TokenWindows& windows, const DataOptions& options)
      : windows_(windows), seed_(options.seed + static_cast<std::uint64_t>(options.rank)) {
    // Python seeds its generator otherwise above.
    if (options.seed > std::numeric_limits<std::uint32_t>::max())
      fail("data: seed: found ", options.seed, "; the paper's order expects one below 2^32");
    const auto& files = windows.files();
    const auto world = static_cast<std::size_t>(options.world);
    const auto shuffled = python_shuffle(files.size(), static_cast<std::uint32_t>(options.seed));
    for (auto i = static_cast<std::size_t>(options.rank); i < files.size() / world * world;
         i += world)
      order_.push_back(shuffled[i]);
    if (order_.size() < kGroup)
      fail(windows.folder(), ": found ", files.size(), " files for ", options.world,
           " processes; the paper's order needs at least ", kGroup, " for each (a smaller chunk)");
    for (const PackedFile& file : files)
      if (file.tokens() != files.front().tokens())
        fail(file.path(), ": found ", file.tokens(), " tokens; the paper's order needs files of ",
             files.front().tokens(), ", all alike (prepare them with --paper)");
    blocks_ = static_cast<std::uint32_t>(files.front().tokens() / windows.length());
  }

  Index window(std::uint64_t sample) {
    const std::uint64_t all = std::uint64_t{kGroup} * blocks_;
    const std::lock_guard lock(mutex_);
    const std::uint64_t group = sample / all;
    if (group + 1 < drawn_) {
      generator_ = NumpyGenerator(seed_);
      drawn_ = 0;
    }
    for (; drawn_ <= group; ++drawn_) permutation_ = generator_.permutation(kGroup * blocks_);
    const std::uint32_t block = permutation_[sample % all];
    // Groups that no longer fill up at the end of the list begin at its start again.
    const std::size_t first = group % (order_.size() / kGroup) * kGroup;
    return windows_.first_of(order_[first + block / blocks_]) + block % blocks_;
  }

 private:
  static constexpr std::uint32_t kGroup = 8;
  const TokenWindows& windows_;
  std::uint64_t seed_;
  std::vector<std::size_t> order_;  ///< of files
  std::uint32_t blocks_ = 0;        ///< windows of a file
  std::mutex mutex_;
  NumpyGenerator generator_{seed_};
  std::uint64_t drawn_ = 0;  ///< groups
  std::vector<std::uint32_t> permutation_;
};

TokenStream::TokenStream(const DataOptions& options) : options_(options) {
  if (options.sources.empty()) fail("data: found no source; expected folders of packed files");
  if (options.world < 1 || options.rank < 0 || options.rank >= options.world)
    fail("data: found rank ", options.rank, " of ", options.world);
  double rest = 0;
  for (const DataSource& source : options.sources) {
    if (!(source.weight > 0 && std::isfinite(source.weight)))
      fail("data ", source.folder, ": weight: found ", source.weight,
           "; expected a positive number");
    sources_.emplace_back(source.folder, options.length);
    sources_.back().expect_tokenizer(sources_.front().meta().tokenizer_hash);
    rest += source.weight;
  }
  for (const DataSource& source : options.sources) {
    const double share = std::min(1.0, source.weight / rest);
    shares_.push_back(static_cast<std::uint32_t>(
        std::min(std::llround(share * static_cast<double>(kWhole)), (1ll << 32) - 1)));
    rest -= source.weight;
  }
  if (options.order == DataOrder::paper) {
    if (sources_.size() != 1)
      fail("data: the paper's order: found ", sources_.size(), " sources; expected one");
    paper_ = std::make_unique<PaperOrder>(sources_.front(), options_);
  }
}

TokenStream::~TokenStream() = default;
TokenStream::TokenStream(TokenStream&&) noexcept = default;

TokenStream::Place TokenStream::place(std::uint64_t sample) const {
  if (paper_) return {0, paper_->window(sample)};
  // Source by source: of n samples that reach it, floor(n * share) are its own and the others pass
  // on, so each is never further than one sample from its share.
  std::size_t source = 0;
  for (; source + 1 < sources_.size(); ++source) {
    const std::uint64_t before = taken(sample, shares_[source]);
    if (taken(sample + 1, shares_[source]) > before) {
      sample = before;
      break;
    }
    sample -= before;
  }
  const auto count = static_cast<std::uint64_t>(sources_[source].count());
  const std::uint64_t pass = sample / count;
  const std::uint64_t key = mix(mix(mix(options_.seed) + source) + pass);
  const Permutation permutation(sources_[source].count(), key);
  return {source, permutation(static_cast<Index>(sample % count))};
}

void TokenStream::read(std::uint64_t sample, std::span<std::int32_t> ids) const {
  const Place at = place(sample);
  sources_[at.source].read(at.window, ids);
}

void TokenStream::expect_tokenizer(const std::string& hash) const {
  for (const TokenWindows& source : sources_) source.expect_tokenizer(hash);
}

std::vector<Index> document_starts(std::span<const std::int32_t> ids, std::int32_t eos) {
  std::vector<Index> starts;
  for (std::size_t i = 1; i < ids.size(); ++i)
    if (ids[i - 1] == eos) starts.push_back(static_cast<Index>(i));
  return starts;
}

}  // namespace samba
