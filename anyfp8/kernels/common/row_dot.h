#pragma once

#include <cstddef>
#include <cstdint>

#include "anyfp8/kernels/kernel.h"

// y = x · Wᵀ for 16- and 32-bit weights as they lie in the file, row-major: dot products along k in fp32. It
// gives each CPU kernel its lm_head, without a copy of what is often the embedding too. Here is what does not
// depend on the instruction set; each kernel brings a RowDotIsa, most of it from row_dot_tile.inc.
namespace anyfp8 {

// A step of the row loop takes this many rows of the weight: with 4, four lane sums reduce to one vector.
inline constexpr int kDotRows = 4;

// Tokens that share one decoding of the weight. 48 tokens of k = 4096 in fp32 are 768 KiB, which stay in an
// L2 of 1 MiB from one row step to the next.
inline constexpr int kDotTokens = 48;

// Rows of x in fp32 have this many elements after the last whole vector's end, and zeros up to it: a row
// can be read in whole vectors, and rows of a power of two do not meet in the same cache sets.
inline constexpr int64_t kDotPad = 16;

struct DotJob {
  const void* weight;  // [n, k]
  DType weight_dtype;
  int64_t k;
  const float* x;  // [m, k], readable and zero up to the next multiple of kDotPad
  int64_t x_stride;
};

struct RowDotIsa {
  // sums[t][r] = sum over k of x[token + t] * weight[row + r], in fp32, for t < tokens <= kDotTokens and
  // r < rows <= kDotRows; sums is [kDotTokens][kDotRows], and what it holds for r >= rows means nothing. The
  // order of summation depends on k alone.
  void (*dot)(const DotJob& job, int64_t token, int tokens, int64_t row, int rows, float* sums);
  // to[i] = from[i] as fp32, for f32, f16 and bf16; writes whole vectors of up to 16.
  void (*widen)(const void* from, DType dtype, int64_t count, float* to);
};

void apply_row_dot(const RowDotIsa& isa, const PlacedWeight& weight, const TensorView& x, const TensorView& y,
                   Scratch scratch);
size_t row_dot_workspace_bytes(const LinearConfig& config, int64_t m);

}  // namespace anyfp8
