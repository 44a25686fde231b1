#include "anyfp8/kernels/cuda_dequant_w8a16/slab_power.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

namespace anyfp8 {
namespace {

float power_for(DType weight, float max_scale) {
  return std::bit_cast<float>(bits_of_power(slab_power(weight, std::bit_cast<uint32_t>(max_scale))));
}

TEST(SlabPower, TheLargestWeightIsJustInsideFp16) {
  for (const DType weight : {DType::kE4M3, DType::kE5M2}) {
    const double largest_code = weight == DType::kE4M3 ? 448 : 57344;
    for (int exponent = -120; exponent < 120; ++exponent) {
      for (const double mantissa : {1.0, 1.3, 2 - 0x1p-23}) {
        const auto scale = static_cast<float>(std::ldexp(mantissa, exponent));
        const double weight_in_slab = largest_code * scale * power_for(weight, scale);
        EXPECT_GE(weight_in_slab, 28672) << scale;
        EXPECT_LT(weight_in_slab, 57344) << scale;
      }
    }
  }
}

TEST(SlabPower, NothingOfE4M3IsLostUnderScalesDownToAThousandthOfTheLargest) {
  constexpr double kSmallestCode = 0x1p-9, kSmallestNormal = 0x1p-14;
  for (const float largest : {1e-7f, 1.0f, 1.99f, 2.0f, 3e4f}) {
    EXPECT_GE(kSmallestCode * largest * 0x1p-11 * power_for(DType::kE4M3, largest), kSmallestNormal);
  }
}

TEST(SlabPower, AndItsInverseAreNormalWhateverTheScale) {
  for (const DType weight : {DType::kE4M3, DType::kE5M2}) {
    for (const float scale : {0.0f, 0x1p-149f, 0x1p-127f, 1.0f, 3.4e38f}) {
      const int p = slab_power(weight, std::bit_cast<uint32_t>(scale));
      for (const int power : {p, -p}) {
        EXPECT_EQ(std::bit_cast<float>(bits_of_power(power)), std::ldexp(1.0f, power)) << scale;
        EXPECT_TRUE(std::isnormal(std::bit_cast<float>(bits_of_power(power)))) << scale;
      }
    }
  }
}

}  // namespace
}  // namespace anyfp8
