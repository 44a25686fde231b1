#include "anyfp8/kernels/common/mx_factor.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "anyfp8/base/float8.h"

namespace anyfp8 {
namespace {

constexpr int kPowers[] = {kMxPowerOfE4M3, kMxPowerOfE5M2};

uint32_t bits_of_scale(int e) { return std::bit_cast<uint32_t>(std::ldexp(1.0f, e - 127)); }

// The factor that four equal scales get, as fp32; all four must be the same.
float factor_of(int power, int base, int e) {
  const uint32_t exponents = static_cast<uint32_t>(e) * 0x01010101u + mx_exponents(power, base);
  const uint32_t first = exponents & 0xFF;
  EXPECT_EQ(exponents, first * 0x01010101u) << "something was carried: scale " << e << ", base " << base;
  EXPECT_LE(first, 254u) << "infinite: scale " << e << ", base " << base;
  return std::bit_cast<float>(first << 23);
}

TEST(MxFactor, IsThePowerOfDecodingTimesTheScaleWhateverTheLargestIs) {
  for (const int power : kPowers) {
    for (int largest = 0; largest <= 254; ++largest) {
      const int base = mx_base(power, bits_of_scale(largest));
      for (int e = 0; e <= largest; ++e) {
        const double wanted = std::ldexp(1.0, power + e - 127 - base);
        EXPECT_EQ(factor_of(power, base, e), wanted < 0x1p-126 ? 0 : wanted) << e << " of " << largest;
      }
    }
  }
}

TEST(MxFactor, LeavesScalesOfRealModelsAsTheyAre) {
  EXPECT_EQ(mx_base(kMxPowerOfE4M3, bits_of_scale(127 + 7)), 0);
  EXPECT_EQ(mx_base(kMxPowerOfE4M3, bits_of_scale(127 + 8)), 1);
  EXPECT_EQ(mx_base(kMxPowerOfE5M2, bits_of_scale(127 + 15)), 0);
  EXPECT_EQ(mx_base(kMxPowerOfE4M3, 0), 0);
}

// Under the next smaller scale not every one is.
TEST(MxFactor, CodesUnderScalesDownTo2ToTheMinus124AreBf16Numbers) {
  for (const int power : kPowers) {
    const bool e4m3 = power == kMxPowerOfE4M3;
    const int least = e4m3 ? -124 : -117;
    for (int exponent = least - 1; exponent <= 127 - power; ++exponent) {
      bool exact = true;
      for (int code = 0; code < (e4m3 ? 0x7F : 0x7C); ++code) {
        const auto byte = static_cast<uint8_t>(code);
        const double weight = std::ldexp(e4m3 ? e4m3_to_f32(byte) : e5m2_to_f32(byte), exponent);
        exact &= bf16_to_f32(f32_to_bf16(static_cast<float>(weight))) == weight;
      }
      EXPECT_EQ(exact, exponent >= least) << "scale 2^" << exponent << ", power " << power;
    }
  }
}

}  // namespace
}  // namespace anyfp8
