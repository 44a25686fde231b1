// Walks the kernel list: what a kernel says it can do, it must do right; what it refuses, it must explain.
// A new kernel is tested by being listed.
#include <gtest/gtest.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "anyfp8/base/threads.h"
#include "anyfp8/kernels/select.h"
#include "tests/kernel_case.h"

namespace anyfp8 {

void PrintTo(const Kernel* kernel, std::ostream* out) { *out << kernel->name; }

namespace {

using namespace test;

struct Pairing {
  QuantKey weight;
  std::string text;
};

std::vector<Pairing> all_schemes() {
  std::vector<Pairing> schemes;
  for (DType dtype : {DType::kE4M3, DType::kE5M2}) {
    for (Group group : {kPerTensor, kPerRow, kBlock128, Group{64, 96}, kGroup128, Group{1, 7}}) {
      schemes.push_back({{.dtype = dtype, .group = group}, {}});
    }
    for (Group group : {kMx32, kBlock128}) {
      schemes.push_back({{.dtype = dtype, .group = group, .scale_dtype = DType::kE8M0}, {}});
    }
  }
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) schemes.push_back({{.dtype = dtype}, {}});
  for (Pairing& scheme : schemes) {
    scheme.text = std::string(dtype_name(scheme.weight.dtype)) + " " + group_text(scheme.weight.group) + " " +
                  std::string(dtype_name(scheme.weight.scale_dtype));
  }
  return schemes;
}

constexpr Grid kShapes[] = {{1, 1},   {1, 129},  {2, 16},   {3, 15},    {15, 17},   {16, 16},
                            {17, 7},  {31, 33},  {32, 32},  {33, 64},   {63, 63},   {64, 64},
                            {65, 65}, {64, 127}, {127, 64}, {127, 128}, {128, 128}, {129, 129},
                            {128, 1}, {5, 512},  {6, 513},  {7, 1100},  {130, 96},  {66, 192}};

std::vector<int64_t> token_counts() {
  std::vector<int64_t> counts;
  for (int64_t m = 0; m <= 17; ++m) counts.push_back(m);
  for (int64_t m : {31, 32, 33, 48, 49, 63, 64, 65, 127, 128, 129}) counts.push_back(m);
  return counts;
}

constexpr DType kInOut[] = {DType::kF32, DType::kBF16, DType::kF16};

class Conformance : public testing::TestWithParam<const Kernel*> {
 protected:
  // Skips, out loud, a kernel that this machine or this build cannot run.
  void SetUp() override {
    for (const Device& candidate : all_devices()) {
      if (candidate.kind == kernel().device && !found_) found_ = true, device_ = candidate;
    }
    if (kernel().apply == nullptr) GTEST_SKIP() << kernel().name << " is not in this build";
    if (!found_) GTEST_SKIP() << kernel().name << ": no device of its kind here";
    const Verdict verdict = supports(kernel(), device_);
    if (!verdict) GTEST_SKIP() << kernel().name << ": " << verdict.reason();
    if (kernel().activation == ActivationUse::kQuantized) {
      ASSERT_EQ(kernel().device, DeviceKind::kCuda) << "nothing tests it";
      GTEST_SKIP() << kernel().name << " rounds activations: gpu_conformance_test holds it to its own bound";
    }
    threads_ = num_threads();
  }
  void TearDown() override {
    if (threads_ != 0) set_num_threads(threads_);
  }

  const Kernel& kernel() const { return *GetParam(); }

  bool on_gpu() const { return kernel().device == DeviceKind::kCuda; }

  // Right where the kernel says yes, a reason where it says no. Returns whether it said yes.
  bool check(const LinearConfig& config, int64_t m, int64_t gap, std::mt19937& random) {
    const Verdict verdict = can_implement(kernel(), config, device_);
    if (!verdict) {
      EXPECT_FALSE(verdict.reason().empty());
      return false;
    }
    const Layer layer = random_layer(config, random);
    Matrix x = random_matrix(config.in, m, config.k, gap, random);
    const Matrix y = run(kernel(), device_, layer, x, gap);
    expect_close(layer, x, y, 0, 1, weight_rounding(kernel(), layer));
    return true;
  }

