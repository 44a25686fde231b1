#include "anyfp8/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace anyfp8 {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kHalfUlp = 0x1p-24;  // a double rounded to fp32 once

double plain_frequency(double theta, int64_t head_dim, int64_t pair) {
  return 1.0 / std::pow(theta, 2.0 * static_cast<double>(pair) / static_cast<double>(head_dim));
}

TEST(Rope, DefaultAndLinearFrequencies) {
  const std::vector<float> plain = rope_frequencies({.theta = 1e6}, 128);
  const std::vector<float> linear =
      rope_frequencies({.type = RopeType::kLinear, .theta = 1e6, .factor = 2.5}, 128);
  ASSERT_EQ(plain.size(), 64u);
  for (size_t i = 0; i < plain.size(); ++i) {
    const double expected = plain_frequency(1e6, 128, static_cast<int64_t>(i));
    EXPECT_NEAR(plain[i] / expected, 1.0, 2 * kHalfUlp) << i;
    EXPECT_NEAR(linear[i] / (expected / 2.5), 1.0, 2 * kHalfUlp) << i;
  }
}

TEST(Rope, Llama3KeepsFastStretchesSlowAndBlendsBetween) {
  // Llama 3.1: 8192 positions made 8 times longer.
  const RopeConfig rope{.type = RopeType::kLlama3,
                        .theta = 500000,
                        .factor = 8,
                        .original_positions = 8192,
                        .low_freq_factor = 1,
                        .high_freq_factor = 4};
  const std::vector<float> got = rope_frequencies(rope, 128);
  int kept = 0, stretched = 0, blended = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double plain = plain_frequency(500000, 128, static_cast<int64_t>(i));
    const double turns = 8192 * plain / (2 * kPi);  // over the original context
    double expected = plain;
    if (turns > 4) {
      ++kept;
    } else if (turns < 1) {
      expected = plain / 8;
      ++stretched;
    } else {
      const double smooth = (turns - 1) / (4 - 1);
      expected = plain * (smooth + (1 - smooth) / 8);
      ++blended;
    }
    EXPECT_NEAR(got[i] / expected, 1.0, 2 * kHalfUlp) << i;
  }
  // ln(8192 / (2 pi)) / ln(500000) * 64 = 34.99: pairs 0..28 make more than 4 turns, 35.. fewer than one.
  EXPECT_EQ(kept, 29);
  EXPECT_EQ(blended, 6);
  EXPECT_EQ(stretched, 29);
}

TEST(Rope, YarnRampHasWholeEndsUnlessToldOtherwise) {
  // Qwen's recipe: 32768 positions made 4 times longer. The ends of the ramp are the dimensions that turn 32
  // times and once: 64 * ln(32768 / (32 * 2 pi)) / ln(1e6) = 23.6 and 64 * ln(32768 / (2 pi)) / ln(1e6)
  // = 39.65.
  RopeConfig rope{.type = RopeType::kYarn, .theta = 1e6, .factor = 4, .original_positions = 32768};
  const auto expect = [&](double low, double high) {
    const std::vector<float> got = rope_frequencies(rope, 128);
    for (size_t i = 0; i < got.size(); ++i) {
      const double plain = plain_frequency(1e6, 128, static_cast<int64_t>(i));
      double share = (static_cast<double>(i) - low) / (high - low);
      if (share < 0) share = 0;
      if (share > 1) share = 1;
      EXPECT_NEAR(got[i] / (plain * (1 - share) + plain / 4 * share), 1.0, 2 * kHalfUlp) << i;
    }
  };
  expect(23, 40);
  rope.truncate = false;
  expect(64 * std::log(32768 / (32 * 2 * kPi)) / std::log(1e6),
         64 * std::log(32768 / (2 * kPi)) / std::log(1e6));
}

TEST(Rope, YarnRampThatIsAStepStaysFinite) {
  // A context so short that both ends fall on pair 0.
  const RopeConfig rope{.type = RopeType::kYarn, .theta = 1e4, .factor = 2, .original_positions = 4};
  for (const float frequency : rope_frequencies(rope, 16)) EXPECT_TRUE(std::isfinite(frequency));
}

TEST(Rope, TableHasTheAnglesOfItsPositions) {
  const RopeConfig rope{
      .type = RopeType::kYarn, .theta = 100, .factor = 1, .original_positions = 64, .attention_factor = 1.5};
  const std::vector<float> frequencies = rope_frequencies(rope, 6);
  RopeTable table;
  fill_rope_table(rope, frequencies, 7, 3, table);
  ASSERT_EQ(table.cos.size(), 9u);
  for (size_t i = 0; i < 9; ++i) {
    const size_t row = i / 3;
    const double angle = (7.0 + static_cast<double>(row)) * frequencies[i % 3];
    // The angle is rounded to fp32 (below 16), the function and the product once each.
    EXPECT_NEAR(table.cos[i], 1.5 * std::cos(angle), 1.5 * (16 + 2) * kHalfUlp) << i;
    EXPECT_NEAR(table.sin[i], 1.5 * std::sin(angle), 1.5 * (16 + 2) * kHalfUlp) << i;
  }
}

}  // namespace
}  // namespace anyfp8
