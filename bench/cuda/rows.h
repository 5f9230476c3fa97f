#pragma once

#include "measure.h"

namespace samba::bench {

// The rows of the table, family by family.
std::vector<Row> product_rows(Stream&);
std::vector<Row> attention_rows(Stream&);
std::vector<Row> scan_rows(Stream&);
std::vector<Row> rest_rows(Stream&);
std::vector<Row> decode_rows(Stream&);
std::vector<Row> training_rows(Stream&);
std::vector<Row> inference_rows(Stream&);

}  // namespace samba::bench
