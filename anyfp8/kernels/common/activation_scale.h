#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "anyfp8/base/float8.h"
#include "anyfp8/kernels/common/k64_shuffle.h"  // ANYFP8_HOST_DEVICE
#include "anyfp8/scheme/quant_scheme.h"

// What quantising activations means: once, for the CPU, for CUDA kernels and for tests. With s the scale of
// the group that x belongs to (tensor, token, or 128 of a token),
//
//   stored    s = the checkpoint's
//   dynamic   s = max(min(amax, upper bound) / largest code, kActivationScaleFloor)
//             and of scales that are e8m0 (MX) the least power of two that is not below: nothing is clamped,
//             which the OCP specification's own example, the power of two below amax, does to the largest
//   code    = round to nearest even of clamp(x / s, +- largest code),   x ~ code * s
//
// each step one fp32 operation. For finite x that is torch's
// `(x.float() / s).clamp(-448, 448).to(float8_e4m3fn)`, bit for bit; torch's cast alone does not clamp.
//
// amax is the largest |x| of the group that is finite, 0 where none is: what one token has of infinities and
// NaN shall not spoil the scale of others. They spoil y of their own token, and that alone:
//   NaN         the NaN code
//   infinity    the NaN code; but under a stored scale or an upper bound, where clamping is what the
//               checkpoint asks for, it is clamped as torch does
// A group of zeros has the scale kActivationScaleFloor and codes of zero (of x's sign).
namespace anyfp8 {

// It only has to keep x / s from being 0 / 0: a group keeps all its bits down to amax = 4e-22, and with that
// 1 / s and what the CUDA kernels make of it (quantize_activation.cu) stay normal numbers.
inline constexpr float kActivationScaleFloor = 0x1p-80f;

// No upper bound.
inline constexpr float kNoUpperBound = std::numeric_limits<float>::infinity();

ANYFP8_HOST_DEVICE constexpr float largest_code(DType codes) {
  return codes == DType::kE4M3 ? kE4M3Max : kE5M2Max;
}

// x / scale as far as its code goes (activation_scale_test.cpp), without dividing: the product with
// `inverse`, 1 / scale to one unit in the last place, and one correction by what is missing. For scales in
// [2^-80, 2^120], where nothing on the way is subnormal. A NaN comes through, and so does the sign of zero;
// infinity becomes NaN, and so would x / scale beyond the range of fp32.
inline constexpr float kFastScaleEnd = 0x1p120f;
ANYFP8_HOST_DEVICE inline float fast_quotient(float x, float scale, float inverse) {
  const float rough = x * inverse;
  return std::fma(-std::fma(rough, scale, -x), inverse, rough);
}

// The same for any x: what is beyond `limit`, 2 * largest_code(), is any number beyond largest_code().
ANYFP8_HOST_DEVICE inline float fast_clamped_quotient(float x, float scale, float inverse, float limit) {
  const float rough = std::fmin(std::fmax(x * inverse, -limit), limit);
  return std::fma(-std::fma(rough, scale, -x), inverse, rough);
}

// The least power of two that is not below `scale`, a normal number up to 2^127.
ANYFP8_HOST_DEVICE inline float power_of_two_from(float scale) {
  uint32_t bits;
  memcpy(&bits, &scale, sizeof(bits));
  bits = (bits + 0x7FFFFF) & 0x7F800000;
  memcpy(&scale, &bits, sizeof(bits));
  return scale;
}

// The scale of a group whose largest finite |x| is `amax`; `scales` is f32 or e8m0.
ANYFP8_HOST_DEVICE inline float activation_scale(float amax, float upper_bound, DType codes,
                                                 DType scales = DType::kF32) {
  const float largest = largest_code(codes);
  const float quotient = fast_quotient(amax < upper_bound ? amax : upper_bound, largest, 1 / largest);
  const float scale = quotient > kActivationScaleFloor ? quotient : kActivationScaleFloor;
  return scales == DType::kE8M0 ? power_of_two_from(scale) : scale;
}

// Whether an infinite x is clamped like any other that is too large.
ANYFP8_HOST_DEVICE constexpr bool clamps_infinity(ScaleSource source, bool has_upper_bound) {
  return source == ScaleSource::kStored || has_upper_bound;
}

// On the host: the code of x under `scale`.
inline uint8_t activation_code(float x, float scale, DType codes, bool clamps_infinities) {
  const float quotient = std::isinf(x) && !clamps_infinities ? NAN : x / scale;
  return codes == DType::kE4M3 ? f32_to_e4m3(quotient) : f32_to_e5m2(quotient);
}

}  // namespace anyfp8
