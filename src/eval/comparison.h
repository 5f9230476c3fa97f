#pragma once

#include <string>
#include <vector>

#include "eval/report.h"
#include "train/log.h"

namespace samba {

/// Several measured models side by side: a table of sizes, speeds and perplexities, their training
/// curves in one chart, their perplexities by context length in another. Reports are as
/// run_report() makes them, of models that were measured at the same lengths; unigram, where it is
/// not empty, is what token frequencies alone reach there.
std::string comparison_html(const std::vector<Report>& reports,
                            const std::vector<LengthLoss>& unigram);

/// Writes comparison_html to the path, whole or not at all. Throws an Error that names the path.
void write_comparison(const std::string& path, const std::vector<Report>& reports,
                      const std::vector<LengthLoss>& unigram);

}  // namespace samba
