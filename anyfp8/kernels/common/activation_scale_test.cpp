#include "anyfp8/kernels/common/activation_scale.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace anyfp8 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr DType kCodes[] = {DType::kE4M3, DType::kE5M2};

TEST(ActivationScale, IsTheLargestOverTheLargestCodeAndNeverBelowTheFloor) {
  EXPECT_EQ(activation_scale(448, kNoUpperBound, DType::kE4M3), 1);
  EXPECT_EQ(activation_scale(3, kNoUpperBound, DType::kE4M3), 3.0f / 448);
  EXPECT_EQ(activation_scale(3, kNoUpperBound, DType::kE5M2), 3.0f / 57344);
  EXPECT_EQ(activation_scale(3, 2, DType::kE4M3), 2.0f / 448);
  for (const float amax : {0.0f, 0x1p-149f, 0x1p-73f}) {
    EXPECT_EQ(activation_scale(amax, kNoUpperBound, DType::kE4M3), kActivationScaleFloor) << amax;
  }
  EXPECT_EQ(activation_scale(3, 0, DType::kE4M3), kActivationScaleFloor);
  EXPECT_LT(activation_scale(std::numeric_limits<float>::max(), kNoUpperBound, DType::kE4M3), kFastScaleEnd);
}

// e8m0: no element is beyond the largest code, and under half the scale the largest would be.
TEST(ActivationScale, OfMxIsTheLeastPowerOfTwoThatClampsNothing) {
  const auto scale = [](float amax, DType codes = DType::kE4M3) {
    return activation_scale(amax, kNoUpperBound, codes, DType::kE8M0);
  };
  EXPECT_EQ(scale(448), 1);
  EXPECT_EQ(scale(449), 2);
  EXPECT_EQ(scale(256), 1) << "512 is no code";
  EXPECT_EQ(scale(224), 0.5f);
  EXPECT_EQ(scale(57344, DType::kE5M2), 1);
  EXPECT_EQ(scale(0), kActivationScaleFloor);
  EXPECT_EQ(activation_scale(1e6f, 448, DType::kE4M3, DType::kE8M0), 1);
  for (const DType codes : kCodes) {
    for (uint32_t bits = 0; bits < 0x7F80; ++bits) {
      const float amax = bf16_to_f32(static_cast<uint16_t>(bits)), s = scale(amax, codes);
      int exponent;
      ASSERT_EQ(std::frexp(s, &exponent), 0.5f);
      ASSERT_LE(amax, largest_code(codes) * s) << amax;
      if (s > kActivationScaleFloor) {
        ASSERT_GT(amax, largest_code(codes) * (s / 2)) << amax;
      }
      ASSERT_LE(s, kFastScaleEnd);
    }
  }
}

TEST(ActivationCode, ClampsRoundsToEvenAndKeepsNaN) {
  const auto e4m3 = [](float x, float scale, bool clamps = true) {
    return int{activation_code(x, scale, DType::kE4M3, clamps)};
  };
  EXPECT_EQ(e4m3(500, 1), 0x7E);
  EXPECT_EQ(e4m3(-1e38f, 0x1p-60f), 0xFE) << "x / scale is infinite";
  EXPECT_EQ(e4m3(17, 1), 0x58) << "a tie between 16 and 18";
  EXPECT_EQ(e4m3(19, 1), 0x5A) << "a tie between 18 and 20";
  EXPECT_EQ(e4m3(-0.0f, 1), 0x80);
  EXPECT_EQ(e4m3(NAN, 1) & 0x7F, 0x7F);
  EXPECT_EQ(e4m3(kInfinity, 1, true), 0x7E);
  EXPECT_EQ(e4m3(kInfinity, 1, false) & 0x7F, 0x7F);
  EXPECT_EQ(int{activation_code(1e9f, 1, DType::kE5M2, true)}, 0x7B) << "57344, not infinity";
}

