// Kernels that round activations, held to the rounding that activation_scale.h defines and to what it may do
// to y. Skips, out loud, without a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/gpu_case.h"
#include "tests/quantised_case.h"

namespace anyfp8 {
namespace {

using namespace test;

constexpr DType kHalf[] = {DType::kBF16, DType::kF16};
constexpr QuantKey kActivations[] = {
    {.group = kPerTensor, .source = ScaleSource::kStored},
    {.group = kPerTensor, .source = ScaleSource::kDynamic},
    {.group = kPerRow, .source = ScaleSource::kDynamic},
    {.group = kGroup128, .source = ScaleSource::kDynamic},
    {.group = kMx32, .source = ScaleSource::kDynamic, .scale_dtype = DType::kE8M0},
    {.dtype = DType::kE5M2, .group = kPerRow, .source = ScaleSource::kDynamic}};

class GpuQuantised : public GpuKernel {
 protected:
  void SetUp() override {
    GpuKernel::SetUp();
    if (IsSkipped()) return;
    if (kernel().activation != ActivationUse::kQuantized) GTEST_SKIP() << "keeps activations: GpuConformance";
  }

  static LinearConfig quantised_config(int64_t n, int64_t k, const QuantKey& weight,
                                       const QuantKey& activation, DType half, bool bias) {
    LinearConfig config = config_of(n, k, weight, half, half, bias);
    config.scheme.activation = activation;
    config.policy = Policy::kSpeed;
    return config;
  }
  // Each pair of schemes that the kernel takes; `f` makes no y of its own.
  template <typename Function>
  void for_each_scheme(int64_t n, int64_t k, DType half, bool bias, Function f) {
    for (const QuantKey& weight : checkpoint_schemes()) {
      for (const QuantKey& activation : kActivations) {
        const LinearConfig config = quantised_config(n, k, weight, activation, half, bias);
        if (!can_implement(kernel(), config, device_)) continue;
        SCOPED_TRACE(scheme_text(config.scheme) + ", n = " + std::to_string(n) +
                     ", k = " + std::to_string(k) + ", " + std::string(dtype_name(half)));
        f(config);
        if (HasFatalFailure() || HasNonfatalFailure()) return;
      }
    }
  }
  static Layer layer_of(const LinearConfig& config, std::mt19937& random) {
    Layer layer = random_layer(config, random);
    if (config.scheme.activation->source == ScaleSource::kStored) {
      layer.input_scale = 3.0f / 448;  // below the largest x, which is clamped
    }
    return layer;
  }

