#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/append_file.h"
#include "core/matrix.h"

namespace samba {

/// CRC-32C (Castagnoli polynomial, reflected; RFC 3720, appendix B.4).
std::uint32_t crc32c(std::string_view bytes);

/// Seconds since 1970, to the millisecond.
double unix_seconds();

/// One named number of a step.
struct Scalar {
  std::string tag;  ///< "train/loss"; what is before the slash groups the charts
  double value;     ///< stored as f32
};

/// What TensorBoard reads: a file `events.out.tfevents.TIME.HOST.sambalm` of TFRecords, each
/// holding an Event in protobuf's wire format. Records reach the system one by one, so a chart
/// follows a run; a crash can tear only the last one, which readers skip.
class EventFile {
 public:
  /// Makes a new file in the folder, which must exist. A reader forgets what earlier files of the
  /// folder say about first_step and later ones.
  EventFile(const std::string& folder, Index first_step);
  void write(Index step, const std::vector<Scalar>& scalars);
  const std::string& path() const { return file_.path(); }

 private:
  AppendFile file_;
};

}  // namespace samba
