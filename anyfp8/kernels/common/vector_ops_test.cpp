#include "anyfp8/kernels/common/vector_ops.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "anyfp8/base/float8.h"
#include "anyfp8/device/cpu_isa.h"

namespace anyfp8 {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kHalfUlp = 0x1p-24;

// Sizes around every vector's: whole vectors, a part of one, and both.
constexpr int64_t kSizes[] = {1, 3, 4, 7, 8, 16, 21, 64, 1000};

// With the operations of each instruction set that there are some for.
class VectorOpsTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (common_isa(detect_isa(), isa) != isa) GTEST_SKIP() << "this CPU has no " << GetParam();
  }
  const CpuIsa isa = device_from_name(std::string("cpu:") + GetParam()).isa;
  const VectorOps& ops = vector_ops(isa);
};
INSTANTIATE_TEST_SUITE_P(EveryIsa, VectorOpsTest, testing::Values("scalar", "avx2", "avx512"),
                         [](const auto& param) { return std::string(param.param); });

std::vector<float> random_values(int64_t count, float scale, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

TEST_P(VectorOpsTest, AddToIsExactAndStopsAtTheEnd) {
  for (const int64_t size : kSizes) {
    const std::vector<float> x = random_values(size, 1, 1), before = random_values(size + 1, 1, 2);
    std::vector<float> y = before;
    ops.add_to(y.data(), x.data(), size);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], before[i] + x[i]) << size;
    EXPECT_EQ(y.back(), before.back()) << size;
  }
}

TEST_P(VectorOpsTest, RmsNorm) {
  for (const int64_t size : kSizes) {
    const std::vector<float> x = random_values(size, 3, 1), weight = random_values(size, 1, 2);
    std::vector<float> y(x.size() + 1, 99);
    ops.rms_norm(x.data(), weight.data(), 1e-6f, size, y.data());
    double squares = 0;
    for (const float value : x) squares += static_cast<double>(value) * value;
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(size) + 1e-6);
    for (size_t i = 0; i < x.size(); ++i) {
      // The sum of `size` squares has a relative error below size * 2^-24, its root half of that; 5 more
      // roundings.
      const double expected = x[i] * inverse * weight[i];
      const double bound = (0.5 * static_cast<double>(size) + 5) * kHalfUlp * std::fabs(expected);
      EXPECT_NEAR(y[i], expected, bound) << i << " of " << size;
    }
    EXPECT_EQ(y.back(), 99) << size;
  }
}

TEST_P(VectorOpsTest, NormAndRotateTurnsEachPairOfEachHead) {
  for (const int64_t pairs : kSizes) {
    const std::vector<float> angle = random_values(pairs, 2, 3), weight = random_values(2 * pairs, 1, 5);
    std::vector<float> cos, sin, x = random_values(3 * 2 * pairs + 1, 1, 4);
    for (const float a : angle) {
      cos.push_back(std::cos(a));
      sin.push_back(std::sin(a));
    }
    std::vector<float> normed = x;
    for (int64_t h = 0; h < 3; ++h) {
      float* head = &normed[static_cast<size_t>(h * 2 * pairs)];
      ops.rms_norm(head, weight.data(), 1e-6f, 2 * pairs, head);
    }
    for (const bool norm : {false, true}) {
      const std::vector<float>& before = norm ? normed : x;
      std::vector<float> y = x;
      ops.norm_and_rotate(y.data(), 3, pairs, norm ? weight.data() : nullptr, 1e-6f, cos.data(), sin.data());
      for (size_t i = 0; i < 3 * cos.size(); ++i) {
        const size_t pair = i % cos.size(), first = i + i / cos.size() * cos.size(),
                     second = first + cos.size();
        const double a = before[first], b = before[second], c = cos[pair], s = sin[pair];
        // Of each sum, two products and a sum are rounded.
        const double bound = 2 * kHalfUlp * (std::fabs(a) + std::fabs(b)) * (std::fabs(c) + std::fabs(s));
        EXPECT_NEAR(y[first], a * c - b * s, bound) << i << " of " << pairs;
        EXPECT_NEAR(y[second], b * c + a * s, bound) << i << " of " << pairs;
      }
      EXPECT_EQ(y.back(), x.back()) << pairs;
    }
  }
}

