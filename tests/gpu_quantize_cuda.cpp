// The quantisers of activations against activation_scale.h, bit for bit. Compiled in CUDA builds; skips
// without a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "anyfp8/kernels/common/mx_scale_tiles.h"
#include "anyfp8/kernels/common/quantize_activation.h"
#include "anyfp8/kernels/cuda_cublaslt_w8a8/mx_slab.h"
#include "tests/gpu_case.h"
#include "tests/quantised_case.h"

namespace anyfp8 {
namespace {

using namespace test;

constexpr DType kHalf[] = {DType::kBF16, DType::kF16};
constexpr DType kCodes[] = {DType::kE4M3, DType::kE5M2};
constexpr QuantKey kKeys[] = {{.group = kPerTensor, .source = ScaleSource::kStored},
                              {.group = kPerTensor, .source = ScaleSource::kDynamic},
                              {.group = kPerRow, .source = ScaleSource::kDynamic},
                              {.group = kGroup128, .source = ScaleSource::kDynamic},
                              {.group = kMx32, .source = ScaleSource::kDynamic, .scale_dtype = DType::kE8M0}};

bool is_mx(const QuantKey& key) { return key.group == kMx32; }

// Bytes of the scales of `rows` tokens.
size_t scale_bytes(const QuantKey& key, int64_t rows, int64_t k) {
  if (is_mx(key)) return static_cast<size_t>(mx_scale_bytes(rows, shuffled_pitch(k) / 32));
  return static_cast<size_t>(rows * (key.group.cols == 0 ? 1 : (k + 127) / 128)) * 4;
}

// That of group `group` of a row, as quantize_activation() lays them out.
float scale_at(const QuantKey& key, const std::vector<uint8_t>& scales, int64_t rows, int64_t k, int64_t row,
               int64_t group) {
  if (is_mx(key)) {
    const int64_t word = mx_scale_place(row, group / 4, mx_scale_words(shuffled_pitch(k) / 32));
    return e8m0_to_f32(scales[static_cast<size_t>(4 * word + group % 4)]);
  }
  float scale;
  std::memcpy(&scale, &scales[static_cast<size_t>((group * rows + row) * 4)], 4);
  return scale;
}

class GpuQuantize : public testing::Test {
 protected:
  void SetUp() override {
    ANYFP8_NEED_GPU(device_);
    if (device_.cc < ComputeCapability{8, 9}) GTEST_SKIP() << device_.name << " has no FP8 conversions";
  }

  struct Given {
    std::optional<float> stored, upper_bound;
    int64_t row_begin = 0, rows = -1;  // -1: all
    size_t skip = 0;
  };

  // What quantize_activation() writes is what the host finds, with zeros around it, and nothing else is
  // touched.
  void expect_same(const QuantKey& key, const Matrix& x, const Given& given) {
    SCOPED_TRACE(std::string(dtype_name(key.dtype)) + " by " + group_text(key.group) + " of " +
                 std::string(dtype_name(x.dtype)) + ", m = " + std::to_string(x.rows) +
                 ", k = " + std::to_string(x.cols) + ", stride " + std::to_string(x.stride) + ", skip " +
                 std::to_string(given.skip) + ", from row " + std::to_string(given.row_begin));
    const DeviceGuard guard(device_);
    const int64_t rows = given.rows < 0 ? x.rows : given.rows, pitch = shuffled_pitch(x.cols);
    const int64_t groups = scale_grid(key.group, 1, x.cols).cols;
    const float stored = given.stored.value_or(0), bound = given.upper_bound.value_or(0);
    const DeviceBuffer from(device_, x.bytes, given.skip * 2), input(device_, &stored, 4),
        most(device_, &bound, 4), codes(device_, static_cast<size_t>(rows * pitch)),
        scales(device_, scale_bytes(key, rows, x.cols)), maxima(device_, kMaxima * 4);
    TensorView view{from.data(), x.dtype, x.rows, x.cols, x.stride};
    quantize_activation({.key = key,
                         .x = view,
                         .row_begin = given.row_begin,
                         .rows = rows,
                         .stored_scale = static_cast<const float*>(input.data()),
                         .upper_bound = given.upper_bound ? static_cast<const float*>(most.data()) : nullptr,
                         .codes = static_cast<uint8_t*>(codes.data()),
                         .scales = scales.data(),
                         .maxima = static_cast<uint32_t*>(maxima.data())},
                        device_, {});
    synchronize({});
    from.expect_unchanged("x");
    codes.expect_guards("the codes");
    scales.expect_guards("the scales");
    maxima.expect_guards("the maxima");

    const QuantisedRows expected = quantise_on_host(key, x, given.stored, given.upper_bound);
    const std::vector<uint8_t> found = codes.read(), found_scales = scales.read();
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t x_row = given.row_begin + row;
      std::vector<uint8_t> natural(static_cast<size_t>(pitch));
      if (is_mx(key)) {
        std::memcpy(natural.data(), found.data() + row * pitch, natural.size());
      } else {
        unshuffle_row(found.data() + row * pitch, natural.data(), pitch);
      }
      for (int64_t c = 0; c < pitch; ++c) {
        const int code = natural[static_cast<size_t>(c)];
        if (c >= x.cols || x_row >= x.rows) {
          ASSERT_EQ(code, 0) << "padding at " << row << ", " << c;
          continue;
        }
        const int wanted = expected.codes[static_cast<size_t>(x_row * x.cols + c)];
        if (std::isnan(decode(key.dtype, &expected.codes[static_cast<size_t>(x_row * x.cols + c)], 0))) {
          const auto byte = static_cast<uint8_t>(code);
          ASSERT_TRUE(std::isnan(decode(key.dtype, &byte, 0))) << row << ", " << c << ": " << code;
        } else {
          ASSERT_EQ(code, wanted) << row << ", " << c << ": x = " << x.at(x_row, c) << ", scale "
                                  << expected.scales[static_cast<size_t>(x_row * x.cols + c)];
        }
      }
      for (int64_t group = 0; group < groups; ++group) {
        const float scale = scale_at(key, found_scales, rows, x.cols, row, group);
        const float wanted =
            x_row < x.rows ? expected.scales[static_cast<size_t>(x_row * x.cols + group * key.group.cols)]
            : key.group == kPerTensor ? expected.scales[0]
                                      : kActivationScaleFloor;
        ASSERT_EQ(scale, wanted) << "scale of row " << row << ", group " << group;
      }
    }
    if (!is_mx(key)) return;
    for (const uint8_t scale : found_scales) ASSERT_NE(scale, 0xFF) << "NaN in the padding of the scales";
  }

