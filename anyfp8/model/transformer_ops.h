#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

#include "anyfp8/base/tensor.h"

namespace anyfp8 {

// e^x, without branches so that loops over it become SIMD; relative error below 2^-22. Below -87 the result
// is e^-87 (1.6e-38) instead of a subnormal, above 88 it is e^88; NaN stays NaN.
inline float exp_fast(float x) noexcept {
  const float limited = std::min(std::max(x, -87.0f), 88.0f);  // in this order a NaN passes
  // Adding 1.5 * 2^23 rounds to an integer n, and leaves n in the low bits of the sum.
  const float shifted = limited * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (limited - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts; |r| <= ln 2 / 2
  // Taylor to r^7: the next term is below 2^-27.
  float sum = 1.0f / 5040;
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const float power = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000u);  // 2^n
  return sum * power;
}

// The operations work on one row of f32; x and y may be the same row.

// y = x / sqrt(mean(x^2) + eps) * weight
void rms_norm(const float* x, const float* weight, float eps, int64_t size, float* y) noexcept;

// gate = silu(gate) * up, where silu(g) = g / (1 + e^-g)
void silu_times(float* gate, const float* up, int64_t size) noexcept;

// y += x
void add_to(float* y, const float* x, int64_t size) noexcept;

// Elements [first, first + out.size()) of an f32, bf16 or f16 tensor, which need not be aligned.
void widen(const HostTensor& tensor, int64_t first, std::span<float> out) noexcept;

// x as bf16 or f16, round to nearest even.
void narrow(std::span<const float> x, DType dtype, uint16_t* out) noexcept;

}  // namespace anyfp8
