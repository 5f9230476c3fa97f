#pragma once

#include <concepts>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/batch.h"

namespace samba {

/// What every sequence carries from one token to the next: one row per sequence in each matrix.
/// To copy, save or forget a sequence is to copy, save or clear one row of each.
using StateId = int;
using States = std::vector<Matrix>;  ///< [slots, width] each, indexed by StateId

/// One forward pass, and the backward pass that may follow it.
struct Pass {
  Stream& stream;
  Batch batch;
  States* states = nullptr;  ///< null: every span starts from zero and leaves nothing behind
  bool training = false;     ///< layers keep what their backward needs

  View state(StateId id) const {
    return states == nullptr ? View{} : (*states)[static_cast<std::size_t>(id)].view();
  }
};

/// How the first values of a parameter are drawn.
struct Init {
  enum class Kind {
    zeros,
    ones,
    uniform,    ///< in [-scale, scale]
    normal,     ///< of deviation `scale`
    log_steps,  ///< log(1), log(2), ... along each row: S6's A_log
    time_step,  ///< softplus^-1 of a step log-uniform in [1e-3, 1e-1]: S6's dt bias
  };
  Kind kind = Kind::zeros;
  double scale = 0;
};

/// What inference makes of a parameter once, if its only readers can take that instead.
enum class Packing { none, linear /** op::PackLinear */, decay /** op::PackDecay */ };

/// A named matrix that training changes.
struct Parameter {
  std::string name;  ///< "layers.3.in_proj.weight"
  Index rows = 0;
  Index cols = 0;
  Init init;
  bool exact = false;  ///< f32 whatever the model's dtype: norms, biases, A_log, D (f64 in f64)
  Packing packing = Packing::none;
  Index first = 0;     ///< where its elements begin in its block (Model::block)
  Matrix value;        ///< empty while only `packed` is kept
  Matrix packed;       ///< for inference
  Matrix grad;         ///< f32 (f64 for f64); backward adds to it; empty unless training
  bool fresh = false;  ///< grad stands for zeros, whatever it holds: whoever is first overwrites it

  Index size() const { return rows * cols; }
};

/// How a model's linear weights are first drawn (paper, appendix; section "initialisation").
struct InitScheme {
  bool neox = false;  ///< normal weights as in GPT-NeoX; else uniform in 1/sqrt(fan_in)
  Index d_model = 0;
  Index residual_steps = 0;  ///< layers whose outputs join the residual stream
  Index blocks = 0;          ///< of mixer and MLP (block_lengths)

  Init linear(Index fan_in) const;
  /// A matrix whose output is added to the residual stream.
  Init residual(Index fan_in) const;
};

/// The width of a state in a slot, and its type.
struct StateShape {
  std::string name;        ///< "layers.1.keys"
  Index width = 0;         ///< elements of a slot; of one token where `per_token`
  bool per_token = false;  ///< grows with the context: full attention
  DType dtype = DType::f32;
};

/// What a layer asks for while it is built. Nothing is allocated until the whole model has asked.
class Plan {
 public:
  Plan(std::deque<Parameter>& parameters, std::vector<StateShape>& states, DType dtype,
       InitScheme scheme)
      : parameters_(parameters), states_(states), dtype_(dtype), scheme_(scheme) {}

  /// The same plan for a layer whose errors begin with `place`.
  Plan at(std::string place) const;
  /// The same plan with names below `scope`.
  Plan inside(std::string_view scope) const;
  /// A matrix of the model's dtype that is read by Linear alone.
  Parameter& linear(std::string_view name, Index rows, Index cols, Init init);
  /// A matrix of the model's dtype.
  Parameter& matrix(std::string_view name, Index rows, Index cols, Init init);
  /// Always f32 (f64 in f64).
  Parameter& exact(std::string_view name, Index rows, Index cols, Init init);
  StateId state(std::string_view name, Index width, DType dtype);
  /// A state of `width` elements for each token of the longest context.
  StateId state_per_token(std::string_view name, Index width, DType dtype);

  DType dtype() const { return dtype_; }
  const InitScheme& scheme() const { return scheme_; }
  const std::string& place() const { return place_; }

 private:
  Parameter& add(std::string_view name, Index rows, Index cols, Init init);

  std::deque<Parameter>& parameters_;
  std::vector<StateShape>& states_;
  DType dtype_;
  InitScheme scheme_;
  std::string scope_;
  std::string place_;
};

/// What a layer or a projection reads: rows of the model's dtype, or in inference those of the
/// residual stream and the norm that is still to be applied to them (op::RmsNorm). Linear takes
/// either; who else reads rows takes them through NormedRows.
struct Input {
  ConstView x;          ///< [N, D] of `dtype`; with a norm f32 (f64 for f64)
  DType dtype;          ///< the model's
  ConstView norm = {};  ///< [1, D], op::RmsNorm's w
  double eps = 0;       ///< op::RmsNorm's

  template <std::convertible_to<ConstView> Rows>
  Input(const Rows& rows)  // NOLINT(google-explicit-constructor)
      : x(rows), dtype(x.dtype) {}
  Input(ConstView stream, DType model, ConstView weight, double epsilon)
      : x(stream), dtype(model), norm(weight), eps(epsilon) {}
  Index rows() const { return x.rows; }
};

/// Where a layer or a projection leaves its rows: they overwrite y, of the model's dtype, or in
/// inference are added to the residual stream, f32 (f64 for f64). Linear does either; others go
/// through OwnRows.
struct Output {
  View y;            ///< [N, D]
  bool add = false;  ///< y is the stream

  template <std::convertible_to<View> Rows>
  Output(const Rows& rows, bool adds = false)  // NOLINT(google-explicit-constructor)
      : y(rows), add(adds) {}
};

/// A map from [N, D] to [N, D] with parameters, a gradient, and perhaps a state.
///
/// What a layer makes it keeps, when pass.training; what it is given its caller keeps until
/// backward. dx is overwritten; gradients of parameters are added to.
class Layer {
 public:
  virtual ~Layer() = default;
  /// In training x is without a norm and y overwritten. Else y may be the stream that x is: a layer
  /// has read all of x before it writes y.
  virtual void forward(Pass&, const Input& x, const Output& y) = 0;
  virtual void backward(Pass&, ConstView x, ConstView dy, View dx) = 0;
  /// Forgets what forward kept for backward.
  virtual void drop() = 0;
  /// Multiplications and additions of one forward pass over `length` tokens from `position` on, a
  /// window counted as the keys inside it. Backward takes twice as many.
  virtual double flops(Index position, Index length) const = 0;
  /// Whether passes over single tokens queue the same ops wherever in their sequences these stand.
  virtual bool repeats() const { return true; }
  /// Whether it mixes tokens, as against a map of each token by itself.
  virtual bool mixes() const = 0;
};

}  // namespace samba