TEST_P(VectorOpsTest, SiluTimes) {
  std::vector<float> gate = {-200, -90, -20, -1, -0.0f, 0.25f, 3, 50, 1000};
  for (const int64_t size : {1, 3, 9}) {
    std::vector<float> y(gate.begin(), gate.end());
    const std::vector<float> up(y.size(), 1.5f);
    ops.silu_times(y.data(), up.data(), size);
    for (size_t i = 0; i < y.size(); ++i) {
      const double g = gate[i];
      const double expected = static_cast<int64_t>(i) < size ? 1.5 * g / (1 + std::exp(-g)) : g;
      // The exponential's error and three roundings; below -88 it is limited, where the true value is below
      // 1e-35.
      EXPECT_NEAR(y[i], expected, std::fabs(expected) * (0x1p-22 + 3 * kHalfUlp) + 1e-35) << g;
    }
  }
}

TEST_P(VectorOpsTest, SiluOfHugeGatesIsZeroOrTheGate) {
  std::vector<float> y = {-89, -1e36f, -3e38f, -kInfinity, 3e38f, kInfinity, kNan};
  const std::vector<float> up(y.size(), 1.0f);
  ops.silu_times(y.data(), up.data(), static_cast<int64_t>(y.size()));
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(y[i] == 0 && std::signbit(y[i])) << i << ": " << y[i];
  EXPECT_EQ(y[4], 3e38f);
  EXPECT_EQ(y[5], kInfinity);
  EXPECT_TRUE(std::isnan(y[6]));
}

TEST_P(VectorOpsTest, ToBf16RoundsAsTheScalarCode) {
  std::vector<float> x = random_values(1003, 1e3f, 5);
  for (const uint32_t bits : {0x00000000u, 0x80000000u, 0x7F800000u, 0xFF800000u, 0x7F800001u, 0xFFFFFFFFu,
                              0x00000001u, 0x3F808000u, 0x3F818000u, 0x3F808001u, 0x7F7FFFFFu, 0x807FFFFFu}) {
    x.push_back(std::bit_cast<float>(bits));
  }
  for (const int64_t size : kSizes) {
    const float* from = &x[x.size() - static_cast<size_t>(size)];
    std::vector<uint16_t> codes(static_cast<size_t>(size) + 1, 77);
    ops.to_bf16(from, size, codes.data());
    for (size_t i = 0; i + 1 < codes.size(); ++i) {
      EXPECT_EQ(codes[i], f32_to_bf16(from[i])) << std::bit_cast<uint32_t>(from[i]);
    }
    EXPECT_EQ(codes.back(), 77) << size;
  }
}

TEST_P(VectorOpsTest, LargestLeavesNanOut) {
  for (const int64_t size : kSizes) {
    for (int64_t place = 0; place < size; ++place) {
      std::vector<float> x(static_cast<size_t>(size), -5);
      x[static_cast<size_t>(place)] = -2;
      x[static_cast<size_t>((place + 1) % size)] = place % 2 == 0 && size > 1 ? kNan : -2;
      EXPECT_EQ(ops.largest(x.data(), size), -2) << place << " of " << size;
    }
  }
  EXPECT_EQ(ops.largest(&kNan, 1), -kInfinity);
}

TEST_P(VectorOpsTest, ExpIsWithinItsBound) {
  for (float x = -87; x <= 88; x += 0.00917f) {
    ASSERT_NEAR(ops.sum_exp(&x, 1, 0) / std::exp(static_cast<double>(x)), 1.0, 0x1p-22) << x;
  }
  const auto e = [&](float x) { return ops.sum_exp(&x, 1, 0); };
  EXPECT_EQ(e(0), 1.0);
  EXPECT_EQ(e(-kInfinity), e(-87));
  EXPECT_EQ(e(kInfinity), e(88));
  EXPECT_TRUE(std::isnan(e(kNan)));
}

TEST_P(VectorOpsTest, SumExpOfManyTerms) {
  for (const int64_t size : {1, 17, 1023, 1024, 5001}) {
    const std::vector<float> x = random_values(size, 4, 6);
    double expected = 0, slope = 0;  // slope: of the error that rounding x - 20 makes
    for (const float value : x) {
      expected += std::exp(static_cast<double>(value) - 20);
      slope += std::exp(static_cast<double>(value) - 20) * std::fabs(static_cast<double>(value) - 20);
    }
    // Each exponential's 2^-22; then up to 256 + 4 roundings of a lane's sum and of the lanes'.
    const double bound = expected * (0x1p-22 + 260 * kHalfUlp) + slope * kHalfUlp;
    EXPECT_NEAR(ops.sum_exp(x.data(), size, 20), expected, bound) << size;
  }
}

}  // namespace
}  // namespace anyfp8
