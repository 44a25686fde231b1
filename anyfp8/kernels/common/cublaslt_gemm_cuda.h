#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "anyfp8/base/dtype.h"
#include "anyfp8/device/device.h"
#include "anyfp8/kernels/kernel.h"

namespace anyfp8 {

// Scratch memory that cuBLASLt wants on Hopper to have all its kernels to choose from.
inline constexpr size_t kCublasBytes = size_t{32} << 20;

// y[m, n] = x[m, k] · w[n, k]ᵀ + bias[n]: 16-bit x and w, fp32 sums, one rounding to y. Rows of x, w and y
// may be strided; pointers and strides need no alignment beyond their elements': the algorithm is chosen for
// the alignment they have.
struct CublasGemm {
  int64_t m = 0, n = 0, k = 0;
  DType dtype = DType::kBF16;  // of x and w: kBF16 or kF16
  DType out = DType::kBF16;    // of y: `dtype` or kF32
  const void* x = nullptr;
  int64_t x_stride = 0;  // in elements
  const void* w = nullptr;
  int64_t w_stride = 0;
  void* y = nullptr;
  int64_t y_stride = 0;
  const void* bias = nullptr;  // of y's dtype, or null
  // On the device, read when the product runs: a factor of the sums before the bias, and 0. Null: 1.
  const float* factors = nullptr;
};

// Queues the product on `stream` of the current device. m, n and k are positive. The handle of a device is
// made by the first call on it, the algorithm for a set of sizes, strides and alignments by the first call
// with them (tens of microseconds on the host); both are kept, found again under a lock, and allowed while
// `stream` is captured. `workspace` is cuBLASLt's own scratch. Error(kCuda) names the call that failed.
void cublaslt_gemm(const CublasGemm& gemm, Scratch workspace, Stream stream);

std::string cublaslt_version();  // "cuBLASLt 13.0.2"

}  // namespace anyfp8