  Device device_;
};

// Every number of both types under scales of every kind, those that fast_quotient() does not take among them.
TEST_F(GpuQuantize, EveryNumberUnderStoredScales) {
  for (const DType half : kHalf) {
    Matrix x(half, 64, 1024, 0);
    for (int64_t i = 0; i < 65536; ++i) {
      const auto bits = static_cast<uint16_t>(i);
      std::memcpy(x.bytes.data() + 2 * i, &bits, 2);
    }
    for (const DType codes : kCodes) {
      for (const float scale : {1.0f, 1.0f / 448, 0.0123f, 3.0f, 1e-12f, 1e10f, 0x1p-80f, 0x1p-90f, 1e-40f,
                                0x1p-149f, 0x1p120f, 3e38f}) {
        expect_same({.dtype = codes, .group = kPerTensor, .source = ScaleSource::kStored}, x,
                    {.stored = scale});
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(GpuQuantize, EveryNumberUnderScalesOfItsOwn) {
  std::mt19937 random(1);
  for (const DType half : kHalf) {
    std::vector<uint16_t> bits(65536);
    for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
    std::shuffle(bits.begin(), bits.end(), random);
    Matrix shuffled(half, 512, 128, 0), sorted(half, 512, 128, 0);
    std::memcpy(shuffled.bytes.data(), bits.data(), 65536 * 2);
    std::sort(bits.begin(), bits.end());
    std::memcpy(sorted.bytes.data(), bits.data(), 65536 * 2);
    for (const DType codes : kCodes) {
      for (QuantKey key : kKeys) {
        if (key.source == ScaleSource::kStored) continue;
        key.dtype = codes;
        for (const std::optional<float> bound : {std::optional<float>(), std::optional<float>(2.5f)}) {
          expect_same(key, sorted, {.upper_bound = bound});
          expect_same(key, shuffled, {.upper_bound = bound});
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(GpuQuantize, EveryShapeAndAlignment) {
  std::mt19937 random(2);
  size_t step = 0;
  for (const int64_t k : {1, 7, 16, 63, 64, 65, 127, 128, 129, 200, 512, 1000, 4096, 5000, 14336, 33000}) {
    for (const int64_t m : {1, 2, 3, 8, 9, 33}) {
      for (QuantKey key : kKeys) {
        ++step;
        key.dtype = kCodes[step % 5 == 0];
        const Matrix x = random_matrix(kHalf[step % 2], m, k, static_cast<int64_t>(step % 3) * 4, random);
        Given given{.stored = 0.01f, .skip = step % 4 == 0 ? step % 8 : 0};
        expect_same(key, x, given);
        if (step % 2 == 0 && m > 2) {  // a part of the tokens, or more than there are
          given.row_begin = m / 2;
          given.rows = m - m / 2 + (key.group == kGroup128 ? 3 : 0);
          expect_same(key, x, given);
        }
        if (HasFailure()) return;
      }
    }
  }
}

// More than the blocks keep in registers while they wait for each other.
TEST_F(GpuQuantize, ALargeTensorHasOneScale) {
  std::mt19937 random(3);
  Matrix x = random_matrix(DType::kBF16, 1500, 8000, 0, random);
  x.set(1499, 7999, 100);
  expect_same({.group = kPerTensor, .source = ScaleSource::kDynamic}, x, {});
  expect_same({.group = kPerTensor, .source = ScaleSource::kDynamic}, x, {.row_begin = 700, .rows = 9});
}

// What cuBLASLt reads of MX weights where there is Blackwell; copying it needs none.
TEST_F(GpuQuantize, SlabsOfMxWeightsAreInOrder) {
  const DeviceGuard guard(device_);
  std::mt19937 random(5);
  for (const Grid shape : {Grid{8, 32}, Grid{300, 64}, Grid{272, 200}, Grid{384, 1408}}) {
    SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.cols));
    const int64_t k = shape.cols, pitch = shuffled_pitch(k), words = mx_scale_words(pitch / 32);
    const Layer layer = random_layer(config_of(shape.rows, k, {.group = kMx32, .scale_dtype = DType::kE8M0},
                                               DType::kBF16, DType::kBF16, false),
                                     random);
    const DeviceBuffer weight(device_, layer.device_codes(Layout::kK64Shuffled)), scale(device_, layer.scale);
    PlacedWeight placed;
    placed.config = layer.config;
    placed.data = weight.data();
    placed.scale = scale.data();
    placed.grid = layer.grid;
    for (const int64_t begin : {int64_t{0}, shape.rows / 2}) {
      const int64_t rows = std::min<int64_t>(shape.rows - begin, 140);
      const DeviceBuffer codes(device_, static_cast<size_t>(rows * pitch)),
          tiles(device_, static_cast<size_t>(mx_scale_bytes(rows, pitch / 32)));
      w8a8::copy_mx_slab(placed, begin, rows, codes.data(), tiles.data(), {});
      synchronize({});
      codes.expect_guards("the codes");
      tiles.expect_guards("the scales");
      const std::vector<uint8_t> found = codes.read(), found_scales = tiles.read();
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t c = 0; c < pitch; ++c) {
          const int wanted = c < k ? layer.weight[static_cast<size_t>((begin + row) * k + c)] : 0;
          ASSERT_EQ(int{found[static_cast<size_t>(row * pitch + c)]}, wanted) << row << ", " << c;
        }
        for (int64_t group = 0; group < layer.grid.cols; ++group) {
          const int64_t place = 4 * mx_scale_place(row, group / 4, words) + group % 4;
          ASSERT_EQ(found_scales[static_cast<size_t>(place)],
                    layer.scale[static_cast<size_t>((begin + row) * layer.grid.cols + group)])
              << row << ", " << group;
        }
      }
      for (const uint8_t code : found_scales) ASSERT_NE(code, 0xFF);
    }
  }
}

TEST_F(GpuQuantize, ExtrasAreWrittenBesideX) {
  const DeviceGuard guard(device_);
  std::mt19937 random(4);
  const Matrix x = random_matrix(DType::kBF16, 6, 1408, 0, random);
  constexpr int64_t kBias = 10007, kRows = 79, kCols = 11, kPitch = 12;
  std::vector<float> bias(kBias), scale(kRows * kCols);
  std::normal_distribution<float> normal;
  for (float& value : bias) value = normal(random);
  for (float& value : scale) value = normal(random);
  for (const QuantKey& key : kKeys) {
    const float stored = 1;
    const DeviceBuffer from(device_, x.bytes), input(device_, &stored, 4), codes(device_, 6 * 1408),
        scales(device_, scale_bytes(key, 6, 1408)), maxima(device_, kMaxima * 4),
        bias_from(device_, bias.data(), kBias * 4), bias_to(device_, kBias * 2),
        scale_from(device_, scale.data(), kRows * kCols * 4), scale_to(device_, kRows * kPitch * 4);
    quantize_activation({.key = key,
                         .x = {from.data(), x.dtype, x.rows, x.cols, x.stride},
                         .rows = x.rows,
                         .stored_scale = static_cast<const float*>(input.data()),
                         .codes = static_cast<uint8_t*>(codes.data()),
                         .scales = scales.data(),
                         .maxima = static_cast<uint32_t*>(maxima.data()),
                         .extras = {.bias = static_cast<const float*>(bias_from.data()),
                                    .rounded_bias = bias_to.data(),
                                    .bias_dtype = DType::kF16,
                                    .bias_count = kBias,
                                    .scale = static_cast<const float*>(scale_from.data()),
                                    .pitched_scale = static_cast<float*>(scale_to.data()),
                                    .scale_rows = kRows,
                                    .scale_cols = kCols,
                                    .scale_pitch = kPitch}},
                        device_, {});
    synchronize({});
    bias_to.expect_guards("the bias");
    scale_to.expect_guards("the weight's scales");
    const std::vector<uint8_t> rounded = bias_to.read(), pitched = scale_to.read();
    for (int64_t i = 0; i < kBias; ++i) {
      ASSERT_EQ(decode(DType::kF16, rounded.data(), i), f16_to_f32(f32_to_f16(bias[static_cast<size_t>(i)])));
    }
    for (int64_t i = 0; i < kRows * kCols; ++i) {
      ASSERT_EQ(decode(DType::kF32, pitched.data(), i / kCols * kPitch + i % kCols),
                scale[static_cast<size_t>(i)]);
    }
  }
}

}  // namespace
}  // namespace anyfp8
