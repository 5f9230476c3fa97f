#include "train/log.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "core/files.h"

namespace samba {
namespace {

namespace fs = std::filesystem;

/// A CRC-32C that shares nothing with the tested one: the polynomial division, bit by bit.
std::uint32_t slow_crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xFFFFFFFF;
  for (const char byte : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      const std::uint32_t in = (static_cast<std::uint8_t>(byte) >> bit & 1u) ^ (crc & 1u);
      crc = crc >> 1 ^ (in ? 0x82F63B78 : 0);
    }
  }
  return crc ^ 0xFFFFFFFF;
}

std::uint64_t little_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;)
    value = value << 8 | static_cast<std::uint8_t>(bytes[i]);
  return value;
}

bool checksum_holds(std::string_view data, std::string_view stored) {
  const auto masked = static_cast<std::uint32_t>(little_endian(stored)) - 0xA282EAD8u;
  return std::rotl(masked, 15) == slow_crc32c(data);
}

/// The records of a TFRecord file; a wrong checksum or a torn end is an Error.
std::vector<std::string> records_of(const std::string& path) {
  const std::string text = read_text(path);
  std::string_view rest = text;
  std::vector<std::string> records;
  while (!rest.empty()) {
    if (rest.size() < 16) fail("torn header");
    const std::uint64_t length = little_endian(rest.substr(0, 8));
    if (!checksum_holds(rest.substr(0, 8), rest.substr(8, 4))) fail("checksum of the length");
    if (rest.size() < 16 + length) fail("torn record");
    records.emplace_back(rest.substr(12, length));
    if (!checksum_holds(records.back(), rest.substr(12 + length, 4))) fail("checksum of the data");
    rest.remove_prefix(16 + length);
  }
  return records;
}

struct Field {
  std::uint64_t number;    // varint or fixed
  std::string_view bytes;  // length-delimited
};

/// The fields of a protobuf message, by number.
std::multimap<std::uint64_t, Field> fields_of(std::string_view message) {
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      if (message.empty() || shift > 63) fail("varint");
      const auto byte = static_cast<std::uint8_t>(message[0]);
      message.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
  };
  const auto take = [&](std::size_t bytes) {
    if (message.size() < bytes) fail("field of ", bytes, " bytes");
    const std::string_view taken = message.substr(0, bytes);
    message.remove_prefix(bytes);
    return taken;
  };
  std::multimap<std::uint64_t, Field> fields;
  while (!message.empty()) {
    const std::uint64_t key = varint();
    Field field{0, {}};
    switch (key & 7) {
      case 0: field.number = varint(); break;
      case 1: field.number = little_endian(take(8)); break;
      case 2: field.bytes = take(varint()); break;
      case 5: field.number = little_endian(take(4)); break;
      default: fail("wire type ", key & 7);
    }
    fields.emplace(key >> 3, field);
  }
  return fields;
}

struct Event {
  double time = 0;
  std::uint64_t step = 0;
  std::string version;
  bool start = false;
  std::vector<std::pair<std::string, float>> scalars;
};

Event event_of(const std::string& record) {
  Event event;
  for (const auto& [number, field] : fields_of(record)) {
    switch (number) {
      case 1: event.time = std::bit_cast<double>(field.number); break;
      case 2: event.step = field.number; break;
      case 3: event.version = field.bytes; break;
      case 5:
        for (const auto& [inner, value] : fields_of(field.bytes)) {
          EXPECT_EQ(inner, 1u);
          const auto parts = fields_of(value.bytes);
          const auto bits = static_cast<std::uint32_t>(parts.find(2)->second.number);
          event.scalars.emplace_back(parts.find(1)->second.bytes, std::bit_cast<float>(bits));
        }
        break;
      case 7: event.start = fields_of(field.bytes).find(1)->second.number == 1; break;
      default: fail("field ", number);
    }
  }
  return event;
}

class LogTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "sambalm-log-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path() const { return (fs::path(folder_) / "log.jsonl").string(); }

  TrainingLog open(Index resumed_step = -1) const {
    return TrainingLog({.folder = folder_, .training_length = 512, .resumed_step = resumed_step});
  }

  static StepRecord step(Index number) {
    return {.step = number,
            .tokens = number * 4096,
            .loss = 10.0 / static_cast<double>(number),
            .learning_rate = 4e-4,
            .gradient_norm = 1.5,
            .tokens_per_second = 12345.5,
            .flops_share = 0.61};
  }

  static ValidationRecord validation(Index number) {
    return {
        .step = number, .tokens = number * 4096, .losses = {{512, 3.25}, {1024, 3.5}, {256, 3}}};
  }

  std::vector<std::string> lines() const {
    std::istringstream text(read_text(path()));
    std::vector<std::string> found;
    for (std::string line; std::getline(text, line);) found.push_back(line);
    return found;
  }

  std::vector<std::string> event_files() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_))
      if (entry.path().filename().string().starts_with("events.")) found.push_back(entry.path());
    std::sort(found.begin(), found.end());
    return found;
  }

  std::string folder_;
};

TEST(Crc32c, GivesThePublishedAnswers) {
  std::string rising, falling;
  for (int i = 0; i < 32; ++i) {
    rising += static_cast<char>(i);
    falling += static_cast<char>(31 - i);
  }
  // "123456789" is the check of the CRC catalogues, the rest RFC 3720, appendix B.4.
  const std::vector<std::pair<std::string, std::uint32_t>> answers{
      {"", 0},
      {"123456789", 0xE3069283},
      {std::string(32, '\0'), 0x8A9136AA},
      {std::string(32, '\xFF'), 0x62A8AB43},
      {rising, 0x46DD794E},
      {falling, 0x113FDB5C}};
  for (const auto& [bytes, answer] : answers) {
    EXPECT_EQ(crc32c(bytes), answer);
    EXPECT_EQ(slow_crc32c(bytes), answer);
  }
}

TEST_F(LogTest, WritesOneObjectALine) {
  TrainingLog log = open();
  log.step(step(1));
  // Read while the log is open: nothing may wait in a buffer.
  ASSERT_EQ(lines().size(), 1u);
  log.validation(validation(1));
  const auto first = nlohmann::json::parse(lines()[0]), second = nlohmann::json::parse(lines()[1]);
  EXPECT_EQ(first.at("event"), "step");
  EXPECT_EQ(first.at("tokens"), 4096);
  EXPECT_EQ(first.at("loss"), 10.0);
  EXPECT_EQ(first.at("lr"), 4e-4);
  EXPECT_EQ(first.at("grad_norm"), 1.5);
  EXPECT_EQ(first.at("tokens_per_second"), 12345.5);
  EXPECT_EQ(first.at("flops_share"), 0.61);
  EXPECT_GT(first.at("time"), 1.6e9);
  EXPECT_EQ(second.at("event"), "validation");
  EXPECT_EQ(second.at("losses").at(1).at("length"), 1024);
  EXPECT_EQ(second.at("losses").at(1).at("loss"), 3.5);
}

TEST_F(LogTest, ReadsWhatItWrote) {
  {
    TrainingLog log = open();
    log.step(step(1));
    log.validation(validation(1));
    StepRecord diverged = step(2);
    diverged.loss = NAN;
    diverged.gradient_norm = INFINITY;
    diverged.flops_share = {};
    log.step(diverged);
  }
  const TrainingHistory history = read_training_log(path());
  ASSERT_EQ(history.steps.size(), 2u);
  ASSERT_EQ(history.validations.size(), 1u);
  EXPECT_EQ(history.steps[0].loss, 10.0);
  EXPECT_EQ(history.steps[0].flops_share, 0.61);
  EXPECT_TRUE(std::isnan(history.steps[1].loss));
  EXPECT_TRUE(std::isnan(history.steps[1].gradient_norm));
  EXPECT_FALSE(history.steps[1].flops_share);
  EXPECT_EQ(history.validations[0].losses.size(), 3u);
  EXPECT_EQ(history.validations[0].losses[1].length, 1024);
}

TEST_F(LogTest, ForgetsTheLinesBehindTheResumedStep) {
  {
    TrainingLog log = open();
    for (Index i = 1; i <= 5; ++i) log.step(step(i));
    log.validation(validation(5));
  }
  const std::vector<std::string> before = lines();
  {
    TrainingLog log = open(3);
    log.step(step(4));
  }
  ASSERT_EQ(lines().size(), 4u);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(lines()[i], before[i]);
  EXPECT_EQ(read_training_log(path()).steps.back().step, 4);
}

