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

#include "anyfp8/base/float8.h"
#include "anyfp8/base/tensor.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/kernels/common/panel64.h"
#include "anyfp8/kernels/select.h"

namespace anyfp8 {

void PrintTo(const Kernel* kernel, std::ostream* out) { *out << kernel->name; }

namespace {

double decode(DType dtype, const void* data, int64_t index) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  uint16_t half;
  float single;
  switch (dtype) {
    case DType::kE4M3: return e4m3_to_f32(bytes[index]);
    case DType::kE5M2: return e5m2_to_f32(bytes[index]);
    case DType::kE8M0: return std::ldexp(1.0, bytes[index] - 127);
    case DType::kBF16: std::memcpy(&half, bytes + 2 * index, 2); return bf16_to_f32(half);
    case DType::kF16: std::memcpy(&half, bytes + 2 * index, 2); return f16_to_f32(half);
    default: std::memcpy(&single, bytes + 4 * index, 4); return single;
  }
}

void encode(DType dtype, void* data, int64_t index, float value) {
  auto* bytes = static_cast<uint8_t*>(data);
  uint16_t half;
  switch (dtype) {
    case DType::kE4M3: bytes[index] = f32_to_e4m3(value); break;
    case DType::kE5M2: bytes[index] = f32_to_e5m2(value); break;
    case DType::kBF16:
      half = f32_to_bf16(value);
      std::memcpy(bytes + 2 * index, &half, 2);
      break;
    case DType::kF16:
      half = f32_to_f16(value);
      std::memcpy(bytes + 2 * index, &half, 2);
      break;
    default: std::memcpy(bytes + 4 * index, &value, 4); break;
  }
}

// Half the distance between neighbours, relative; and the smallest such distance near zero.
double unit_roundoff(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-24;
}
double smallest_step(DType dtype) { return dtype == DType::kF16 ? 0x1p-24 : 0x1p-126; }

struct Layer {
  LinearConfig config;
  std::vector<uint8_t> weight;  // [n, k], and not one byte more, so that asan sees what reads past it
  std::vector<uint8_t> scale;
  std::vector<float> bias;
  Grid grid{0, 0};

  double weight_at(int64_t row, int64_t col) const {
    const QuantKey& key = config.scheme.weight;
    const double value = decode(key.dtype, weight.data(), row * config.k + col);
    if (scale.empty()) return value;
    const int64_t r = key.group.rows == 0 ? 0 : row / key.group.rows;
    const int64_t c = key.group.cols == 0 ? 0 : col / key.group.cols;
    return value * decode(key.scale_dtype, scale.data(), r * grid.cols + c);
  }

  // The weight as a kernel reads it that asks for `layout`; `memory` holds what is packed.
  PlacedWeight placed(Layout layout, std::vector<uint8_t> (&memory)[2]) const {
    PlacedWeight placed;
    placed.config = config;
    placed.data = weight.data();
    placed.scale = scale.empty() ? nullptr : scale.data();
    placed.grid = grid;
    placed.bias = bias.empty() ? nullptr : bias.data();
    if (layout != Layout::kPanel64 || !is_float8(config.scheme.weight.dtype)) return placed;
    const PanelShape shape = panel_shape(config.scheme.weight, config.n, config.k);
    memory[0].resize(shape.code_bytes());
    memory[1].resize(shape.scales_bytes());
    for (int64_t panel = 0; panel < shape.panels; ++panel) {
      pack_panel(shape, weight.data(), panel, memory[0].data() + panel * shape.panel_bytes());
    }
    pack_scales(config.scheme.weight, shape, scale.data(), memory[1].data());
    placed.layout = layout;
    placed.data = memory[0].data();
    placed.scale = memory[1].data();
    return placed;
  }
};

LinearConfig config_of(int64_t n, int64_t k, QuantKey weight, DType in, DType out, bool bias) {
  LinearConfig config;
  config.n = n;
  config.k = k;
  config.scheme.weight = weight;
  config.in = in;
  config.out = out;
  config.bias = bias;
  return config;
}

Layer random_layer(const LinearConfig& config, std::mt19937& random) {
  std::normal_distribution<float> normal;
  const QuantKey& key = config.scheme.weight;
  Layer layer{.config = config};
  layer.weight.resize(config.n * config.k * dtype_bytes(key.dtype));
  for (int64_t i = 0; i < config.n * config.k; ++i) encode(key.dtype, layer.weight.data(), i, normal(random));
  if (is_float8(key.dtype)) {
    layer.grid = scale_grid(key.group, config.n, config.k);
    const int64_t scales = layer.grid.rows * layer.grid.cols;
    layer.scale.resize(scales * dtype_bytes(key.scale_dtype));
    for (int64_t i = 0; i < scales; ++i) {
      if (key.scale_dtype == DType::kE8M0) {
        layer.scale[i] = static_cast<uint8_t>(122 + random() % 8);
      } else {
        encode(DType::kF32, layer.scale.data(), i, 0.02f + 0.1f * std::fabs(normal(random)));
      }
    }
  }
  if (config.bias) {
    layer.bias.resize(config.n);
    for (float& value : layer.bias) value = normal(random);
  }
  return layer;
}

// A matrix with rows further apart than they are long, and guards everywhere else.
struct Matrix {
  static constexpr uint8_t kGuard = 0xFF;  // NaN in every type: reading it shows in y
  DType dtype;
  int64_t rows, cols, stride;
  std::vector<uint8_t> bytes;

