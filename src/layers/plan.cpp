#include <cmath>
#include <utility>

#include "core/error.h"
#include "layers/layer.h"

namespace samba {
namespace {

/// Values of a matrix: sums and products with element sizes and contexts then fit an Index.
constexpr Index kMostValues = Index{1} << 34;

void expect_values(const std::string& place, const std::string& name, Index rows, Index cols) {
  if (cols > 0 && rows > kMostValues / cols)
    fail(place, ": ", name, ": expected at most ", kMostValues, " values, found [", rows, ", ",
         cols, "]");
}

}  // namespace

Init InitScheme::linear(Index fan_in) const {
  if (neox) return {Init::Kind::normal, std::sqrt(2.0 / (5.0 * static_cast<double>(d_model)))};
  return {Init::Kind::uniform, 1 / std::sqrt(static_cast<double>(fan_in))};
}

Init InitScheme::residual(Index fan_in) const {
  if (neox)
    return {Init::Kind::normal,
            1 / (std::sqrt(static_cast<double>(d_model)) * static_cast<double>(blocks))};
  Init init = linear(fan_in);
  init.scale /= std::sqrt(static_cast<double>(residual_steps));
  return init;
}

Plan Plan::at(std::string place) const {
  Plan here = *this;
  here.place_ = std::move(place);
  return here;
}

Plan Plan::inside(std::string_view scope) const {
  Plan inner = *this;
  inner.scope_ += std::string(scope) + ".";
  return inner;
}

Parameter& Plan::add(std::string_view name, Index rows, Index cols, Init init) {
  Parameter& p = parameters_.emplace_back();
  p.name = scope_ + std::string(name);
  expect_values(place_, p.name, rows, cols);
  p.rows = rows;
  p.cols = cols;
  p.init = init;
  return p;
}

Parameter& Plan::linear(std::string_view name, Index rows, Index cols, Init init) {
  Parameter& p = add(name, rows, cols, init);
  p.packing = Packing::linear;
  return p;
}

Parameter& Plan::matrix(std::string_view name, Index rows, Index cols, Init init) {
  return add(name, rows, cols, init);
}

Parameter& Plan::exact(std::string_view name, Index rows, Index cols, Init init) {
  Parameter& p = add(name, rows, cols, init);
  p.exact = true;
  return p;
}

StateId Plan::state(std::string_view name, Index width, DType dtype) {
  states_.push_back({scope_ + std::string(name), width, false, dtype});
  expect_values(place_, states_.back().name, 1, width);
  return static_cast<StateId>(states_.size()) - 1;
}

StateId Plan::state_per_token(std::string_view name, Index width, DType dtype) {
  const StateId id = state(name, width, dtype);
  states_.back().per_token = true;
  return id;
}

}  // namespace samba