  void decode_every_code(DType dtype, DType x_and_y) {
    const int64_t codes = is_float8(dtype) ? 256 : 65536;
    const auto config = [&](int64_t k) {
      return config_of(codes / k, k, {.dtype = dtype}, x_and_y, x_and_y, false);
    };
    const int64_t k = can_implement(kernel(), config(16), device_) ? 16 : 64;  // some take whole chunks alone
    Layer layer{.config = config(k)};
    if (!can_implement(kernel(), layer.config, device_)) return;
    layer.weight.resize(codes * dtype_bytes(dtype));
    for (int64_t i = 0; i < codes; ++i) {
      const uint16_t code = static_cast<uint16_t>(i);
      std::memcpy(layer.weight.data() + i * dtype_bytes(dtype), &code, dtype_bytes(dtype));
      if (!std::isfinite(decode(dtype, layer.weight.data(), i))) encode(dtype, layer.weight.data(), i, 0);
    }
    if (is_float8(dtype)) {
      layer.grid = {1, 1};
      layer.scale.resize(4);
      encode(DType::kF32, layer.scale.data(), 0, 1);
    }
    Matrix identity(x_and_y, k, k, 0);
    for (int64_t r = 0; r < k; ++r) {
      for (int64_t c = 0; c < k; ++c) identity.set(r, c, r == c);
    }
    const Matrix together = run(kernel(), device_, layer, identity);
    for (int64_t t = 0; t < k; ++t) {
      Matrix token(x_and_y, 1, k, 0);
      for (int64_t c = 0; c < k; ++c) token.set(0, c, t == c);
      const Matrix alone = run(kernel(), device_, layer, token);
      for (int64_t n = 0; n < layer.config.n; ++n) {
        const double truth = decode(dtype, layer.weight.data(), n * k + t);
        ASSERT_EQ(together.at(t, n), truth) << dtype_name(dtype) << " code " << n * k + t;
        ASSERT_EQ(alone.at(0, n), truth) << dtype_name(dtype) << " code " << n * k + t;
      }
    }
  }

  Device device_;