  Matrix(DType type, int64_t row_count, int64_t col_count, int64_t gap)
      : dtype(type),
        rows(row_count),
        cols(col_count),
        stride(col_count + gap),
        bytes((rows * stride + gap) * dtype_bytes(type), kGuard) {}

  TensorView view() { return {bytes.data(), dtype, rows, cols, stride}; }
  double at(int64_t row, int64_t col) const { return decode(dtype, bytes.data(), row * stride + col); }
  void set(int64_t row, int64_t col, float value) { encode(dtype, bytes.data(), row * stride + col, value); }
  std::string row_bytes(int64_t row) const {
    const size_t size = dtype_bytes(dtype);
    return {reinterpret_cast<const char*>(bytes.data()) + row * stride * size, cols * size};
  }
  bool guards_hold() const {
    const size_t size = dtype_bytes(dtype);
    for (size_t i = 0; i < bytes.size(); ++i) {
      const int64_t element = i / size;
      const bool inside = element / stride < rows && element % stride < cols;
      if (!inside && bytes[i] != kGuard) return false;
    }
    return true;
  }
};

Matrix random_matrix(DType dtype, int64_t rows, int64_t cols, int64_t gap, std::mt19937& random) {
  std::normal_distribution<float> normal;
  Matrix matrix(dtype, rows, cols, gap);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) matrix.set(r, c, normal(random));
  }
  return matrix;
}

// y = x · Wᵀ by `kernel`; fails the test when something beside y or the asked-for workspace was written.
Matrix run(const Kernel& kernel, const Device& device, const Layer& layer, Matrix& x, int64_t gap = 0) {
  Matrix y(layer.config.out, x.rows, layer.config.n, gap);
  size_t bytes = 0;
  if (kernel.workspace_bytes != nullptr) {
    bytes = kernel.workspace_bytes(layer.config, device, x.rows);
    EXPECT_LE(bytes, kernel.workspace_bytes(layer.config, device, x.rows + 1));
  }
  HostTensor workspace = HostTensor::allocate(DType::kU8, {static_cast<int64_t>(bytes) + 64});
  std::memset(workspace.mutable_data() + bytes, Matrix::kGuard, 64);
  std::vector<uint8_t> memory[2];
  kernel.apply(layer.placed(kernel.layout, memory), x.view(), y.view(), {workspace.mutable_data(), bytes},
               {});
  EXPECT_TRUE(y.guards_hold()) << "wrote beside y";
  for (int i = 0; i < 64; ++i) EXPECT_EQ(workspace.as<uint8_t>()[bytes + i], Matrix::kGuard) << "workspace";
  return y;
}

