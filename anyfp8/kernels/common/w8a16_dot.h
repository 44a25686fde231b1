#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "anyfp8/kernels/kernel.h"

// The CPU kernels that read row-major weights as they lie in the file: y = x · Wᵀ as dot products along k,
// with the weight decoded to fp32 in registers. Here is what does not depend on the instruction set; each
// kernel brings a DotIsa, most of it from w8a16_dot_tile.inc.
namespace anyfp8 {

// A step of the row loop takes this many rows of the weight: with 4, four lane sums reduce to one vector.
inline constexpr int kDotRows = 4;

// Tokens that share one decoding of the weight. 48 tokens of k = 4096 in fp32 are 768 KiB, which stay in an
// L2 of 1 MiB from one row step to the next.
inline constexpr int kDotTokens = 48;

// Rows of x in fp32 have this many elements after the last whole vector's end, and zeros up to it: a row
// can be read in whole vectors, and rows of a power of two do not meet in the same cache sets.
inline constexpr int64_t kDotPad = 16;

// The decoders give value * 2^-8 for e4m3, see w8a16_dot_tile.inc.
inline constexpr double kE4M3Unit = 256;

struct DotJob {
  const void* weight;  // [n, k]
  DType weight_dtype;
  int64_t k;
  const void* scale;  // [grid.rows, grid_cols] when scales change along k, else null
  bool scale_is_e8m0;
  Group group;
  int64_t grid_cols;
  const float* x;  // [m, k], readable and zero up to the next multiple of kDotPad
  int64_t x_stride;
};

struct DotIsa {
  // sums[t][r] = sum over k of x[token + t] * weight[row + r] (times its scale where job.scale is given), in
  // fp32, for t < tokens <= kDotTokens and r < rows <= kDotRows; sums is [kDotTokens][kDotRows], and what it
  // holds for r >= rows means nothing. The order of summation depends on k alone.
  void (*dot)(const DotJob& job, int64_t token, int tokens, int64_t row, int rows, float* sums);
  // to[i] = from[i] as fp32, for f32, f16 and bf16.
  void (*widen)(const void* from, DType dtype, int64_t count, float* to);
};

void apply_dot(const DotIsa& isa, const PlacedWeight& weight, const TensorView& x, const TensorView& y,
               Scratch scratch);

// Kernel::workspace_bytes of these kernels.
size_t dot_workspace_bytes(const LinearConfig& config, const Device& device, int64_t m);

// The lists these kernels share.
inline constexpr DType kDotWeightDtypes[] = {DType::kE4M3, DType::kE5M2, DType::kBF16, DType::kF16,
                                             DType::kF32};
inline constexpr Group kDotGroups[] = {{kAnyExtent, kAnyExtent}};
inline constexpr DType kDotScaleDtypes[] = {DType::kF32, DType::kE8M0};
inline constexpr DType kDotInOutDtypes[] = {DType::kF32, DType::kBF16, DType::kF16};

}  // namespace anyfp8