 private:
  bool found_ = false;
  int threads_ = 0;
};

TEST_P(Conformance, EverySchemeAtEveryShapeHoldsTheErrorBound) {
  std::mt19937 random(1);
  const std::vector<int64_t> counts = token_counts();
  size_t scheme_index = 0, ran = 0;
  for (const Pairing& scheme : all_schemes()) {
    ++scheme_index;
    size_t shape_index = 0;
    for (const Grid& shape : kShapes) {
      // Strides through dtypes and token counts that share no factor with their number, so pairs vary.
      const size_t step = scheme_index * 5 + ++shape_index * 11;
      const LinearConfig config = config_of(shape.rows, shape.cols, scheme.weight, kInOut[step % 3],
                                            kInOut[step / 3 % 3], step % 2 == 0);
      const int64_t m = counts[step % counts.size()];
      SCOPED_TRACE(scheme.text + ", n = " + std::to_string(config.n) + ", k = " + std::to_string(config.k) +
                   ", m = " + std::to_string(m) + ", in " + std::string(dtype_name(config.in)) + ", out " +
                   std::string(dtype_name(config.out)));
      ran += check(config, m, static_cast<int64_t>(step % 4) * 3, random);
      if (HasFatalFailure() || HasNonfatalFailure()) return;
    }
  }
  EXPECT_GT(ran, 0u) << "it refused everything";
}

TEST_P(Conformance, EveryTokenCountAndEveryPairOfTypesIsRight) {
  std::mt19937 random(2);
  for (const QuantKey& key :
       {QuantKey{.group = kPerRow}, QuantKey{.group = kBlock128}, QuantKey{.group = {1, 7}}}) {
    for (int64_t m : token_counts()) {
      for (DType in : kInOut) {
        SCOPED_TRACE(group_text(key.group) + ", m = " + std::to_string(m));
        check(config_of(37, 150, key, in, kInOut[m % 3], m % 2 == 1), m, m % 3, random);
        if (HasFatalFailure() || HasNonfatalFailure()) return;
      }
    }
  }
}

// With x the identity, y is the decoded weight: every finite code of every type, exactly, in each lane.
TEST_P(Conformance, EveryWeightCodeDecodesExactly) {
  for (DType dtype : {DType::kE4M3, DType::kE5M2, DType::kBF16, DType::kF16}) {
    for (DType x_and_y : kInOut) {
      // 16 bits hold what 8 do, and themselves.
      if (!is_float8(dtype) && x_and_y != DType::kF32 && x_and_y != dtype) continue;
      decode_every_code(dtype, x_and_y);
      if (HasFatalFailure()) return;
    }
  }
}

// Linear refuses such weights; a kernel that is given one all the same must not make numbers of it.
TEST_P(Conformance, CodesThatAreNotFiniteStayWhatTheyAre) {
  if (on_gpu())
    GTEST_SKIP() << "weights come to a CUDA device through Linear alone, which refuses such codes";
  constexpr int64_t kN = 70, kK = 9, kRow = 66, kCol = 6;
  for (DType dtype : {DType::kE4M3, DType::kE5M2}) {
    for (int code = 0; code < 256; ++code) {
      const auto byte = static_cast<uint8_t>(code);
      const double value = decode(dtype, &byte, 0);
      Layer layer{.config = config_of(kN, kK, {.dtype = dtype}, DType::kF32, DType::kF32, false)};
      if (std::isfinite(value) || !can_implement(kernel(), layer.config, device_)) continue;
      layer.finite = false;
      layer.weight.resize(kN * kK, 0x38);
      layer.weight[kRow * kK + kCol] = byte;
      layer.grid = {1, 1};
      layer.scale.resize(4);
      encode(DType::kF32, layer.scale.data(), 0, 1);
      for (int64_t m : {1, 3, 70}) {
        Matrix x(DType::kF32, m, kK, 0);
        for (int64_t t = 0; t < m; ++t) {
          for (int64_t c = 0; c < kK; ++c) x.set(t, c, 1);
        }
        const Matrix y = run(kernel(), device_, layer, x);
        for (int64_t t = 0; t < m; ++t) {
          for (int64_t n = 0; n < kN; ++n) {
            const double got = y.at(t, n);
            const bool right = n != kRow           ? std::isfinite(got)
                               : std::isnan(value) ? std::isnan(got)
                                                   : !std::isfinite(got);
            ASSERT_TRUE(right) << dtype_name(dtype) << " code " << code << ": y[" << t << ", " << n
                               << "] = " << got << ", m = " << m;
          }
        }
      }
    }
  }
}

TEST_P(Conformance, ARowHasTheSameBitsWhateverTokenCountAndThreads) {
  if (!kernel().batch_invariant) GTEST_SKIP() << kernel().name << " does not promise it";
  std::mt19937 random(3);
  for (const QuantKey& key :
       {QuantKey{.group = kPerRow}, QuantKey{.group = kBlock128}, QuantKey{.group = {1, 7}},
        QuantKey{.group = kMx32, .scale_dtype = DType::kE8M0}, QuantKey{.dtype = DType::kBF16}}) {
    for (DType in : {DType::kF32, DType::kBF16}) {
      LinearConfig config = config_of(70, 601 - (in == DType::kF32) * 9, key, in, DType::kF32, true);
      config.policy = Policy::kInvariant;
      if (!can_implement(kernel(), config, device_)) continue;
      const Layer layer = random_layer(config, random);
      Matrix all = random_matrix(in, 100, config.k, 0, random);
      set_num_threads(2);
      const Matrix expected = run(kernel(), device_, layer, all);
      for (int threads : {1, 2}) {
        set_num_threads(threads);
        for (int64_t m : {1, 2, 4, 7, 33, 100}) {
          Matrix part(in, m, config.k, 0);
          std::copy_n(all.bytes.begin(), part.bytes.size(), part.bytes.begin());
          const Matrix y = run(kernel(), device_, layer, part);
          for (int64_t t = 0; t < m; ++t) {
            ASSERT_EQ(y.row_bytes(t), expected.row_bytes(t))
                << group_text(key.group) << ", m = " << m << ", token " << t << ", threads " << threads;
          }
        }
      }
    }
  }
}

// Shapes that divide the work in each of the ways there are.
TEST_P(Conformance, AnyNumberOfThreadsGivesTheSameBits) {
  if (on_gpu()) GTEST_SKIP() << "threads of the CPU";
  const struct {
    int64_t n, k, m;
    QuantKey key;
  } kCases[] = {
      {2100, 200, 20, {.group = kBlock128}},  // each of two threads packs x; more panels than take turns
      {1030, 300, 5, {.group = kPerRow}},     // one packs x for itself, two pack it together
      {64, 4096, 64, {.group = kPerRow}},     // more threads than panels: they share the tokens
      {70, 100, 530, {.group = kPerRow}},     // more tokens than one block
      {40, 2611, 64, {.group = {1, 1304}}},   // groups longer than a chunk
      {130, 604, 64, {.dtype = DType::kBF16}},
  };
  std::mt19937 random(7);
  for (const auto& [n, k, m, key] : kCases) {
    Layer layer = random_layer(config_of(n, k, key, DType::kF32, DType::kF32, true), random);
    for (DType in : {DType::kF32, DType::kBF16}) {
      Matrix x = random_matrix(in, m, k, 0, random);
      for (Policy policy : {Policy::kAccuracy, Policy::kInvariant}) {
        layer.config.in = in;
        layer.config.policy = policy;
        if (!can_implement(kernel(), layer.config, device_)) continue;
        SCOPED_TRACE(group_text(key.group) + ", n = " + std::to_string(n) + ", in " +
                     std::string(dtype_name(in)) + ", " + std::string(policy_name(policy)));
        set_num_threads(1);
        const Matrix alone = run(kernel(), device_, layer, x);
        expect_close(layer, x, alone, 0, 61);
        for (int threads : {2, 7}) {
          set_num_threads(threads);
          ASSERT_TRUE(run(kernel(), device_, layer, x).bytes == alone.bytes) << threads << " threads";
        }
      }
    }
  }
}

// -0, subnormals and 1e30 in x, scales at both ends of e8m0.
Matrix extreme_matrix(DType dtype, int64_t rows, int64_t cols) {
  constexpr float kValues[] = {-0.0f, 0x1p-130f, 1e30f, -0x1p-149f, 0x1p-20f, 1.0f, -3e-5f, 1e-30f};
  Matrix x(dtype, rows, cols, 0);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const float value = kValues[(r + c) % 8];
      x.set(r, c, dtype == DType::kF16 ? std::clamp(value, -60000.0f, 60000.0f) : value);
    }
  }
  return x;
}

