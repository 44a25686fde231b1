#pragma once

#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/cublaslt_gemm_cuda.h"
#include "anyfp8/kernels/kernel.h"

// What the admission rules of the CUDA kernels share. Plain C++: built everywhere, so that the choice for
// any card is known, and tested, on machines without one.
namespace anyfp8 {

// The launch of a kernel's table: null in a build without CUDA, where its .cu file is not compiled.
#ifdef ANYFP8_HAVE_CUDA
#define ANYFP8_LAUNCH(function) (function)
#else
#define ANYFP8_LAUNCH(function) nullptr
#endif

inline constexpr ComputeCapability kTuring{7, 5};
inline constexpr ComputeCapability kAmpere{8, 0};
inline constexpr ComputeCapability kAda{8, 9};
inline constexpr ComputeCapability kHopper{9, 0};
// The newest that cuBLAS 13 was built for. PTX of our own runs on later cards; a library's kernels may not.
inline constexpr ComputeCapability kNewestOfCublas{12, 1};

inline constexpr DType kFloat8Types[] = {DType::kE4M3, DType::kE5M2};
inline constexpr DType kHalfTypes[] = {DType::kBF16, DType::kF16};
inline constexpr DType kScaleTypes[] = {DType::kF32, DType::kE8M0};

inline std::string capability_text(ComputeCapability cc) { return fmt::format("{}.{}", cc.major, cc.minor); }

// CUDA 13 dropped Volta and older.
inline Verdict cuda_supports(const Device& device) {
  ANYFP8_NEED(device.cc >= kTuring, "CUDA 13 builds for compute capability 7.5 and newer, this is {}",
              capability_text(device.cc));
  return Verdict::yes();
}

inline Verdict cublas_supports(const Device& device) {
  if (Verdict verdict = cuda_supports(device); !verdict) return verdict;
  ANYFP8_NEED(device.cc <= kNewestOfCublas, "cuBLAS 13 was built for compute capability up to {}, this is {}",
              capability_text(kNewestOfCublas), capability_text(device.cc));
  return Verdict::yes();
}

// Turing's tensor cores multiply fp16 only.
inline Verdict tensor_core_takes(DType in, const Device& device) {
  ANYFP8_NEED(in != DType::kBF16 || device.cc >= kAmpere,
              "bf16 tensor cores need compute capability 8.0, this is {}: run the model in fp16",
              capability_text(device.cc));
  return Verdict::yes();
}

// The fused W8A16 kernels (wgmma and mma.sync) dequantise in registers and share their rules: a scale is
// constant over two 16-wide steps of a product at least.
inline constexpr Group kFusedGroups[] = {kPerTensor, kPerRow, {kAnyExtent, 128}, kMx32};

inline Verdict check_fused_w8a16(const LinearConfig& config, const Device& device) {
  if (Verdict verdict = tensor_core_takes(config.in, device); !verdict) return verdict;
  constexpr int64_t kMost = int64_t{1} << 30;
  ANYFP8_NEED(config.n <= kMost && config.k <= kMost, "n = {} and k = {}: it counts up to {}", config.n,
              config.k, kMost);
  ANYFP8_NEED(config.in == config.out, "x is {} and y is {}: it writes the dtype it reads",
              dtype_name(config.in), dtype_name(config.out));
  return Verdict::yes();
}

}  // namespace anyfp8
