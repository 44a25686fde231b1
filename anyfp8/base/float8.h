#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

// Scalar conversions between fp32 and the narrow formats, exact by construction and the truth that the
// vector decoders are tested against. Formats: OCP 8-bit floating point specification (e4m3, e5m2),
// OCP microscaling specification (e8m0), IEEE 754 (fp16); bf16 is the upper half of an fp32.
namespace anyfp8 {

inline constexpr float kE4M3Max = 448.0f;
inline constexpr float kE5M2Max = 57344.0f;

constexpr float bf16_to_f32(uint16_t code) noexcept { return std::bit_cast<float>(uint32_t{code} << 16); }

// Round to nearest even; NaN stays NaN (quiet).
constexpr uint16_t f32_to_bf16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

constexpr float f16_to_f32(uint16_t code) noexcept {
  const uint32_t sign = uint32_t{code & 0x8000u} << 16;
  const uint32_t exponent = (code >> 10) & 0x1Fu;
  const uint32_t mantissa = code & 0x3FFu;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact in fp32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  const uint32_t wide = exponent == 31 ? 0x7F800000u : (exponent + 112u) << 23;
  return std::bit_cast<float>(sign | wide | (mantissa << 13));
}

// Round to nearest even; overflow gives infinity, NaN stays NaN.
inline uint16_t f32_to_f16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return sign | 0x7E00u;
  if (magnitude >= 0x47800000u) return sign | 0x7C00u;  // >= 65536
  if (magnitude < 0x38800000u) {                        // < 2^-14: subnormal, adding 0.5 aligns the mantissa
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(aligned) - 0x3F000000u);
  }
  const uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>((rounded - 0x38000000u) >> 13);
}

constexpr float e4m3_to_f32(uint8_t code) noexcept {
  const uint32_t exponent = (code >> 3) & 0xFu;
  const uint32_t mantissa = code & 0x7u;
  float magnitude;
  if (exponent == 0) {
    magnitude = static_cast<float>(mantissa) * 0x1p-9f;
  } else if (exponent == 15 && mantissa == 7) {
    magnitude = std::bit_cast<float>(0x7FC00000u);
  } else {
    magnitude = std::bit_cast<float>(((exponent + 120u) << 23) | (mantissa << 20));
  }
  return (code & 0x80u) ? -magnitude : magnitude;
}

// e5m2 is the upper byte of an fp16.
constexpr float e5m2_to_f32(uint8_t code) noexcept { return f16_to_f32(static_cast<uint16_t>(code << 8)); }

// 2^(code - 127); code 0 is the fp32 subnormal 2^-127, code 255 is NaN.
inline float e8m0_to_f32(uint8_t code) noexcept {
  if (code == 0) return 0x1p-127f;
  if (code == 255) return std::bit_cast<float>(0x7FC00000u);
  return std::bit_cast<float>(uint32_t{code} << 23);
}

// Round to nearest even after clamping to the largest finite value; NaN gives the NaN code. Two ways to
// let fp32 arithmetic do the rounding: for normal results add half a step (less one, plus the last kept
// bit) below the kept mantissa; for subnormals add the power of two whose last place is the code's step.
inline uint8_t f32_to_e4m3(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint8_t>(sign | 0x7Fu);
  const float magnitude = std::min(std::bit_cast<float>(bits & 0x7FFFFFFFu), kE4M3Max);
  const uint32_t m = std::bit_cast<uint32_t>(magnitude);
  const uint32_t normal = (m + 0x7FFFFu + ((m >> 20) & 1u) - (120u << 23)) >> 20;
  const uint32_t subnormal = std::bit_cast<uint32_t>(magnitude + 0x1p14f) - std::bit_cast<uint32_t>(0x1p14f);
  return static_cast<uint8_t>(sign | (magnitude < 0x1p-6f ? subnormal : normal));
}

inline uint8_t f32_to_e5m2(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint8_t>(sign | 0x7Fu);
  const float magnitude = std::min(std::bit_cast<float>(bits & 0x7FFFFFFFu), kE5M2Max);
  const uint32_t m = std::bit_cast<uint32_t>(magnitude);
  const uint32_t normal = (m + 0xFFFFFu + ((m >> 21) & 1u) - (112u << 23)) >> 21;
  const uint32_t subnormal = std::bit_cast<uint32_t>(magnitude + 0x1p7f) - std::bit_cast<uint32_t>(0x1p7f);
  return static_cast<uint8_t>(sign | (magnitude < 0x1p-14f ? subnormal : normal));
}

}  // namespace anyfp8
