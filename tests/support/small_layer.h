#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "layers/registry.h"
#include "support/compare.h"
#include "support/target.h"

namespace samba::test {

/// Values near those that training finds; noise hides nothing behind ones and zeros. Exact
/// parameters are f32 values, the others bf16 values, whatever the dtype of the model.
Host values_of(const Parameter&, int seed);

/// x, each value moved by up to a rounding to dtype.
Host shaken(const Host& x, DType dtype, int seed);

/// One layer outside of a model, with weights that are the same in every dtype: exact parameters
/// are f32 values, the others bf16 values.
class SmallLayer {
 public:
  static constexpr Index kWidth = 16;  ///< d_model

  SmallLayer(const Json& entry, const Target&, int threads = 2);

  /// The layer's output for x [N, kWidth]. Spans with slots read and leave `states`.
  Host forward(const Host& x, const std::vector<Span>& spans, States* states = nullptr);
  /// The residual stream behind the layer, which reads it through a norm of those weights and adds
  /// to it; and what it makes of the normed rows where it adds to nothing.
  struct OnStream {
    Host stream, alone;
  };
  OnStream forward_on_stream(const Host& stream, const Host& norm, const std::vector<Span>& spans);
  /// dx and, in every parameter's grad, its gradient, for a loss whose gradient by the output is
  /// dy. Spans have no slots.
  Host backward(const Host& x, const std::vector<Span>& spans, const Host& dy);
  States make_states(Index slots, Index context);
  /// Moves every parameter of a float64 layer by up to a rounding of the type that it would have in
  /// a model of `dtype`.
  void shake(DType dtype, int seed);

  Layer& layer() { return *layer_; }
  Stream& stream() { return stream_; }
  DType dtype() const { return dtype_; }
  std::deque<Parameter>& parameters() { return parameters_; }

 private:
  Matrix upload(const Host& x);
  Matrix upload(const Host& x, DType);

  Stream stream_;
  DType dtype_;
  std::deque<Parameter> parameters_;
  std::vector<StateShape> shapes_;
  std::unique_ptr<Layer> layer_;
};

}  // namespace samba::test
