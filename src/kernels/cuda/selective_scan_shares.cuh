#pragma once

#include "kernels/cuda/selective_scan_parts.cuh"

namespace samba {
namespace {

constexpr float kLn2 = 0.693147180559945309417f;

/// Rows of a range's share in the gradients of parameters: of a_log, one for each state of a group,
/// then of dt_bias and d.
constexpr int kParameterRows = kGroup + 2;

/// What a block leaves for others.
struct Shares {
  View pieces;      ///< [blocks, ...], the states before each piece of a chunk but the first
  View rows;        ///< [tiles * N, 2 kGroup], what each tile adds to db and dc
  View parameters;  ///< [ranges, kParameterRows * E]
};

}  // namespace
}  // namespace samba