  // Two bounds. Against the product of the same codes, in double:
  //   2^-12 sum|x w|   sums of FP8 tensor cores: 32 products and the sum so far are cut off at 2^-13 of the
  //                    largest before they are added up. An H200 needs 0.6 of it.
  // Against the product of x itself, what rounding may do: half a step of e4m3 is 2^-4 of the value (e5m2
  // 2^-3), or 2^-10 (2^-17) of the scale near zero. Rounded errors are independent: 4 standard deviations.
  // What is clamped loses what it is above.
  void expect_right(const Layer& layer, int64_t m, int64_t gap, size_t skip, std::mt19937& random) {
    SCOPED_TRACE("m = " + std::to_string(m) + ", gap " + std::to_string(gap) + ", skip " +
                 std::to_string(skip));
    Matrix x = random_matrix(layer.config.in, m, layer.config.k, gap, random);
    const Matrix y = run_on_cuda(kernel(), device_, layer, x, gap, skip);
    const QuantKey& key = *layer.config.scheme.activation;
    const bool e5m2 = key.dtype == DType::kE5M2;
    const QuantisedRows rounded = quantise_on_host(key, x, layer.input_scale, layer.input_scale_ub);
    const auto n_count = static_cast<size_t>(layer.config.n), k = static_cast<size_t>(layer.config.k);
    std::vector<double> weights(n_count * k), values(k), codes(k), half_steps(k);
    for (size_t i = 0; i < weights.size(); ++i) {
      weights[i] = layer.weight_at(static_cast<int64_t>(i / k), static_cast<int64_t>(i % k));
    }
    const auto every = static_cast<size_t>(sampling(layer.config, m));
    for (int64_t t = 0; t < m; ++t) {
      for (size_t c = 0; c < k; ++c) {
        const size_t i = static_cast<size_t>(t) * k + c;
        const double scale = rounded.scales[i];
        values[c] = x.at(t, static_cast<int64_t>(c));
        codes[c] = decode(key.dtype, rounded.codes.data(), static_cast<int64_t>(i)) * scale;
        half_steps[c] =
            std::max(std::fabs(values[c]) * (e5m2 ? 0x1p-3 : 0x1p-4), scale * (e5m2 ? 0x1p-17 : 0x1p-10));
      }
      for (size_t n = static_cast<size_t>(t) % every; n < n_count; n += every) {
        const double* w = &weights[n * k];
        const float given = layer.bias.empty() ? 0 : layer.bias[n];
        const double bias =
            y.dtype == DType::kBF16 ? bf16_to_f32(f32_to_bf16(given)) : f16_to_f32(f32_to_f16(given));
        double truth = bias, same_codes = bias, terms = std::fabs(bias), variance = 0, largest = 0,
               clamped = 0;
        for (size_t c = 0; c < k; ++c) {
          truth += w[c] * values[c];
          same_codes += w[c] * codes[c];
          terms += std::fabs(w[c] * codes[c]);
          const double error = std::fabs(w[c]) * half_steps[c];
          variance += error * error / 3;
          largest = std::max(largest, error);
          const double lost = std::fabs(values[c] - codes[c]);
          if (lost > half_steps[c]) clamped += std::fabs(w[c]) * lost;
        }
        const double sums = 0x1p-12 * terms + smallest_step(y.dtype);
        const double found = y.at(t, static_cast<int64_t>(n)), last = unit_roundoff(y.dtype);
        const double off = std::fabs(found - same_codes) - last * std::fabs(same_codes);
        worst_ = std::max(worst_, off / std::max(terms, 1e-30));
        ASSERT_LE(off, sums) << "y[" << t << ", " << n << "] = " << found << ", of the same codes "
                             << same_codes;
        ASSERT_LE(std::fabs(found - truth),
                  4 * std::sqrt(variance) + largest + clamped + sums + last * std::fabs(truth))
            << "y[" << t << ", " << n << "] = " << found << ", of x " << truth;
      }
    }
  }

  void TearDown() override {
    if (worst_ > 0) std::cout << "sums are off by " << worst_ * 0x1p12 << " of what is allowed\n";
  }

