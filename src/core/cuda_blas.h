#pragma once

#include <cublasLt.h>

#include <array>
#include <map>

#include "core/matrix.h"

namespace samba {

class CudaStream;

/// c = a b, or c += a b, all row-major; a and b may stand for their transposes.
struct MatrixProduct {
  View c;       ///< [M, N]; dtype of a, or f32
  ConstView a;  ///< [M, K], transposed [K, M]; f32 or bf16
  ConstView b;  ///< [K, N], transposed [N, K]
  bool a_transposed = false;
  bool b_transposed = false;
  ConstView bias = {};  ///< [1, N] f32; may be left out, must be with `add`
  bool add = false;
};

/// cuBLASLt and what was chosen of its proposals for the shapes that it has met, by a rule, so the
/// same in every run. Sums are kept in f32; f32 is not rounded to TF32.
class CudaBlas {
 public:
  CudaBlas();
  ~CudaBlas();
  CudaBlas(const CudaBlas&) = delete;
  CudaBlas& operator=(const CudaBlas&) = delete;

  /// Whether the library takes it; if so it is queued.
  bool run(CudaStream&, const MatrixProduct&);

 private:
  struct Choice;
  using Key = std::array<Index, 16>;
  Choice& choice(const MatrixProduct&, const Key&);

  cublasLtHandle_t handle_ = nullptr;
  Matrix workspace_;
  std::map<Key, Choice> choices_;
};

}  // namespace samba
