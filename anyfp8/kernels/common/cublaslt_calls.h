#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "anyfp8/base/dtype.h"
#include "anyfp8/base/text.h"
#include "anyfp8/device/check_cuda.h"

// Calls of cuBLASLt as this library makes them, for the sources of CUDA builds alone. Descriptors are kept on
// the stack or in plans: cublasLt's Create functions would allocate.
namespace anyfp8 {

inline void check_cublas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw fail(ErrorCode::kCuda, "{} ({}) from {}", cublasLtGetStatusString(status), static_cast<int>(status),
             what);
}

// Made by the first call for a device, then kept.
cublasLtHandle_t cublas_handle(int device);

// Making a handle or asking for an algorithm may allocate and load code, which a captured stream of this
// thread would forbid though nothing of it is queued there.
class RelaxedCapture {
 public:
  RelaxedCapture() { ANYFP8_CUDA_CHECK(cudaThreadExchangeStreamCaptureMode(&mode_)); }
  ~RelaxedCapture() {
    if (cudaThreadExchangeStreamCaptureMode(&mode_) != cudaSuccess) static_cast<void>(cudaGetLastError());
  }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

inline cudaDataType_t cuda_type(DType dtype) {
  switch (dtype) {
    case DType::kF32: return CUDA_R_32F;
    case DType::kBF16: return CUDA_R_16BF;
    case DType::kE4M3: return CUDA_R_8F_E4M3;
    case DType::kE5M2: return CUDA_R_8F_E5M2;
    default: return CUDA_R_16F;
  }
}

template <typename Value>
void set(cublasLtMatmulDescOpaque_t& operation, cublasLtMatmulDescAttributes_t attribute,
         const Value& value) {
  check_cublas(cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof(value)),
               "cublasLtMatmulDescSetAttribute");
}

template <typename Value>
void set(cublasLtMatmulPreferenceOpaque_t& preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const Value& value) {
  check_cublas(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)),
               "cublasLtMatmulPreferenceSetAttribute");
}

// Columns first. The stride of a single column means nothing and may be below its length.
inline void init_layout(cublasLtMatrixLayoutOpaque_t& layout, cudaDataType_t type, int64_t rows,
                        int64_t columns, int64_t stride) {
  check_cublas(cublasLtMatrixLayoutInit(&layout, type, static_cast<uint64_t>(rows),
                                        static_cast<uint64_t>(columns), std::max(stride, rows)),
               "cublasLtMatrixLayoutInit");
}

// Parts of k are added in fp32, never in y's 16 bits.
inline cublasLtMatmulPreferenceOpaque_t preference_for(size_t workspace_bytes) {
  cublasLtMatmulPreferenceOpaque_t preference{};
  check_cublas(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{workspace_bytes});
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  return preference;
}

}  // namespace anyfp8
