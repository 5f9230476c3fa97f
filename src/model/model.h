#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "layers/layer.h"
#include "model/config.h"

namespace samba {

/// Embedding, then x += layer(rms_norm(x)) for each layer of the config, then norm and head. A
/// layer that norms its input itself (LayerTraits) takes part as x += layer(x). The residual stream
/// is f32 (f64 in f64), whatever the dtype of weights and activations.
class Model {
 public:
  /// Builds the layers and lists the parameters; allocates nothing yet, so that a model of any size
  /// can be asked about.
  Model(ModelConfig, Stream&, DType);

  /// Allocates the weights (undefined until written), with `training` in blocks and beside their
  /// gradients (zero).
  void allocate(bool training);
  /// What training goes over as a whole: a row of all parameters that are exact, or of all others,
  /// in order, and the same of their gradients. Where one ends before the next begins are zeros.
  struct Block {
    View values, gradients;
  };
  Block block(bool exact) const;
  /// The gradients of both blocks, as one row.
  View gradients() const { return gradients_; }
  /// Rearranges the linear weights for inference and frees what is then no longer read. Backward
  /// and saving are over after that.
  void pack();

  /// x: [N, D] out, model dtype: the last hidden state of every token, after the last norm.
  /// tokens: i32 [N, 1]. An id that is no row of the embedding is an Error, on a GPU a row of NaN.
  /// Views lie in the memory of the stream's ops; so do all below.
  void forward(Pass&, ConstView tokens, View x);
  /// logits: [M, V] out, f32 (f64 in f64), for any M rows of x.
  void head(Pass&, ConstView x, View logits);

  /// The sum over rows of the next-token cross-entropy in nats, of rows whose target is not -1;
  /// targets: i32 [N, 1]. losses, where given: [N, 1] f32 (f64 in f64) out, each row's own.
  /// Logits exist for a few rows at a time only.
  double loss(Pass&, ConstView tokens, ConstView targets, View losses = {});
  /// loss(), then adds scale * d loss / d parameter to every gradient. pass.training must be set.
  double loss_and_gradient(Pass&, ConstView tokens, ConstView targets, double scale);
  /// The same for callers that do not wait for the loss: it is added to `sum`, [1, 1] f64.
  void loss_and_gradient(Pass&, ConstView tokens, ConstView targets, double scale, View sum);

  /// With recompute a layer's activations are dropped after its forward and made again before its
  /// backward: memory for time.
  void set_recompute(bool on) { recompute_ = on; }

  /// Clears the gradients.
  void zero_gradients();
  /// The same for who calls loss_and_gradient before anything reads them: that of a weight of many
  /// numbers is then written where it would be added to.
  void renew_gradients();

  std::deque<Parameter>& parameters() { return parameters_; }
  const std::deque<Parameter>& parameters() const { return parameters_; }
  Index parameter_count() const;
  const std::vector<StateShape>& state_shapes() const { return state_shapes_; }
  /// Zeroed states for `slots` sequences of at most `context` tokens; the context matters to layers
  /// whose state grows with it.
  States make_states(Index slots, Index context) const;
  /// Bytes of state of one sequence of `context` tokens.
  Index state_bytes(Index context) const;
  /// Whether the state of some layer grows with the context: full attention.
  bool has_growing_state() const;

  /// Whether all its layers repeat (Layer::repeats).
  bool repeats() const;
  /// Operations of a forward pass over `length` tokens from `position` on, head included.
  double flops(Index position, Index length) const;

  const ModelConfig& config() const { return config_; }
  Stream& stream() const { return stream_; }
  DType dtype() const { return dtype_; }

 private:
  struct Step {
    Parameter* norm;  ///< null: the layer norms the stream itself
    std::unique_ptr<Layer> layer;
  };
  /// What forward keeps of a step for backward.
  struct SavedStep {
    Matrix normal;  ///< [N, D] the residual stream before the step over its rms
    Matrix scale;   ///< [N, 1] 1 / rms
    Matrix x;       ///< [N, D] what the layer read; while a norm can make it again, empty
  };
  /// What normalise writes; `sum` holds the stream before. normal and scale may be left out.
  struct Normed {
    View y, sum, normal, scale;
  };
  /// Adds `add`, where given, to the stream and writes what a layer behind `norm` reads: without a
  /// norm the stream itself, rounded.
  void normalise(Pass&, const Parameter* norm, const Normed&, ConstView add);
  /// forward() behind the embedding, where nothing is kept: the layers read the stream and add to
  /// it.
  void infer(Pass&, View residual, View x);
  /// Of the loss by the hidden state.
  struct HeadGradient {
    View dx = {};      ///< [N, D] out; may be left out
    double scale = 1;  ///< of each loss
  };
  /// Losses of all rows, added to `sum`; with dx also the gradients of head and hidden state.
  void head_loss(Pass&, ConstView x, ConstView targets, View losses, View sum, const HeadGradient&);
  void backward(Pass&, ConstView tokens, ConstView dx);
  Parameter& head_weight() { return head_ != nullptr ? *head_ : *embedding_; }

  ModelConfig config_;
  Stream& stream_;
  DType dtype_;
  Matrix values_, exact_values_, gradients_;  ///< [1, ...]; training only
  std::deque<Parameter> parameters_;
  std::vector<StateShape> state_shapes_;
  Parameter* embedding_ = nullptr;
  std::vector<Step> steps_;
  Parameter* norm_ = nullptr;
  Parameter* head_ = nullptr;  ///< null: tied
  bool recompute_ = false;
  std::vector<SavedStep> saved_;  ///< one per step, then the last norm's
};

/// Where a parameter's values are written to: a view of its rows and columns.
using Destination = std::function<View(const Parameter&)>;
inline View value_of(const Parameter& p) {
  return p.value;
}

/// Draws every parameter's first value. The values depend on seed, name order and shape alone.
void initialise(Model&, std::uint64_t seed, const Destination& = value_of);

}  // namespace samba