TEST_P(Conformance, ExtremeActivationsAreNeitherLostNorTurnedIntoNaN) {
  std::mt19937 random(4);
  for (DType in : kInOut) {
    for (int64_t m : {1, 9}) {
      const LinearConfig config = config_of(9, 40, {.group = kPerRow}, in, DType::kF32, false);
      if (!can_implement(kernel(), config, device_)) continue;
      const Layer layer = random_layer(config, random);
      Matrix x = extreme_matrix(in, m, config.k);
      expect_close(layer, x, run(kernel(), device_, layer, x));
    }
  }
}

TEST_P(Conformance, TheLargestAndSmallestScalesWork) {
  std::mt19937 random(5);
  for (Group group : {kPerRow, kMx32, Group{1, 7}}) {
    for (uint8_t code : {0, 1, 254}) {
      for (int64_t m : {1, 9}) {
        const QuantKey key{.group = group, .scale_dtype = DType::kE8M0};
        const LinearConfig config = config_of(9, 64, key, DType::kF32, DType::kF32, false);
        if (!can_implement(kernel(), config, device_)) continue;
        Layer layer = random_layer(config, random);
        std::fill(layer.scale.begin(), layer.scale.end(), code);
        for (size_t i = 0; i < layer.weight.size(); ++i) layer.weight[i] = i % 3 == 0 ? 0 : i % 0x38;
        Matrix x = random_matrix(DType::kF32, m, config.k, 0, random);
        for (int64_t t = 0; t < m; ++t) {
          for (int64_t c = 0; c < config.k; ++c) {
            x.set(t, c, static_cast<float>(std::ldexp(x.at(t, c), code == 254 ? -20 : 60)));
          }
        }
        SCOPED_TRACE(group_text(group) + ", code " + std::to_string(code));
        expect_close(layer, x, run(kernel(), device_, layer, x));
      }
    }
  }
}

// Dot products of bf16 may count what is below 2^-126 as zero, in x and in a product.
TEST_P(Conformance, SubnormalActivationsAreRightOrZero) {
  constexpr double kScale = 0x1p60;  // brings y to where it is no subnormal itself
  std::mt19937 random(8);
  for (DType in : kInOut) {
    for (int64_t m : {1, 9, 100}) {
      const LinearConfig config = config_of(70, 40, {.group = kPerTensor}, in, DType::kF32, false);
      if (!can_implement(kernel(), config, device_)) continue;
      Layer layer = random_layer(config, random);
      encode(DType::kF32, layer.scale.data(), 0, static_cast<float>(kScale));
      const bool subnormal_in_f32 = in != DType::kF16;
      Matrix x(in, m, config.k, 0);
      for (int64_t t = 0; t < m; ++t) {
        for (int64_t c = 0; c < config.k; ++c) {
          const double part = 1 - static_cast<double>(random() % 256) / 128;  // of the smallest normal number
          x.set(t, c, static_cast<float>(part * 0.99 * (subnormal_in_f32 ? 0x1p-126 : 0x1p-14)));
        }
      }
      const double allowed = subnormal_in_f32 ? config.k * 448 * 0x1p-126 * kScale : 0;
      SCOPED_TRACE(std::string(dtype_name(in)) + ", m = " + std::to_string(m));
      expect_close(layer, x, run(kernel(), device_, layer, x), allowed);
    }
  }
}

