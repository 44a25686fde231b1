#include "anyfp8/kernels/common/round_activations.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "anyfp8/base/element.h"
#include "anyfp8/base/error.h"
#include "anyfp8/kernels/common/activation_scale.h"

namespace anyfp8 {
namespace {

constexpr float kInfinite = std::numeric_limits<float>::infinity();
const float kNaN = std::nanf("");

ActivationQuant dynamic(Group group, std::optional<float> upper_bound = {}) {
  return {{.group = group, .source = ScaleSource::kDynamic}, {}, upper_bound};
}
ActivationQuant mx() {
  ActivationQuant quant = dynamic(kMx32);
  quant.key.scale_dtype = DType::kE8M0;
  return quant;
}
ActivationQuant stored(float scale) { return {{.group = kPerTensor}, scale, {}}; }

struct Matrix {
  int64_t m, k;
  std::vector<float> values = std::vector<float>(static_cast<size_t>(m * k));
  float& at(int64_t row, int64_t col) { return values[static_cast<size_t>(row * k + col)]; }
  TensorView view() { return {values.data(), DType::kF32, m, k, k}; }
};

// Of both signs and many sizes; different ones in each row and each 128 columns.
Matrix matrix(int64_t m, int64_t k) {
  Matrix x{m, k};
  uint32_t state = 1;
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t col = 0; col < k; ++col) {
      state = state * 1664525u + 1013904223u;
      const float value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
      x.at(row, col) = std::ldexp(value, static_cast<int>((row * 3 + col / 128 + state % 7) % 11) - 5);
    }
  }
  return x;
}

std::vector<float> scales_of(Matrix x, const ActivationQuant& quant) {
  const HostTensor scales = quantize_activations(x.view(), quant).scales;
  return {scales.as<float>(), scales.as<float>() + scales.size()};
}

uint8_t code_at(const QuantizedActivations& x, int64_t index) {
  return static_cast<uint8_t>(x.codes.data()[index]);
}

// The nearest of all codes, the even one of two: by trying them, so nothing is shared with what is tested.
uint8_t nearest_code(double x) {
  uint8_t best = 0;
  double distance = HUGE_VAL;
  for (int code = 0; code < 0x7F; ++code) {
    const double away = std::fabs(std::fabs(x) - e4m3_to_f32(static_cast<uint8_t>(code)));
    if (away < distance || (away == distance && code % 2 == 0)) {
      best = static_cast<uint8_t>(code);
      distance = away;
    }
  }
  return static_cast<uint8_t>(best | (std::signbit(x) ? 0x80 : 0));
}

TEST(RoundActivations, AScaleIsTheGroupsLargestValueOver448) {
  Matrix x = matrix(5, 300);
  const auto amax = [&](int64_t row_begin, int64_t row_end, int64_t col_begin, int64_t col_end) {
    float largest = 0;
    for (int64_t row = row_begin; row < row_end; ++row) {
      for (int64_t col = col_begin; col < col_end; ++col)
        largest = std::max(largest, std::fabs(x.at(row, col)));
    }
    return largest;
  };
  EXPECT_EQ(scales_of(x, dynamic(kPerTensor)), std::vector<float>{amax(0, 5, 0, 300) / 448});
  const std::vector<float> tokens = scales_of(x, dynamic(kPerRow));
  ASSERT_EQ(tokens.size(), 5u);
  for (int64_t row = 0; row < 5; ++row)
    EXPECT_EQ(tokens[static_cast<size_t>(row)], amax(row, row + 1, 0, 300) / 448);
  const std::vector<float> groups = scales_of(x, dynamic(kGroup128));
  ASSERT_EQ(groups.size(), 15u) << "the last 44 columns have a scale too";
  EXPECT_EQ(groups[7], amax(2, 3, 128, 256) / 448);
  EXPECT_EQ(groups[14], amax(4, 5, 256, 300) / 448);
  EXPECT_EQ(scales_of(x, stored(0.25f)), std::vector<float>{0.25f});
  const std::vector<float> of_mx = scales_of(x, mx());
  ASSERT_EQ(of_mx.size(), 50u) << "the last 12 columns have a scale too";
  for (const auto& [place, largest] :
       {std::pair<size_t, float>{13, amax(1, 2, 96, 128)}, {49, amax(4, 5, 288, 300)}}) {
    EXPECT_LE(largest, 448 * of_mx[place]);
    EXPECT_GT(largest, 224 * of_mx[place]);
    EXPECT_EQ(std::exp2(std::round(std::log2(of_mx[place]))), of_mx[place]);
  }
}

TEST(RoundActivations, CodesAreTheNearest) {
  for (const ActivationQuant& quant : {dynamic(kPerTensor), dynamic(kPerRow), dynamic(kGroup128), mx(),
                                       dynamic(kPerRow, 0.5f), stored(0.01f)}) {
    Matrix x = matrix(4, 260);
    const QuantizedActivations q = quantize_activations(x.view(), quant);
    const Grid grid = scale_grid(quant.key.group, 4, 260);
    for (int64_t i = 0; i < 4 * 260; ++i) {
      const int64_t row = i / 260, col = i % 260;
      const int64_t place = (quant.key.group.rows == 0 ? 0 : row) * grid.cols +
                            (quant.key.group.cols == 0 ? 0 : col / quant.key.group.cols);
      const float quotient = x.at(row, col) / q.scales.as<float>()[place];
      ASSERT_EQ(code_at(q, i), nearest_code(std::clamp(quotient, -448.0f, 448.0f))) << row << " " << col;
    }
  }
}

