#include "anyfp8/kernels/common/mx_factor.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "anyfp8/base/float8.h"

namespace anyfp8::tile {
namespace {

struct Case {
  Half half;
  Code code;
  MxRule rule = MxRule::of(half, code);
};
const Case kCases[] = {{Half::kBF16, Code::kE4M3},
                       {Half::kBF16, Code::kE5M2},
                       {Half::kF16, Code::kE4M3},
                       {Half::kF16, Code::kE5M2}};

int base_under(const MxRule& rule, int largest) {
  return rule.base(std::bit_cast<uint32_t>(std::ldexp(1.0f, largest)));
}

// The finite numbers of a code, without sign.
double number_of(Code code, int magnitude) {
  const auto byte = static_cast<uint8_t>(magnitude);
  return code == Code::kE4M3 ? e4m3_to_f32(byte) : e5m2_to_f32(byte);
}
int count_of(Code code) { return code == Code::kE4M3 ? 0x7F : 0x7C; }

double rounded(Half half, double value) {
  const auto single = static_cast<float>(value);
  return half == Half::kBF16 ? bf16_to_f32(f32_to_bf16(single)) : f16_to_f32(f32_to_f16(single));
}

bool all_codes_are_exact(const Case& c, int scale) {
  for (int magnitude = 0; magnitude < count_of(c.code); ++magnitude) {
    const double weight = std::ldexp(number_of(c.code, magnitude), scale);
    if (rounded(c.half, weight) != weight) return false;
  }
  return true;
}

TEST(MxFactor, CodesTimesScalesFromBottomToTopAreNumbersOfTheir16BitType) {
  for (const Case& c : kCases) {
    for (int scale = c.rule.bottom; scale <= c.rule.top; ++scale) {
      EXPECT_TRUE(all_codes_are_exact(c, scale)) << "2^" << scale << ", power " << c.rule.power;
    }
    EXPECT_FALSE(all_codes_are_exact(c, c.rule.bottom - 1)) << "power " << c.rule.power;
    // Above the top the number or its factor is too large.
    const int largest_exponent = c.half == Half::kBF16 ? 254 : 30;
    EXPECT_TRUE(c.rule.exponent(c.rule.top + 1) > largest_exponent ||
                !all_codes_are_exact(c, c.rule.top + 1));
  }
}

// Of bf16 for every scale down to 2^-127 whatever the largest; of fp16 where it is exact.
TEST(MxFactor, OffsetMakesOfAScalesCodeTheExponentOfItsFactor) {
  for (const Case& c : kCases) {
    for (int largest = -127; largest <= 127; ++largest) {
      const int base = base_under(c.rule, largest);
      for (int scale = -127; scale <= largest; ++scale) {
        const int relative = scale - base, byte = (scale + 127 + c.rule.offset(base)) % 256;
        const bool exact = relative >= c.rule.bottom && relative <= c.rule.top;
        const bool in_range = byte >= c.rule.exponent(c.rule.bottom) && byte <= c.rule.exponent(c.rule.top);
        EXPECT_EQ(in_range, exact) << "2^" << scale << " under 2^" << largest << ", power " << c.rule.power;
        if (exact || c.half == Half::kBF16) {
          EXPECT_EQ(byte, c.rule.exponent(relative)) << "2^" << scale << " under 2^" << largest;
        }
        // From the byte the kernel finds the scale again.
        EXPECT_EQ(((byte - c.rule.offset(base)) & 0xFF) - c.rule.neutral(base), relative);
      }
    }
  }
}

TEST(MxFactor, TheLargestScaleOfAModelIsInRange) {
  for (const Case& c : kCases) {
    const bool bf16 = c.half == Half::kBF16;
    for (int largest = -60; largest <= (bf16 ? 127 : 15 + c.rule.top); ++largest) {
      EXPECT_LE(largest - base_under(c.rule, largest), c.rule.top) << "2^" << largest;
      EXPECT_GE(largest - base_under(c.rule, largest), c.rule.bottom) << "2^" << largest;
    }
  }
  EXPECT_EQ(base_under(MxRule::of(Half::kBF16, Code::kE4M3), 7), 0) << "bf16 weights stay as they are";
}

// Up to 2^80 down and 2^70 up: the scale is what factor and shift make together. Beyond, the factor ends
// where it is nothing, or so large that y is infinite.
TEST(MxFactor, ShiftAndFactorMakeTheScaleTogether) {
  for (const Case& c : kCases) {
    if (c.half != Half::kF16) continue;
    for (int scale = -254; scale <= 254; ++scale) {
      const int shift = c.rule.shift(scale), exponent = c.rule.shifted_exponent(scale);
      EXPECT_TRUE(exponent >= 0 && exponent <= 30) << scale;
      if (scale >= -80 && scale <= 70) {
        EXPECT_EQ(exponent, c.rule.exponent(scale + shift)) << scale;
        EXPECT_TRUE(all_codes_are_exact(c, scale + shift)) << scale;
        EXPECT_EQ(shift == 0, scale == 0 || (scale >= c.rule.bottom && scale <= c.rule.top)) << scale;
      } else {
        EXPECT_TRUE(std::abs(shift) >= 70) << scale;
      }
    }
  }
}

}  // namespace
}  // namespace anyfp8::tile
