#include <array>
#include <cstdint>

#include "core/cuda_blas.h"
#include "core/cuda_stream.h"
#include "core/error.h"

namespace samba {
namespace {

constexpr Index kWorkspace = Index{64} << 20;
constexpr int kProposals = 8;

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail("cuda: cuBLASLt: ", what, ": ", cublasLtGetStatusString(status));
}

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

/// The largest power of two up to 256 that divides the address.
std::uint32_t alignment_of(const std::byte* data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data) | 256;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

cublasLtMatrixLayout_t layout_of(ConstView v) {
  // Row by row, as the library sees it: the transpose, column by column.
  cublasLtMatrixLayout_t layout = nullptr;
  check(cublasLtMatrixLayoutCreate(&layout, type_of(v.dtype), static_cast<std::uint64_t>(v.cols),
                                   static_cast<std::uint64_t>(v.rows), v.stride),
        "layout");
  return layout;
}

template <class T>
T value_of(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute) {
  T value{};
  std::size_t written = 0;
  check(
      cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof(value), &written),
      "algorithm");
  return value;
}

/// Over the shapes of a training step of Samba_421M (`script/bench cuda product`) this was, of
/// eight proposals, the fastest for bf16 results of large products but one, and within 1% there;
/// the library's own first one was up to 18% behind it. f32 results, gradients of weights, are left
/// to the library.
bool is_usually_fastest(const cublasLtMatmulAlgo_t& algorithm) {
  return value_of<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID) ==
             CUBLASLT_MATMUL_TILE_128x160 &&
         value_of<std::uint16_t>(algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID) ==
             CUBLASLT_CLUSTER_SHAPE_2x1x1 &&
         value_of<std::int32_t>(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) == 1;
}

}  // namespace

/// What the library proposed for a product of one shape; without an algorithm it has none.
struct CudaBlas::Choice {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  bool found = false;
  cublasLtMatmulAlgo_t algorithm{};

  Choice() = default;
  Choice(const Choice&) = delete;
  Choice& operator=(const Choice&) = delete;
  ~Choice() {
    if (product != nullptr) cublasLtMatmulDescDestroy(product);
    for (const cublasLtMatrixLayout_t layout : {a, b, c})
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
  }
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof(value)), "attribute");
  }
};

CudaBlas::CudaBlas() {
  check(cublasLtCreate(&handle_), "start");
}

CudaBlas::~CudaBlas() {
  choices_.clear();
  cublasLtDestroy(handle_);
}

CudaBlas::Choice& CudaBlas::choice(const MatrixProduct& p, const Key& key) {
  const auto [at, fresh] = choices_.try_emplace(key);
  Choice& choice = at->second;
  if (!fresh) return choice;
  // cᵀ = bᵀ aᵀ: the library's first factor is b.
  check(cublasLtMatmulDescCreate(&choice.product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "product");
  choice.set(CUBLASLT_MATMUL_DESC_TRANSA, p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  choice.set(CUBLASLT_MATMUL_DESC_TRANSB, p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (!p.bias.empty()) {
    choice.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    choice.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
    choice.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias.data);
  }
  choice.a = layout_of(p.b);
  choice.b = layout_of(p.a);
  choice.c = layout_of(p.c);
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "preference");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
          "preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(kWorkspace));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.c.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.c.data));
  std::array<cublasLtMatmulHeuristicResult_t, kProposals> proposals{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, choice.product, choice.a, choice.b, choice.c,
                                     choice.c, preference, kProposals, proposals.data(), &count);
  cublasLtMatmulPreferenceDestroy(preference);
  choice.found = status == CUBLAS_STATUS_SUCCESS && count > 0;
  if (!choice.found) return choice;
  choice.algorithm = proposals[0].algo;
  if (p.c.dtype == DType::bf16)
    for (int i = count; i-- > 0;)
      if (is_usually_fastest(proposals[static_cast<std::size_t>(i)].algo))
        choice.algorithm = proposals[static_cast<std::size_t>(i)].algo;
  return choice;
}

bool CudaBlas::run(CudaStream& stream, const MatrixProduct& p) {
  const Key key{p.c.rows,
                p.c.cols,
                p.a_transposed ? p.a.rows : p.a.cols,
                p.a.stride,
                p.b.stride,
                p.c.stride,
                static_cast<Index>(p.a.dtype),
                static_cast<Index>(p.c.dtype),
                p.a_transposed,
                p.b_transposed,
                !p.bias.empty(),
                p.add,
                alignment_of(p.a.data),
                alignment_of(p.b.data),
                alignment_of(p.c.data),
                0};
  Choice& choice = this->choice(p, key);
  if (!choice.found) return false;
  if (workspace_.empty()) workspace_ = Matrix(stream, DType::i32, 1, kWorkspace / 4);
  if (stream.rehearses()) return true;
  if (!p.bias.empty()) choice.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias.data);
  const float one = 1, old = p.add ? 1 : 0;
  check(cublasLtMatmul(handle_, choice.product, &one, p.b.data, choice.a, p.a.data, choice.b, &old,
                       p.c.data, choice.c, p.c.data, choice.c, &choice.algorithm,
                       workspace_.view().data, static_cast<std::size_t>(kWorkspace), stream.get()),
        "product");
  return true;
}

}  // namespace samba
