#include "anyfp8/kernels/common/cublaslt_fp8_cuda.h"

#include <map>
#include <mutex>
#include <utility>

#include "anyfp8/kernels/common/cublaslt_calls.h"
#include "anyfp8/kernels/common/cublaslt_gemm_cuda.h"

// As in cublaslt_gemm_cuda.cpp cuBLASLt sees D[n, m] = op(A)[n, k] · B[k, m] + bias[n] with A = w, B = x. The
// sums of FP8 tensor cores, which have few bits, are added up in fp32 on the way: fast accumulation stays
// off.
namespace anyfp8 {
namespace {

// cuBLASLt wants it of every FP8 operand, and nothing here promises more.
constexpr uint32_t kAlignment = 16;

struct Descriptors {
  cublasLtMatmulDescOpaque_t operation{};
  cublasLtMatrixLayoutOpaque_t a{}, b{}, d{};
};

void set_operands(Descriptors& descriptors, const Fp8Product& product, const Fp8Operands& o) {
  set(descriptors.operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, o.w_scale);
  set(descriptors.operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, o.x_scale);
  if (product.bias) set(descriptors.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, o.bias);
  init_layout(descriptors.b, cuda_type(product.activation), product.k, o.m, product.k);
  init_layout(descriptors.d, cuda_type(product.out), product.n, o.m, o.y_stride);
}

// All but the operands of a call.
Descriptors describe(const Fp8Product& product) {
  Descriptors descriptors;
  cublasLtMatmulDescOpaque_t& operation = descriptors.operation;
  check_cublas(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescInit");
  set(operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (product.bias) {
    set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(product.out));
  }
  const auto modes = [&]() -> std::pair<cublasLtMatmulMatrixScale_t, cublasLtMatmulMatrixScale_t> {
    switch (product.scales) {
      case Fp8Scales::kOuter:
        return {CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F};
      case Fp8Scales::kBlock128:
        return {CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F};
      case Fp8Scales::kMx:
        return {CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0, CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0};
      default: return {CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F};
    }
  }();
  set(operation, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, modes.first);
  set(operation, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, modes.second);
  init_layout(descriptors.a, cuda_type(product.weight), product.k, product.n, product.k);
  return descriptors;
}

std::string text(const Fp8Product& product, int64_t m) {
  const char* scales = product.scales == Fp8Scales::kTensor     ? "by tensor"
                       : product.scales == Fp8Scales::kOuter    ? "by row and token"
                       : product.scales == Fp8Scales::kBlock128 ? "by 128x128 and 1x128"
                                                                : "by 1x32";
  return fmt::format("{} weights and {} activations with scales {}, y in {}{}, n = {}, k = {}, m = {}",
                     dtype_name(product.weight), dtype_name(product.activation), scales,
                     dtype_name(product.out), product.bias ? " with bias" : "", product.n, product.k, m);
}

[[noreturn]] void refuse(const Fp8Product& product, int64_t m, cublasStatus_t status) {
  throw fail(ErrorCode::kUnsupported,
             "{} has no FP8 algorithm for {} ({}); disable the kernel (ANYFP8_DISABLE=cuda_cublaslt_w8a8) or "
             "ask for policy accuracy",
             cublaslt_version(), text(product, m), cublasLtGetStatusString(status));
}

struct Plan {
  cublasLtHandle_t handle = nullptr;
  Descriptors descriptors;                             // but for the operands
  std::map<int64_t, cublasLtMatmulAlgo_t> algorithms;  // by like_tokens()
};

cublasLtMatmulAlgo_t choose_algorithm(const Plan& plan, const Fp8Product& product, int64_t first,
                                      int64_t last) {
  // Addresses are looked at here for their alignment alone.
  auto* const some_memory = reinterpret_cast<float*>(uintptr_t{kAlignment} << 8);
  Descriptors d = plan.descriptors;
  const auto at = [&](int64_t m) {
    set_operands(
        d, product,
        {.m = m, .w_scale = some_memory, .x_scale = some_memory, .y_stride = product.n, .bias = some_memory});
  };
  cublasLtMatmulPreferenceOpaque_t preference = preference_for(kCublasBytes);
  for (const cublasLtMatmulPreferenceAttributes_t operand :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    set(preference, operand, kAlignment);
  }
  at(last);
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(plan.handle, &d.operation, &d.a, &d.b, &d.d,
                                                               &d.d, &preference, 1, &result, &found);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0) refuse(product, last, status);
  at(first);
  cublasLtMatmulHeuristicResult_t checked{};
  const cublasStatus_t fits =
      cublasLtMatmulAlgoCheck(plan.handle, &d.operation, &d.a, &d.b, &d.d, &d.d, &result.algo, &checked);
  if (fits != CUBLAS_STATUS_SUCCESS || checked.workspaceSize > kCublasBytes) refuse(product, first, fits);
  return result.algo;
}

Plan make_plan(int device, const Fp8Product& product) {
  const RelaxedCapture relaxed;
  Plan plan{cublas_handle(device), describe(product), {}};
  const int64_t granule = product.scales == Fp8Scales::kBlock128 ? 4 : 1;
  for (int64_t last = 0; last < kMostFp8Tokens;) {
    const int64_t first = last + granule;
    last = like_tokens(last + 1);
    plan.algorithms.emplace(last, choose_algorithm(plan, product, first, last));
  }
  return plan;
}

// Kept until the process ends, as the handles are.
const Plan& plan_for(const Fp8Product& product) {
  static std::mutex mutex;
  static auto* plans = new std::map<std::pair<int, Fp8Product>, Plan>;
  int device = 0;
  ANYFP8_CUDA_CHECK(cudaGetDevice(&device));
  const std::pair key(device, product);
  const std::lock_guard lock(mutex);
  if (const auto known = plans->find(key); known != plans->end()) return known->second;
  return plans->emplace(key, make_plan(device, product)).first->second;
}

}  // namespace

void plan_cublaslt_fp8(const Fp8Product& product) { plan_for(product); }

void cublaslt_fp8_gemm(const Fp8Product& product, const Fp8Operands& operands, Scratch workspace,
                       Stream stream) {
  const Plan& plan = plan_for(product);
  Descriptors d = plan.descriptors;
  set_operands(d, product, operands);
  constexpr float kOne = 1, kZero = 0;
  check_cublas(
      cublasLtMatmul(plan.handle, &d.operation, &kOne, operands.w, &d.a, operands.x, &d.b, &kZero, operands.y,
                     &d.d, operands.y, &d.d, &plan.algorithms.at(like_tokens(operands.m)), workspace.data,
                     workspace.bytes, static_cast<cudaStream_t>(stream.handle)),
      "cublasLtMatmul");
}

}  // namespace anyfp8
