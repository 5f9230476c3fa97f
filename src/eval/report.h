#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/matrix.h"
#include "eval/plot.h"

namespace samba {

/// A line of a summary.
struct Fact {
  std::string name;
  std::string value;
};

/// How well text of one length is predicted.
struct LengthScore {
  Index length = 0;  ///< tokens of context
  double loss = 0;   ///< nats per token
  Index tokens = 0;  ///< predicted tokens behind the mean; 0: not known
};

/// Text that a model wrote.
struct Sample {
  std::string prompt;
  std::string continuation;
  std::string settings;  ///< "temperature 0.8, top-p 0.95, seed 1"; may be empty
};

/// What a comparison says of a model.
struct ModelSize {
  Index parameters = 0;
  Index state_bytes = 0;         ///< of a sequence of the training length
  double tokens_per_second = 0;  ///< of training, the median step; 0: not known
};

/// What a run is to tell about itself. All text may hold any bytes. What is empty is left out.
struct Report {
  std::string title = {};
  std::string subtitle = {};          ///< one sentence on what was done
  std::vector<Fact> highlights = {};  ///< up to four, shown large
  ModelSize size = {};
  std::vector<Fact> summary = {};  ///< model, parameters, data, tokens, time, losses ...
  Series training = {};            ///< x tokens, y nats per token
  std::vector<Series> validation = {};
  std::vector<LengthScore> lengths = {};  ///< in order of length
  Index training_length = 0;              ///< tokens; 0: not known
  std::vector<Sample> samples = {};
  std::vector<Chart> details =
      {};                    ///< small charts: learning rate, gradient norm, tokens per second
  std::string config = {};   ///< JSON, shown as it is
  std::string version = {};  ///< of this program
  std::string date = {};
};

/// The report as one HTML page that needs nothing else: no network, no scripts; for screens of any
/// width, light or dark, and for paper. It is well-formed XML too.
std::string report_html(const Report& report);

/// Writes report_html to the path, whole or not at all. Throws an Error that names the path.
void write_report(const std::string& path, const Report& report);

}  // namespace samba
