#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/json.h"
#include "layers/layer.h"

namespace samba {

/// Builds the layer that one entry of a model's list describes: {"type": "mamba", ...}; of type
/// "parallel" with those of its own list of "layers". An entry
/// without a type, of an unknown type or with an unknown key is an Error that begins with `place`.
/// `entry` is completed: it then names every field of the layer with its value.
std::unique_ptr<Layer> make_layer(Json& entry, const std::string& place, Index d_model, Plan plan);

/// A type of layer, and small entries that show its forms: the contract tests run over them.
struct LayerType {
  std::string name;
  std::vector<Json> examples;
};
std::vector<LayerType> layer_types();

/// What the model must know of an entry before it builds the layer. An entry that make_layer would
/// refuse counts as an ordinary one that mixes nothing.
struct LayerTraits {
  bool mixes = false;  ///< it mixes tokens (Layer::mixes)
  bool norms = false;  ///< it norms its input itself: the model hands it the residual stream
  Index outputs = 1;   ///< matrices whose outputs it adds to the residual stream
};
LayerTraits layer_traits(const Json& entry);

}  // namespace samba
