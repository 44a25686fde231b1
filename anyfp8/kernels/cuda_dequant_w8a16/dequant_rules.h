#pragma once

#include "anyfp8/kernels/common/cuda_admission.h"
#include "anyfp8/kernels/cuda_dequant_w8a16/slab_split.h"

// Which layers cuda_dequant_w8a16 takes: for itself, and for the fused kernel that leaves it the large m.
namespace anyfp8 {

inline constexpr int64_t kMostWithBias = int64_t{kCublasBytes} / 4;  // leaves cuBLASLt half of its part

// From so many tokens on it serves e5m2 wherever it serves e4m3 at all: there the fused kernels have no tiles
// of more than 32 tokens, so beyond 128 they decode each weight five times and more. An estimate: not
// measured.
inline constexpr int64_t kFirstOfE5M2 = 129;

inline Verdict check_dequant_w8a16(const LinearConfig& config, const Device& device) {
  const DType weight = config.scheme.weight.dtype;
  if (Verdict verdict = tensor_core_takes(config.in, device); !verdict) return verdict;
  ANYFP8_NEED(config.in == config.out, "x is {} and y is {}: cuBLASLt writes the dtype it reads here",
              dtype_name(config.in), dtype_name(config.out));
  ANYFP8_NEED(is_float8(weight) || weight == config.in, "weights are {} and x is {}: both must be the same",
              dtype_name(weight), dtype_name(config.in));
  // Rows of x, y and the slab start at multiples of 16 bytes, which cuBLASLt's fast kernels need.
  ANYFP8_NEED(config.k % 8 == 0, "k = {} is not a multiple of 8: 16-bit rows of x need 16-byte alignment",
              config.k);
  ANYFP8_NEED(config.n % 8 == 0, "n = {} is not a multiple of 8: 16-bit rows of y need 16-byte alignment",
              config.n);
  ANYFP8_NEED(!is_float8(weight) || slab_rows(config.n, config.k) > 0,
              "k = {}: {} dequantised rows do not fit its {} MiB of scratch", config.k, kSlabGranule,
              kSlabBytes >> 20);
  ANYFP8_NEED(!is_float8(weight) || !config.bias || config.n <= kMostWithBias,
              "n = {}: a bias has room for {} outputs in its scratch", config.n, kMostWithBias);
  return Verdict::yes();
}

}  // namespace anyfp8