// FNV-1a of the codes of every bf16 and every fp16 under eight scales; torch 2.11 gives the same codes on the
// CPU and on an H200: (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn), its NaN codes as 0x7F.
TEST(ActivationCode, IsThatOfTorch) {
  uint64_t hash = 14695981039346656037u;
  for (const uint32_t bits : {0x3F800000u, 0x3B124925u, 0x3C4985F0u, 0x40400000u, 0x2B8CBCCCu, 0x501502F9u,
                              0x17800000u, 0x00000001u}) {
    for (const auto to_f32 : {bf16_to_f32, f16_to_f32}) {
      for (uint32_t i = 0; i < 0x10000; ++i) {
        uint8_t code =
            activation_code(to_f32(static_cast<uint16_t>(i)), std::bit_cast<float>(bits), DType::kE4M3, true);
        if ((code & 0x7F) == 0x7F) code = 0x7F;
        hash = (hash ^ code) * 1099511628211u;
      }
    }
  }
  EXPECT_EQ(hash, 17058671999251383465u);
}

uint8_t fast_code(float x, float scale, DType codes, bool clamps) {
  const float quotient = clamps ? fast_clamped_quotient(x, scale, 1 / scale, 2 * largest_code(codes))
                                : fast_quotient(x, scale, 1 / scale);
  return codes == DType::kE4M3 ? f32_to_e4m3(quotient) : f32_to_e5m2(quotient);
}

// An error of the quotient shows only beside the border between two codes, a number of 5 significant bits.
// For each of these and each significand of x, the scales that bring x / scale nearest to it from both sides:
// the quotient of any other scale is 2^-24 of its size further away, and the error is below 2^-40 of it.
TEST(FastQuotient, HasTheCodeOfTheQuotientForEveryX) {
  for (const DType codes : kCodes) {
    for (uint32_t significand = 1024; significand < 2048; ++significand) {  // of fp16; bf16 has fewer bits
      for (int border = 16; border < 32; ++border) {
        for (const int exponent : {-14, -9, -3, 0, 4}) {
          const double target = std::ldexp(border, exponent);
          for (const int x_exponent : {-30, -10, 5}) {
            const auto x = static_cast<float>(std::ldexp(significand, x_exponent));
            const auto nearest = static_cast<float>(x / target);
            float scale = std::nextafter(std::nextafter(nearest, 0.0f), 0.0f);
            for (int step = 0; step < 5; ++step, scale = std::nextafter(scale, kInfinity)) {
              for (const float signed_x : {x, -x}) {
                const uint8_t exact = activation_code(signed_x, scale, codes, true);
                for (const bool clamps : {true, false})
                  ASSERT_EQ(fast_code(signed_x, scale, codes, clamps), exact) << signed_x << " / " << scale;
              }
            }
          }
        }
      }
    }
  }
}

TEST(FastQuotient, HoldsAtTheEndsOfItsRangeForEveryBf16) {
  const std::vector<float> scales = {
      kActivationScaleFloor, 1.7f * kActivationScaleFloor, 1e-10f, 0.013f, 1.0f / 448, 3e20f, kFastScaleEnd};
  for (const DType codes : kCodes) {
    for (const float scale : scales) {
      for (const bool clamps : {true, false}) {
        for (uint32_t bits = 0; bits < 0x10000; ++bits) {
          const float x = bf16_to_f32(static_cast<uint16_t>(bits));
          // Without clamping x is no larger than what the scale was made from, or infinite.
          if (!clamps && std::isfinite(x) && std::fabs(x) > largest_code(codes) * scale) continue;
          const int exact = activation_code(x, scale, codes, clamps);
          const bool is_nan = (exact & 0x7F) == 0x7F;
          const int fast = fast_code(x, scale, codes, clamps);
          ASSERT_EQ(is_nan ? fast & 0x7F : fast, is_nan ? 0x7F : exact) << x << " / " << scale;
        }
      }
    }
  }
}

}  // namespace
}  // namespace anyfp8