TEST(RoundActivations, AnUpperBoundAndAStoredScaleClamp) {
  Matrix x{1, 4, {100, -3000, 1, 1200}};
  EXPECT_EQ(scales_of(x, dynamic(kPerRow, 1200.0f)), std::vector<float>{1200.0f / 448});
  EXPECT_EQ(scales_of(x, dynamic(kPerRow, 5000.0f)), std::vector<float>{3000.0f / 448});
  std::vector<float> y(4);
  round_activations(x.view(), dynamic(kPerRow, 1200.0f), y.data());
  EXPECT_EQ(y[1], -1200);
  EXPECT_EQ(y[3], 1200);
  round_activations(x.view(), stored(1), y.data());
  EXPECT_EQ(y[1], -448);
}

TEST(RoundActivations, ZerosStayZerosOfTheirSign) {
  Matrix x{2, 2, {0.0f, -0.0f, 1, 2}};
  const QuantizedActivations q = quantize_activations(x.view(), dynamic(kPerRow));
  EXPECT_EQ(q.scales.as<float>()[0], kActivationScaleFloor);
  EXPECT_EQ(code_at(q, 0), 0x00);
  EXPECT_EQ(code_at(q, 1), 0x80);
  EXPECT_EQ(q.scales.as<float>()[1], 2.0f / 448);
}

// What is not finite does not touch the scale: it spoils y of its own token alone.
TEST(RoundActivations, NaNAndInfinityKeepToThemselves) {
  Matrix x{2, 3, {1, kNaN, -kInfinite, 4, 5, 6}};
  for (const Group group : {kPerTensor, kPerRow}) {
    const QuantizedActivations q = quantize_activations(x.view(), dynamic(group));
    EXPECT_EQ(q.scales.as<float>()[0], (group == kPerRow ? 1.0f : 6.0f) / 448);
    EXPECT_EQ(code_at(q, 1) & 0x7F, 0x7F);
    EXPECT_EQ(code_at(q, 2) & 0x7F, 0x7F);
    EXPECT_NE(code_at(q, 0) & 0x7F, 0x7F);
  }
  std::vector<float> y(6);
  round_activations(x.view(), stored(1), y.data());
  EXPECT_TRUE(std::isnan(y[1]));
  EXPECT_EQ(y[2], -448) << "a stored scale clamps, as the checkpoint asks";
  round_activations(x.view(), dynamic(kPerRow, 2.0f), y.data());
  EXPECT_EQ(y[2], -1) << "the largest code times 1 / 448";
}

TEST(RoundActivations, RoundedIsCodeTimesScaleAndWithin2ToTheMinus4) {
  Matrix x = matrix(3, 200);
  std::vector<uint16_t> narrow(3 * 256);  // bf16, rows 256 apart
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t col = 0; col < 200; ++col)
      store_element(narrow.data(), DType::kBF16, row * 256 + col, x.at(row, col));
  }
  const TensorView view{narrow.data(), DType::kBF16, 3, 200, 256};
  const QuantizedActivations q = quantize_activations(view, dynamic(kPerRow));
  std::vector<float> y(600);
  round_activations(view, dynamic(kPerRow), y.data());
  for (int64_t i = 0; i < 600; ++i) {
    const float scale = q.scales.as<float>()[i / 200];
    EXPECT_EQ(y[static_cast<size_t>(i)], e4m3_to_f32(code_at(q, i)) * scale);
    const float before = load_element(narrow.data(), DType::kBF16, i / 200 * 256 + i % 200);
    EXPECT_LE(std::fabs(y[static_cast<size_t>(i)] - before), std::fabs(before) * 0x1p-4f + scale * 0x1p-10f);
  }
  round_activations({nullptr, DType::kF32, 0, 200, 200}, dynamic(kPerTensor), nullptr);  // no tokens
}

TEST(RoundActivations, WhatIsNotDefinedIsRefusedInWords) {
  const auto refusal = [](const ActivationQuant& quant) {
    float x = 1;
    try {
      (void)quantize_activations({&x, DType::kF32, 1, 1, 1}, quant);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      return std::string(error.what());
    }
    return std::string();
  };
  ActivationQuant powers = stored(1);
  powers.key.scale_dtype = DType::kE8M0;
  EXPECT_EQ(refusal(powers),
            "stored activation scales are e8m0; f32 ones, and dynamic e8m0 ones, are defined");
  ActivationQuant integers = dynamic(kPerRow);
  integers.key.dtype = DType::kI8;
  EXPECT_EQ(refusal(integers), "activations are to become i8; e4m3 and e5m2 are defined");
  ActivationQuant absent = stored(1);
  absent.stored_scale.reset();
  EXPECT_EQ(refusal(absent), "the activation scale is to be stored and is not there");
}

}  // namespace
}  // namespace anyfp8