TEST_F(LogTest, ResumesBehindATornLine) {
  open().step(step(1));
  std::ofstream(path(), std::ios::app) << R"({"event":"step","st)";
  EXPECT_EQ(read_training_log(path()).steps.size(), 1u);
  open(1).step(step(2));
  EXPECT_EQ(lines().size(), 2u);
  EXPECT_EQ(read_training_log(path()).steps.size(), 2u);
}

TEST_F(LogTest, ANewRunStartsEmpty) {
  open().step(step(1));
  open();
  EXPECT_EQ(lines().size(), 0u);
}

TEST_F(LogTest, ResumesWithoutAnEarlierLog) {
  open(7).step(step(8));
  EXPECT_EQ(read_training_log(path()).steps.size(), 1u);
}

TEST_F(LogTest, NamesTheLineThatIsNoEvent) {
  for (const std::string bad : {"not json", "[1]", "{\"step\": \"one\"}", "{\"event\": 3}", "7"}) {
    {
      std::ofstream out(path());
      out << R"({"event":"other","step":1})" << "\n" << bad << "\n";
    }
    const std::string before = read_text(path());
    for (const bool resume : {true, false}) {
      try {
        if (resume) open(5);
        if (!resume) read_training_log(path());
        FAIL() << bad;
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("log.jsonl: line 2"), std::string::npos)
            << error.what();
      }
    }
    EXPECT_EQ(read_text(path()), before);
  }
}

TEST_F(LogTest, NamesTheFolderThatIsMissing) {
  EXPECT_THROW(TrainingLog({.folder = folder_ + "/none", .training_length = 512}), Error);
}

TEST_F(LogTest, WritesEventsThatDecode) {
  {
    TrainingLog log = open();
    log.step(step(1));
    StepRecord later = step(300);  // a step of two varint bytes
    later.loss = 0;                // must be stored, not taken for a default
    log.step(later);
    log.validation(validation(300));
  }
  ASSERT_EQ(event_files().size(), 1u);
  std::vector<Event> events;
  for (const std::string& record : records_of(event_files()[0])) events.push_back(event_of(record));
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_TRUE(events[1].start);
  EXPECT_EQ(events[1].step, 0u);
  EXPECT_EQ(events[2].step, 1u);
  EXPECT_GT(events[2].time, 1.6e9);
  using Scalars = std::vector<std::pair<std::string, float>>;
  EXPECT_EQ(events[2].scalars, (Scalars{{"train/loss", 10.0f},
                                        {"train/lr", 4e-4f},
                                        {"train/grad_norm", 1.5f},
                                        {"train/tokens_per_second", 12345.5f},
                                        {"train/flops_share", 0.61f}}));
  EXPECT_EQ(events[3].step, 300u);
  EXPECT_EQ(events[3].scalars[0], (std::pair<std::string, float>("train/loss", 0.0f)));
  EXPECT_EQ(events[4].scalars, (Scalars{{"validation/loss@1x", 3.25f},
                                        {"validation/loss@2x", 3.5f},
                                        {"validation/loss@0.5x", 3.0f}}));
}

TEST_F(LogTest, NamesEventFilesAsTensorBoardLooksForThem) {
  open();
  const std::string name = fs::path(event_files().at(0)).filename();
  EXPECT_TRUE(name.starts_with("events.out.tfevents.")) << name;
  EXPECT_TRUE(name.ends_with(".sambalm")) << name;
  EXPECT_EQ(std::to_string(std::stol(name.substr(20))).size(), 10u) << name;
}

TEST_F(LogTest, AResumedRunSupersedesLaterEvents) {
  open().step(step(1));
  open(1).step(step(2));
  ASSERT_EQ(event_files().size(), 2u);  // within one second, yet in order
  std::vector<Event> events;
  for (const std::string& record : records_of(event_files()[1])) events.push_back(event_of(record));
  ASSERT_EQ(events.size(), 3u);
  EXPECT_TRUE(events[1].start);
  EXPECT_EQ(events[1].step, 2u);
  EXPECT_EQ(events[2].step, 2u);
}

}  // namespace
}  // namespace samba
