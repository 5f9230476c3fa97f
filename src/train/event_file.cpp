#include "train/event_file.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <filesystem>

namespace samba {
namespace {

constexpr std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    table[i] = crc;
  }
  return table;
}

constexpr std::array<std::uint32_t, 256> kCrcTable = crc_table();

void append_fixed(std::string& bytes, std::uint64_t value, int width) {
  for (int i = 0; i < width; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xFF);
}

// Protobuf: a field is its number and wire type (0 varint, 1 eight bytes, 2 length and bytes, 5
// four bytes) in one varint, then the value.
void append_varint(std::string& bytes, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7F) | 0x80);
  bytes += static_cast<char>(value);
}

void append_key(std::string& bytes, unsigned field, unsigned wire_type) {
  append_varint(bytes, field << 3 | wire_type);
}

void append_bytes(std::string& bytes, unsigned field, std::string_view value) {
  append_key(bytes, field, 2);
  append_varint(bytes, value.size());
  bytes += value;
}

/// An Event's wall_time = 1 and step = 2; its content follows.
std::string event_at(Index step) {
  std::string event;
  append_key(event, 1, 1);
  append_fixed(event, std::bit_cast<std::uint64_t>(unix_seconds()), 8);
  append_key(event, 2, 0);
  append_varint(event, static_cast<std::uint64_t>(step));
  return event;
}

void append_checksum(std::string& bytes, std::string_view of) {
  // Masked, as TFRecord defines it: a checksum of data that holds checksums would be weak.
  const std::uint32_t crc = crc32c(of);
  append_fixed(bytes, (crc >> 15 | crc << 17) + 0xA282EAD8u, 4);
}

std::string framed(std::string_view data) {
  std::string record;
  append_fixed(record, data.size(), 8);
  append_checksum(record, record);
  record += data;
  append_checksum(record, data);
  return record;
}

/// A name that no file of the folder has: readers take the files in the order of their names, so a
/// second run within one second gets the next second's.
std::string free_path(const std::string& folder) {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0 || host[0] == 0) host = {"localhost"};
  for (auto time = static_cast<long>(unix_seconds());; ++time) {
    const std::filesystem::path path =
        std::filesystem::path(folder) /
        ("events.out.tfevents." + std::to_string(time) + "." + host.data() + ".sambalm");
    if (!std::filesystem::exists(path)) return path.string();
  }
}

}  // namespace

double unix_seconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto whole = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  return static_cast<double>(whole) / 1e3;
}

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0u;
  for (const char byte : bytes) {
    crc = crc >> 8 ^ kCrcTable[(crc ^ static_cast<std::uint8_t>(byte)) & 0xFF];
  }
  return ~crc;
}

EventFile::EventFile(const std::string& folder, Index first_step) : file_(free_path(folder), 0) {
  std::string version = event_at(0);
  append_bytes(version, 3, "brain.Event:2");
  file_.append(framed(version));
  // session_log = 7 with status = 1 set to START = 1: what earlier files say from this step on is
  // superseded.
  std::string start = event_at(first_step);
  append_bytes(start, 7, std::string_view("\x08\x01", 2));
  file_.append(framed(start));
}

void EventFile::write(Index step, const std::vector<Scalar>& scalars) {
  std::string summary;
  for (const Scalar& scalar : scalars) {
    std::string value;  // tag = 1, simple_value = 2
    append_bytes(value, 1, scalar.tag);
    append_key(value, 2, 5);
    append_fixed(value, std::bit_cast<std::uint32_t>(static_cast<float>(scalar.value)), 4);
    append_bytes(summary, 1, value);
  }
  std::string event = event_at(step);
  append_bytes(event, 5, summary);
  file_.append(framed(event));
}

}  // namespace samba
