#include "anyfp8/kernels/common/cublaslt_gemm_cuda.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "anyfp8/kernels/common/cublaslt_calls.h"

// cuBLASLt sees the transposed product, columns first:
//   D[n, m] = op(A)[n, k] · B[k, m] + bias[n]   A = w as [k, n], transposed; B = x as [k, m]; D = y as [n, m]
namespace anyfp8 {
namespace {

// The largest power of two up to 256, cuBLASLt's own default, that divides the address.
uint32_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer) | 256;
  return static_cast<uint32_t>(address & -address);
}

// On the stack: cublasLt's Create functions would allocate.
struct Problem {
  cublasLtMatmulDescOpaque_t operation{};
  cublasLtMatrixLayoutOpaque_t a{}, b{}, d{};

  explicit Problem(const CublasGemm& gemm) {
    const cudaDataType_t type = cuda_type(gemm.dtype);
    check_cublas(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "cublasLtMatmulDescInit");
    set(operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (gemm.bias != nullptr) {
      set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, gemm.bias);
    }
    if (gemm.factors != nullptr) {
      set(operation, CUBLASLT_MATMUL_DESC_POINTER_MODE, CUBLASLT_POINTER_MODE_DEVICE);
    }
    init_layout(a, type, gemm.k, gemm.n, gemm.w_stride);
    init_layout(b, type, gemm.k, gemm.m, gemm.x_stride);
    init_layout(d, cuda_type(gemm.out), gemm.n, gemm.m, gemm.y_stride);
  }
};

// What an algorithm depends on: device, m, n, k, strides, dtypes, bias, factors, alignments, scratch.
using Key = std::array<int64_t, 16>;

Key key_of(int device, const CublasGemm& gemm, size_t workspace_bytes) {
  return {device,
          gemm.m,
          gemm.n,
          gemm.k,
          gemm.x_stride,
          gemm.w_stride,
          gemm.y_stride,
          static_cast<int64_t>(gemm.dtype),
          static_cast<int64_t>(gemm.out),
          gemm.bias != nullptr,
          gemm.factors != nullptr,
          alignment_of(gemm.x),
          alignment_of(gemm.w),
          alignment_of(gemm.y),
          alignment_of(gemm.bias),
          static_cast<int64_t>(workspace_bytes)};
}

cublasLtMatmulAlgo_t choose_algorithm(cublasLtHandle_t handle, const CublasGemm& gemm, Problem& problem,
                                      size_t workspace_bytes) {
  cublasLtMatmulPreferenceOpaque_t preference = preference_for(workspace_bytes);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(gemm.w));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(gemm.x));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(gemm.y));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(gemm.y));
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, &problem.operation, &problem.a, &problem.b, &problem.d,
                                     &problem.d, &preference, 1, &result, &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && found == 0)) {
    throw fail(ErrorCode::kUnsupported,
               "cuBLASLt has no algorithm for {} with m = {}, n = {}, k = {}, strides {}, {} and {}; disable "
               "the kernel that asked for it (ANYFP8_DISABLE)",
               dtype_name(gemm.dtype), gemm.m, gemm.n, gemm.k, gemm.x_stride, gemm.w_stride, gemm.y_stride);
  }
  check_cublas(status, "cublasLtMatmulAlgoGetHeuristic");
  return result.algo;
}

// Lives as long as the process: at its end the driver may be gone before a destructor would run.
class Plans {
 public:
  static Plans& instance() {
    static auto* plans = new Plans;
    return *plans;
  }

  struct Plan {
    cublasLtHandle_t handle;
    cublasLtMatmulAlgo_t algorithm;
  };

  // Held while the algorithm is chosen: another thread that needs the same one would choose it again.
  Plan find(const CublasGemm& gemm, Problem& problem, size_t workspace_bytes) {
    int device = 0;
    ANYFP8_CUDA_CHECK(cudaGetDevice(&device));
    const Key key = key_of(device, gemm, workspace_bytes);
    const std::lock_guard lock(mutex_);
    if (const auto known = plans_.find(key); known != plans_.end()) return known->second;
    const RelaxedCapture relaxed;
    cublasLtHandle_t const handle = cublas_handle(device);
    // A model has up to a dozen shapes of slabs and products, and a server any m: 65536 plans, about 16 MB,
    // are those of 5000 m. What comes beyond begins anew.
    constexpr size_t kMostPlans = 65536;
    if (plans_.size() >= kMostPlans) plans_.clear();
    const Plan plan{handle, choose_algorithm(handle, gemm, problem, workspace_bytes)};
    plans_.emplace(key, plan);
    return plan;
  }

 private:
  std::mutex mutex_;
  std::map<Key, Plan> plans_;
};

}  // namespace

cublasLtHandle_t cublas_handle(int device) {
  static std::mutex mutex;
  static auto* handles = new std::map<int, cublasLtHandle_t>;  // lives as long as the plans
  const std::lock_guard lock(mutex);
  cublasLtHandle_t& handle = (*handles)[device];
  if (handle == nullptr) check_cublas(cublasLtCreate(&handle), "cublasLtCreate");
  return handle;
}

void cublaslt_gemm(const CublasGemm& gemm, Scratch workspace, Stream stream) {
  Problem problem(gemm);
  const Plans::Plan plan = Plans::instance().find(gemm, problem, workspace.bytes);
  constexpr float kOneAndZero[] = {1, 0};
  const float* const factors = gemm.factors != nullptr ? gemm.factors : kOneAndZero;
  check_cublas(
      cublasLtMatmul(plan.handle, &problem.operation, factors, gemm.w, &problem.a, gemm.x, &problem.b,
                     factors + 1, gemm.y, &problem.d, gemm.y, &problem.d, &plan.algorithm, workspace.data,
                     workspace.bytes, static_cast<cudaStream_t>(stream.handle)),
      "cublasLtMatmul");
}

std::string cublaslt_version() {
  const size_t version = cublasLtGetVersion();  // 130002 is 13.0.2
  return fmt::format("cuBLASLt {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace anyfp8
