#pragma once

#include <memory>
#include <string>

#include "model/layout.h"
#include "model/model.h"
#include "model/tensors.h"

namespace samba {

/// What a MODEL argument names: a model folder in any known layout, the folder of a training run
/// (its last checkpoint), a checkpoint of llama2.c, or a preset, which has no weights.
struct ModelSource {
  std::string name;    ///< as the user named it
  std::string folder;  ///< where config.json or the file lies; empty for a preset
  Layout layout;
  std::string file = {};  ///< a single file that holds model and weights (llama2.c), else empty

  /// Its weights. Throws an Error where there are none or the file is damaged.
  TensorFile tensors() const;
};

/// Throws an Error that lists what was looked for.
ModelSource open_model(const std::string& name);

/// Builds the source's model; `training` allocates gradients too. What lies in its weights is
/// undefined. A GPU's kernels are tested before: self_test.
std::unique_ptr<Model> allocate_model(const ModelSource&, Stream&, DType, bool training);
/// Writes the source's weights, or for a preset those drawn from `seed`.
void read_weights(const ModelSource&, Model&, std::uint64_t seed, const Destination& = value_of);
/// Both.
std::unique_ptr<Model> load_model(const ModelSource&, Stream&, DType, bool training,
                                  std::uint64_t seed = 0);

/// Moves values between a model's parameters and tensors under a layout's names.
class WeightNames {
 public:
  /// layout and model must outlive it.
  WeightNames(const Layout&, const Model&);

  /// Every name a tensor may have, second names of tied ones left out, in the layout's order.
  std::vector<std::string> tensors() const;
  /// The name in tensors() of a tensor that may be named by a second one.
  std::string first_name(const std::string& tensor) const;
  bool known(const std::string& tensor) const;
  /// Rows and columns of a tensor as matrix.
  std::pair<Index, Index> shape(const std::string& tensor) const;

  /// Throws an Error naming the first tensor of the file that is missing, unknown or of another
  /// size. Needs no allocated model.
  void check(const TensorFile&) const;
  /// Reads every parameter's values from the file, after check().
  void read(const TensorFile&, const Destination&) const;
  /// The tensor's gradient, [rows, cols] of the gradients' dtype, in the machine's memory.
  Matrix gradient(const std::string& tensor) const;

  /// Rows of a tensor, from tensor_row on, that are rows and columns of a parameter.
  struct Part {
    const Parameter* parameter;
    Index tensor_row, row, rows, column, cols;

    bool whole() const { return rows == parameter->rows && cols == parameter->cols; }
    /// The part of a matrix of the parameter's shape.
    View of(View matrix) const { return matrix.block(row, rows).columns(column, cols); }
  };
  const std::vector<Part>& parts(const std::string& tensor) const;
  /// The name under which the file holds the tensor: its own, or the second one of a tied matrix.
  std::string stored_name(const TensorFile&, const std::string& name) const;

 private:
  const Layout& layout_;
  const Model& model_;
  std::vector<std::string> order_;
  std::map<std::string, std::vector<Part>> parts_;
};

}  // namespace samba