// |y - truth| <= 2 (2 + sqrt(k)) u32 sum|x w| + u_out |truth|: fp32 accumulation loses about sqrt(k)
// roundings, the scales and the bias two more, and the result is rounded once to its type.
void expect_close(const Layer& layer, const Matrix& x, const Matrix& y) {
  const double per_term = 2 * (2 + std::sqrt(static_cast<double>(layer.config.k))) * 0x1p-24;
  std::vector<double> row(layer.config.k);
  for (int64_t n = 0; n < layer.config.n; ++n) {
    for (int64_t k = 0; k < layer.config.k; ++k) row[k] = layer.weight_at(n, k);
    for (int64_t m = 0; m < x.rows; ++m) {
      double truth = layer.bias.empty() ? 0 : layer.bias[n], terms = std::fabs(truth);
      for (int64_t k = 0; k < layer.config.k; ++k) {
        const double product = row[k] * x.at(m, k);
        truth += product;
        terms += std::fabs(product);
      }
      const double bound =
          per_term * terms + unit_roundoff(y.dtype) * std::fabs(truth) + smallest_step(y.dtype);
      const double error = std::fabs(y.at(m, n) - truth);
      ASSERT_LE(error, bound) << "y[" << m << ", " << n << "] = " << y.at(m, n) << ", truth " << truth;
    }
  }
}

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
      if (candidate.kind == kernel().device) found_ = true, device_ = candidate;
    }
    if (kernel().apply == nullptr) GTEST_SKIP() << kernel().name << " is not in this build";
    if (!found_) GTEST_SKIP() << kernel().name << ": no device of its kind here";
    const Verdict verdict = supports(kernel(), device_);
    if (!verdict) GTEST_SKIP() << kernel().name << ": " << verdict.reason();
    if (kernel().device != DeviceKind::kCpu) GTEST_SKIP() << kernel().name << " runs on memory of its device";
    ASSERT_EQ(kernel().activation, ActivationUse::kAsGiven)
        << "the bound has no term for rounded activations";
    threads_ = num_threads();
  }
  void TearDown() override {
    if (threads_ != 0) set_num_threads(threads_);
  }

  const Kernel& kernel() const { return *GetParam(); }

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
    expect_close(layer, x, y);
    return true;
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
    const int64_t codes = is_float8(dtype) ? 256 : 65536, k = 16;
    Layer layer{.config = config_of(codes / k, k, {.dtype = dtype}, DType::kF32, DType::kF32, false)};
    if (!can_implement(kernel(), layer.config, device_)) continue;
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
    Matrix identity(DType::kF32, k, k, 0);
    for (int64_t r = 0; r < k; ++r) {
      for (int64_t c = 0; c < k; ++c) identity.set(r, c, r == c);
    }
    const Matrix together = run(kernel(), device_, layer, identity);
    for (int64_t t = 0; t < k; ++t) {
      Matrix token(DType::kF32, 1, k, 0);
      for (int64_t c = 0; c < k; ++c) token.set(0, c, t == c);
      const Matrix alone = run(kernel(), device_, layer, token);
      for (int64_t n = 0; n < layer.config.n; ++n) {
        const double truth = decode(dtype, layer.weight.data(), n * k + t);
        ASSERT_EQ(together.at(t, n), truth) << dtype_name(dtype) << " code " << n * k + t;
        ASSERT_EQ(alone.at(0, n), truth) << dtype_name(dtype) << " code " << n * k + t;
      }
    }
  }
}

// Linear refuses such weights; a kernel that is given one all the same must not make numbers of it.
TEST_P(Conformance, CodesThatAreNotFiniteStayWhatTheyAre) {
  constexpr int64_t kN = 70, kK = 9, kRow = 66, kCol = 6;
  for (DType dtype : {DType::kE4M3, DType::kE5M2}) {
    for (int code = 0; code < 256; ++code) {
      const auto byte = static_cast<uint8_t>(code);
      const double value = decode(dtype, &byte, 0);
      Layer layer{.config = config_of(kN, kK, {.dtype = dtype}, DType::kF32, DType::kF32, false)};
      if (std::isfinite(value) || !can_implement(kernel(), layer.config, device_)) continue;
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

#if defined(__x86_64__)
// Hosts built with -ffast-math set both bits for the whole process.
TEST_P(Conformance, FlushToZeroInTheCallerChangesNothing) {
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