// Whether one scale is for all outputs of a panel or for one of them.
TEST_P(Conformance, AScaleThatIsNaNMakesItsOutputsNaN) {
  std::mt19937 random(9);
  for (Group group : {kMx32, kBlock128}) {
    for (int64_t m : {1, 5, 100}) {
      const QuantKey key{.group = group, .scale_dtype = DType::kE8M0};
      const LinearConfig config = config_of(300, 300, key, DType::kF32, DType::kF32, false);
      if (!can_implement(kernel(), config, device_)) continue;
      Layer layer = random_layer(config, random);
      const int64_t row = layer.grid.rows / 2;
      layer.scale[row * layer.grid.cols + 1] = 255;
      Matrix x = random_matrix(DType::kF32, m, config.k, 0, random);
      const Matrix y = run(kernel(), device_, layer, x);
      for (int64_t t = 0; t < m; ++t) {
        for (int64_t n = 0; n < config.n; ++n) {
          ASSERT_EQ(std::isnan(y.at(t, n)), n / group.rows == row)
              << group_text(group) << ": y[" << t << ", " << n << "] = " << y.at(t, n) << ", m = " << m;
        }
      }
    }
  }
}

#if defined(__x86_64__)
// Hosts built with -ffast-math set both bits for the whole process.
TEST_P(Conformance, FlushToZeroInTheCallerChangesNothing) {
  if (on_gpu()) GTEST_SKIP() << "a mode of the CPU";
  constexpr unsigned kFlush = 0x8040;  // FTZ and DAZ
  std::mt19937 random(6);
  for (DType weight : {DType::kE4M3, DType::kE5M2, DType::kF16, DType::kBF16}) {
    for (DType in : kInOut) {
      for (int64_t m : {1, 9}) {
        const LinearConfig config =
            config_of(300, 200, {.dtype = weight, .group = kPerTensor}, in, DType::kF32, true);
        if (!can_implement(kernel(), config, device_)) continue;
        Layer layer = random_layer(config, random);
        for (size_t i = 0; i < layer.weight.size() / dtype_bytes(weight);
             i += 2) {  // subnormals of each type
          const uint16_t code = static_cast<uint16_t>(weight == DType::kE5M2 ? i % 4 : i % 8);
          std::memcpy(layer.weight.data() + i * dtype_bytes(weight), &code, dtype_bytes(weight));
        }
        Matrix x = extreme_matrix(in, m, config.k);
        const Matrix expected = run(kernel(), device_, layer, x);
        const unsigned before = _mm_getcsr();
        _mm_setcsr(before | kFlush);
        const Matrix flushed = run(kernel(), device_, layer, x);
        EXPECT_EQ(_mm_getcsr() & kFlush, kFlush) << "the caller's mode was not put back";
        _mm_setcsr(before);
        EXPECT_EQ(flushed.bytes, expected.bytes) << dtype_name(weight) << ", m = " << m;
      }
    }
  }
}
#endif

INSTANTIATE_TEST_SUITE_P(Kernels, Conformance, testing::ValuesIn(all_kernels().begin(), all_kernels().end()),
                         [](const testing::TestParamInfo<const Kernel*>& info) {
                           return std::string(info.param->name);
                         });

// Refusals of every kernel for every kind of device, hardware or not, come with a sentence.
TEST(Admission, EveryRefusalHasAReason) {
  for (const Kernel* kernel : all_kernels()) {
    for (const std::string& name : virtual_device_names()) {
      const Device device = device_from_name(name);
      for (const Pairing& scheme : all_schemes()) {
        for (const Grid& shape : kShapes) {
          for (DType in : kInOut) {
            const LinearConfig config = config_of(shape.rows, shape.cols, scheme.weight, in, in, true);
            const Verdict verdict = can_implement(*kernel, config, device);
            ASSERT_EQ(verdict.reason().empty(), static_cast<bool>(verdict)) << kernel->name << " on " << name;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace anyfp8
