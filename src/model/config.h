#pragma once

#include <string>
#include <vector>

#include "core/json.h"
#include "core/matrix.h"

namespace samba {

/// What a model is: an embedding, a list of residual steps x += layer(rms_norm(x)), a norm and a
/// head. Architectures differ in the list alone.
struct ModelConfig {
  std::string name;
  Index vocab = 0;
  Index d_model = 0;
  Index context = 4096;
  double norm_eps = 1e-5;
  bool tied = true;
  std::string init = "mamba";
  std::vector<Json> layers;  ///< entries of make_layer, "repeat" expanded
  std::string place;         ///< where it was read, a path or a preset: errors begin with it

  void fields(auto& f) {
    f("name", name, "what reports call the model");
    f("vocab", vocab, "rows V of the embedding, at least the tokenizer's pieces");
    f("d_model", d_model, "width D of the residual stream");
    f("context", context,
      "tokens of a training sequence; default length of full attention's states");
    f("norm_eps", norm_eps, "added to the mean square in every norm");
    f("tied", tied, "the head is the embedding");
    f("init", init, "first weights: mamba (uniform) or neox (normal)");
  }
};

/// Reads a configuration; `place` (a path) begins every error. Unknown keys are refused with their
/// place. An entry {"repeat": n, "layers": [...]} stands for n copies of its list.
ModelConfig model_config(const Json& document, const std::string& place);

/// The configuration as JSON, its list expanded.
Json json_of(const ModelConfig&);

/// The number of entries of each block of a list, in order. A block is the layers that mix tokens
/// and the MLP behind them; an MLP with no such layer before it stands in for one. Entries that no
/// MLP follows are blocks by themselves.
std::vector<Index> block_lengths(const std::vector<Json>& layers);

/// Turns on Self-Extend (extend_group, extend_window) in every full attention of the list. Throws
/// an Error where there is none.
void self_extend(ModelConfig&, Index group, Index window);

/// The presets that are compiled into the program, by name in alphabetical order.
std::vector<std::string> preset_names();

/// A preset by its name (in any case, with '_' or '-'), a JSON file's path, or a model folder of
/// ours (its config.json): the whole document, which beside the model may hold "train", a recipe,
/// and "group", a preset's heading in lists. Throws an Error where there is nothing of this name.
Json config_document(const std::string& preset_or_path);

}  // namespace samba
