#include "anyfp8/model/transformer_ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "anyfp8/base/float8.h"

namespace anyfp8 {
namespace {

std::vector<float> random_values(size_t count, float scale, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(TransformerOps, ExpFastIsWithinItsBound) {
  for (float x = -87; x <= 88; x += 0.00317f) {
    EXPECT_NEAR(exp_fast(x) / std::exp(static_cast<double>(x)), 1.0, 0x1p-22) << x;
  }
  EXPECT_EQ(exp_fast(0), 1.0f);
}

TEST(TransformerOps, ExpFastLimitsItsArgumentAndKeepsNan) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(exp_fast(-infinity), exp_fast(-87));
  EXPECT_EQ(exp_fast(infinity), exp_fast(88));
  EXPECT_TRUE(std::isnan(exp_fast(std::numeric_limits<float>::quiet_NaN())));
}

TEST(TransformerOps, RmsNorm) {
  for (const int64_t size : {1, 7, 64, 1000}) {
    const std::vector<float> x = random_values(static_cast<size_t>(size), 3, 1);
    const std::vector<float> weight = random_values(static_cast<size_t>(size), 1, 2);
    std::vector<float> y(x.size());
    rms_norm(x.data(), weight.data(), 1e-6f, size, y.data());
    double squares = 0;
    for (const float value : x) squares += static_cast<double>(value) * value;
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(size) + 1e-6);
    for (size_t i = 0; i < x.size(); ++i) {
      // The sum of `size` squares has a relative error below size * 2^-24, its root half of that; 5 more
      // roundings.
      const double bound =
          (0.5 * static_cast<double>(size) + 5) * 0x1p-24 * std::fabs(x[i] * inverse * weight[i]);
      EXPECT_NEAR(y[i], x[i] * inverse * weight[i], bound) << i;
    }
  }
}

TEST(TransformerOps, SiluTimes) {
  std::vector<float> gate = {-200, -90, -20, -1, -0.0f, 0.25f, 3, 50, 1000};
  const std::vector<float> before = gate;
  const std::vector<float> up(gate.size(), 1.5f);
  silu_times(gate.data(), up.data(), static_cast<int64_t>(gate.size()));
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = before[i];
    const double expected = 1.5 * g / (1 + std::exp(-g));
    // exp_fast's error and three roundings; below -88 it is limited, where the true value is below 1e-35.
    EXPECT_NEAR(gate[i], expected, std::fabs(expected) * (0x1p-22 + 3 * 0x1p-24) + 1e-35) << g;
  }
}

TEST(TransformerOps, WidenReadsUnalignedElementsExactly) {
  const std::vector<float> values = {0, 1.5f, -2.25f, 448, -0.0009765625f};  // exact in all three types
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    std::vector<std::byte> bytes(1 + values.size() * dtype_bytes(dtype));
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t code = dtype == DType::kBF16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
      const void* element = dtype == DType::kF32 ? static_cast<const void*>(&values[i]) : &code;
      std::memcpy(&bytes[1 + i * dtype_bytes(dtype)], element, dtype_bytes(dtype));
    }
    const HostTensor tensor = HostTensor::borrow(dtype, {5}, &bytes[1], nullptr);
    std::vector<float> out(3);
    widen(tensor, 2, out);
    EXPECT_EQ(out, std::vector<float>(values.begin() + 2, values.end())) << dtype_name(dtype);
  }
}

}  // namespace
}  // namespace anyfp8
