#include "anyfp8/base/float8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace anyfp8 {
namespace {

// A narrow format by its definition, in double: value = (-1)^s 2^(e - bias) (1 + m / 2^bits), subnormals
// below.
struct Definition {
  int exponent_bits, mantissa_bits, bias;
  bool has_infinity;  // e4m3 has none: only all ones is NaN

  double value(unsigned code) const {
    const unsigned mantissa = code & ((1u << mantissa_bits) - 1);
    const unsigned top = (1u << exponent_bits) - 1, exponent = (code >> mantissa_bits) & top;
    const double sign = code >> (exponent_bits + mantissa_bits) ? -1 : 1;
    if (exponent == top && has_infinity) return mantissa == 0 ? sign * INFINITY : std::nan("");
    if (!has_infinity && exponent == top && mantissa == (1u << mantissa_bits) - 1) return std::nan("");
    const double fraction = std::ldexp(mantissa, -mantissa_bits);
    if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
    return sign * std::ldexp(1 + fraction, static_cast<int>(exponent) - bias);
  }
};
constexpr Definition kE4M3Definition{4, 3, 7, false};
constexpr Definition kE5M2Definition{5, 2, 15, true};
constexpr Definition kF16Definition{5, 10, 15, true};

void expect_same(float value, double truth, unsigned code) {
  if (std::isnan(truth)) {
    EXPECT_TRUE(std::isnan(value)) << code;
  } else {
    EXPECT_EQ(value, truth) << code;
    EXPECT_EQ(std::signbit(value), std::signbit(truth)) << code;  // -0 is not 0
  }
}

TEST(Float8, EveryCodeDecodesToItsDefinition) {
  for (unsigned code = 0; code < 256; ++code) {
    expect_same(e4m3_to_f32(static_cast<uint8_t>(code)), kE4M3Definition.value(code), code);
    expect_same(e5m2_to_f32(static_cast<uint8_t>(code)), kE5M2Definition.value(code), code);
    expect_same(e8m0_to_f32(static_cast<uint8_t>(code)),
                code == 255 ? std::nan("") : std::ldexp(1.0, static_cast<int>(code) - 127), code);
  }
  for (unsigned code = 0; code < 65536; ++code) {
    expect_same(f16_to_f32(static_cast<uint16_t>(code)), kF16Definition.value(code), code);
  }
}

TEST(Float8, EveryCodeComesBackFromItsValue) {
  for (unsigned code = 0; code < 256; ++code) {
    const uint8_t byte = static_cast<uint8_t>(code);
    if (const float value = e4m3_to_f32(byte); std::isfinite(value)) {
      EXPECT_EQ(f32_to_e4m3(value), byte);
    }
    if (const float value = e5m2_to_f32(byte); std::isfinite(value)) {
      EXPECT_EQ(f32_to_e5m2(value), byte);
    }
  }
  for (unsigned code = 0; code < 65536; ++code) {
    const uint16_t half = static_cast<uint16_t>(code);
    if (!std::isnan(f16_to_f32(half))) {
      EXPECT_EQ(f32_to_f16(f16_to_f32(half)), half);
    }
    if (!std::isnan(bf16_to_f32(half))) {
      EXPECT_EQ(f32_to_bf16(bf16_to_f32(half)), half);
    }
  }
}

// Between two neighbouring codes: just below the middle, the middle (to the even code), just above.
template <typename Encode, typename Decode>
void expect_nearest_even(Encode encode, Decode decode, unsigned last_code, unsigned sign) {
  for (unsigned code = 0; code < last_code; ++code) {
    const float low = decode(code), high = decode(code + 1);
    const float middle = static_cast<float>((static_cast<double>(low) + high) / 2);
    for (float s : {1.0f, -1.0f}) {
      const unsigned bit = s < 0 ? sign : 0;
      EXPECT_EQ(encode(s * middle), bit | (code % 2 == 0 ? code : code + 1)) << middle;
      EXPECT_EQ(encode(s * std::nextafter(middle, 0.0f)), bit | code) << middle;
      EXPECT_EQ(encode(s * std::nextafter(middle, INFINITY)), bit | (code + 1)) << middle;
    }
  }
}

TEST(Float8, RoundsToNearestEvenEverywhere) {
  expect_nearest_even([](float v) { return unsigned{f32_to_e4m3(v)}; },
                      [](unsigned c) { return e4m3_to_f32(static_cast<uint8_t>(c)); }, 0x7E, 0x80);
  expect_nearest_even([](float v) { return unsigned{f32_to_e5m2(v)}; },
                      [](unsigned c) { return e5m2_to_f32(static_cast<uint8_t>(c)); }, 0x7B, 0x80);
  expect_nearest_even([](float v) { return unsigned{f32_to_f16(v)}; },
                      [](unsigned c) { return f16_to_f32(static_cast<uint16_t>(c)); }, 0x7BFF, 0x8000);
  expect_nearest_even([](float v) { return unsigned{f32_to_bf16(v)}; },
                      [](unsigned c) { return bf16_to_f32(static_cast<uint16_t>(c)); }, 0x7F7F, 0x8000);
}

TEST(Float8, SaturatesAndKeepsNaN) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  for (float large : {449.0f, 1e30f, infinity}) {
    EXPECT_EQ(f32_to_e4m3(large), 0x7E);
    EXPECT_EQ(f32_to_e4m3(-large), 0xFE);
  }
  for (float large : {60000.0f, 1e30f, infinity}) {
    EXPECT_EQ(f32_to_e5m2(large), 0x7B);
    EXPECT_EQ(f32_to_e5m2(-large), 0xFB);
  }
  EXPECT_TRUE(std::isnan(e4m3_to_f32(f32_to_e4m3(nan))));
  EXPECT_TRUE(std::isnan(e5m2_to_f32(f32_to_e5m2(nan))));
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(nan))));
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7F800001u)))));
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7C00);  // the middle above the largest rounds to infinity
  EXPECT_EQ(f32_to_f16(65519.0f), 0x7BFF);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7F80);
}

}  // namespace
}  // namespace anyfp8
