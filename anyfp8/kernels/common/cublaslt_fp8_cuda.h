#pragma once

#include <bit>
#include <cstdint>

#include "anyfp8/base/dtype.h"
#include "anyfp8/kernels/kernel.h"

namespace anyfp8 {

// How the scales of an FP8 product lie: cuBLASLt's scale modes for w and x.
enum class Fp8Scales : uint8_t {
  kTensor,    // one of w, one of x
  kOuter,     // [n] of w, [m] of x
  kBlock128,  // 128x128 of w: [ceil(n / 128), ceil(k / 128) rounded up to 4];
              // 1x128 of x: [ceil(k / 128), m], m a multiple of 4
  kMx         // e8m0 by 1x32 of both, as mx_scale_tiles.h says; 10.0 and newer
};

// y[m, n] = (x · scale)[m, k] · (w · scale)[n, k]ᵀ + bias[n], all of it that does not change from call to
// call.
struct Fp8Product {
  int64_t n = 0, k = 0;         // multiples of 8 and 16
  DType weight = DType::kE4M3;  // e4m3 or e5m2, not both e5m2
  DType activation = DType::kE4M3;
  DType out = DType::kBF16;  // of y and the bias: bf16 or f16
  Fp8Scales scales = Fp8Scales::kTensor;
  bool bias = false;
  auto operator<=>(const Fp8Product&) const = default;
};

// Device memory at multiples of 16 bytes, and y's rows as well.
struct Fp8Operands {
  int64_t m = 0;            // up to kMostFp8Tokens
  const void* w = nullptr;  // [n, k]
  const void* w_scale = nullptr;
  const void* x = nullptr;  // [m, k]
  const void* x_scale = nullptr;
  void* y = nullptr;
  int64_t y_stride = 0;  // in elements
  const void* bias = nullptr;
};

inline constexpr int64_t kMostFp8Tokens = 16384;

// An algorithm is chosen for m that are alike: multiples of 16 up to 128, then four to each power of two. The
// largest of those that are like `m`.
constexpr int64_t like_tokens(int64_t m) {
  const int64_t step = m <= 128 ? 16 : static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(m - 1)) / 4);
  return (m + step - 1) / step * step;
}

// Chooses cuBLASLt's algorithms for every m on the current device, a few milliseconds on the host, and keeps
// them for the process; Error(kUnsupported) where it has none.
void plan_cublaslt_fp8(const Fp8Product& product);

// Queues the product on `stream` of the current device; plans it when plan_cublaslt_fp8() was not called. At
// least kCublasBytes of workspace.
void cublaslt_fp8_gemm(const Fp8Product& product, const Fp8Operands& operands, Scratch workspace,
                       Stream stream);

}  // namespace anyfp8