  double worst_ = 0;
};

TEST_P(GpuQuantised, EveryPairOfSchemesHoldsBothBounds) {
  constexpr Grid kShapes[] = {{8, 24},    {16, 16},    {64, 64},  {48, 208},  {128, 128},
                              {144, 320}, {272, 1024}, {88, 129}, {160, 1408}};
  std::mt19937 random(6);
  size_t ran = 0;
  for (const Grid& shape : kShapes) {
    for (const DType half : kHalf) {
      for_each_scheme(shape.rows, shape.cols, half, ran % 2 == 1, [&](const LinearConfig& config) {
        ++ran;
        const Layer layer = layer_of(config, random);
        for (const int64_t m : {1, 2, 3, 5, 16, 33, 130}) {
          expect_right(layer, m, m % 3 * 8, 0, random);
          if (HasFatalFailure()) return;
        }
      });
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(ran, 0u) << "it refused everything";
}

// Where a call is one product, and where the last tokens are left to a kernel of their own: see w8a8_parts.h.
TEST_P(GpuQuantised, EveryTokenCountAroundTheParts) {
  std::mt19937 random(7);
  for_each_scheme(48, 320, DType::kBF16, true, [&](const LinearConfig& config) {
    const Layer layer = layer_of(config, random);
    for (const int64_t m : {0, 63, 64, 65, 255, 257, 509, 511, 512, 513, 514, 515, 1023, 1025, 2051}) {
      expect_right(layer, m, 0, 0, random);
      if (HasFatalFailure()) return;
    }
  });
}

// Of each number of these tokens, alone and behind others, with ends of weights in every place.
TEST_P(GpuQuantised, TokensThatAreLeftToAKernelOfTheirOwn) {
  std::mt19937 random(12);
  for (const Grid& shape : {Grid{264, 64}, Grid{136, 1000}, Grid{1048, 2944}}) {
    for_each_scheme(shape.rows, shape.cols, DType::kF16, true, [&](const LinearConfig& config) {
      if (config.scheme.weight.group != kBlock128) return;
      const Layer layer = layer_of(config, random);
      for (const int64_t m : {1, 2, 3, 5, 7, 9, 135, 516, 519, 520}) {
        expect_right(layer, m, m % 2 * 8, 0, random);
        if (HasFatalFailure()) return;
      }
    });
    if (HasFailure()) return;
  }
}

TEST_P(GpuQuantised, RowsAtAnyAlignment) {
  std::mt19937 random(8);
  for_each_scheme(48, 200, DType::kF16, true, [&](const LinearConfig& config) {
    const Layer layer = layer_of(config, random);
    for (const int64_t m : {1, 5, 600}) {
      for (const int64_t gap : {0, 1, 4, 7}) {
        for (const size_t skip : {0, 1, 4}) expect_right(layer, m, gap, skip, random);
        if (HasFatalFailure()) return;
      }
    }
  });
}

// Of a token beyond 32768, a block reads x twice.
TEST_P(GpuQuantised, LongRows) {
  std::mt19937 random(9);
  for_each_scheme(16, 40000, DType::kBF16, false, [&](const LinearConfig& config) {
    const Layer layer = layer_of(config, random);
    expect_right(layer, 3, 0, 0, random);
  });
}

TEST_P(GpuQuantised, AnUpperBoundClamps) {
  std::mt19937 random(10);
  for_each_scheme(32, 256, DType::kBF16, false, [&](const LinearConfig& config) {
    if (config.scheme.activation->source == ScaleSource::kStored) return;
    Layer layer = layer_of(config, random);
    layer.input_scale_ub = 1.5f;
    expect_right(layer, 40, 0, 0, random);
  });
}

// No row is all zero in practice but that of padding: its scale must not become 1/0.
TEST_P(GpuQuantised, TokensOfZeroesGiveTheBias) {
  std::mt19937 random(7);
  for_each_scheme(64, 128, DType::kBF16, true, [&](const LinearConfig& config) {
    const Layer layer = layer_of(config, random);
    Matrix x(DType::kBF16, 5, config.k, 0);
    std::fill(x.bytes.begin(), x.bytes.end(), uint8_t{0});
    const Matrix y = run(kernel(), device_, layer, x);
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t n = 0; n < config.n; ++n) {
        ASSERT_EQ(y.at(t, n), bf16_to_f32(f32_to_bf16(layer.bias[static_cast<size_t>(n)])));
      }
    }
  });
}

// y of the others has the bits that it has without them.
TEST_P(GpuQuantised, NaNAndInfinitySpoilTheirOwnTokensAlone) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::mt19937 random(11);
  for (const DType half : kHalf) {
    for_each_scheme(32, 320, half, true, [&](const LinearConfig& config) {
      const Layer layer = layer_of(config, random);
      Matrix x = random_matrix(half, 9, config.k, 0, random);
      for (int64_t t = 0; t < x.rows; ++t) x.set(t, 1, t == 4 ? 5.0f : 0.5f);  // the largest is in row 4
      for (const int64_t t : {2, 5, 6}) x.set(t, 130, 0.0f);
      const Matrix clean = run(kernel(), device_, layer, x);
      x.set(2, 130, NAN);
      x.set(5, 130, kInfinity);
      x.set(6, 130, -kInfinity);
      const Matrix y = run(kernel(), device_, layer, x);
      const bool clamps = config.scheme.activation->source == ScaleSource::kStored;
      for (int64_t t = 0; t < x.rows; ++t) {
        const bool spoilt = t == 2 || (!clamps && (t == 5 || t == 6));
        for (int64_t n = 0; n < config.n; ++n) {
          if (spoilt) {
            ASSERT_TRUE(std::isnan(y.at(t, n))) << "y[" << t << ", " << n << "] = " << y.at(t, n);
          } else if (!clamps || (t != 5 && t != 6)) {
            ASSERT_EQ(y.at(t, n), clean.at(t, n)) << "y[" << t << ", " << n << "]";
          } else {
            ASSERT_TRUE(std::isfinite(y.at(t, n))) << "y[" << t << ", " << n << "]";
          }
        }
      }
    });
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, GpuQuantised, testing::ValuesIn(cuda_kernels()), kernel_name);

}  // namespace
}  // namespace anyfp8
