#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "anyfp8/base/float8.h"
#include "anyfp8/base/tensor.h"
#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/kernels/common/panel64.h"
#include "anyfp8/kernels/kernel.h"
#include "tests/device_buffer.h"

// What a kernel is run on and held to: layers, guarded matrices, and y in double with its error bound.
namespace anyfp8::test {

inline double decode(DType dtype, const void* data, int64_t index) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  uint16_t half;
  float single;
  switch (dtype) {
    case DType::kE4M3: return e4m3_to_f32(bytes[index]);
    case DType::kE5M2: return e5m2_to_f32(bytes[index]);
    case DType::kE8M0: return bytes[index] == 255 ? NAN : std::ldexp(1.0, bytes[index] - 127);
    case DType::kBF16: std::memcpy(&half, bytes + 2 * index, 2); return bf16_to_f32(half);
    case DType::kF16: std::memcpy(&half, bytes + 2 * index, 2); return f16_to_f32(half);
    default: std::memcpy(&single, bytes + 4 * index, 4); return single;
  }
}

inline void encode(DType dtype, void* data, int64_t index, float value) {
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
inline double unit_roundoff(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-24;
}
inline double smallest_step(DType dtype) { return dtype == DType::kF16 ? 0x1p-24 : 0x1p-126; }

struct Layer {
  LinearConfig config;
  std::vector<uint8_t> weight;  // [n, k], and not one byte more, so that asan sees what reads past it
  std::vector<uint8_t> scale;
  std::vector<float> bias;
  Grid grid{0, 0};
  bool finite = true;                // no code is NaN or infinite
  std::optional<float> input_scale;  // of activations, where the scheme says it is stored
  std::optional<float> input_scale_ub;

  double weight_at(int64_t row, int64_t col) const {
    const QuantKey& key = config.scheme.weight;
    const double value = decode(key.dtype, weight.data(), row * config.k + col);
    if (scale.empty()) return value;
    const int64_t r = key.group.rows == 0 ? 0 : row / key.group.rows;
    const int64_t c = key.group.cols == 0 ? 0 : col / key.group.cols;
    return value * decode(key.scale_dtype, scale.data(), r * grid.cols + c);
  }

  float max_scale() const {
    double largest = 0;
    for (int64_t i = 0; i < grid.rows * grid.cols; ++i) {
      largest = std::max(largest, decode(config.scheme.weight.scale_dtype, scale.data(), i));
    }
    return static_cast<float>(largest);
  }

  // The codes as a CUDA kernel reads them that asks for `layout`.
  std::vector<uint8_t> device_codes(Layout layout) const {
    if (layout != Layout::kK64Shuffled || !is_float8(config.scheme.weight.dtype)) return weight;
    const auto k = static_cast<size_t>(config.k), pitch = static_cast<size_t>(shuffled_pitch(config.k));
    std::vector<uint8_t> codes(static_cast<size_t>(config.n) * pitch);
    for (size_t row = 0; row < static_cast<size_t>(config.n); ++row) {
      std::vector<uint8_t> padded(pitch);
      std::memcpy(padded.data(), weight.data() + row * k, k);
      for (size_t i = 0; i < pitch; i += kShuffleChunk) shuffle_chunk(&padded[i], &codes[row * pitch + i]);
    }
    return codes;
  }

  // The weight as a kernel of CPUs reads it that asks for `layout`; `memory` holds what is packed.
  PlacedWeight placed(Layout layout, std::vector<uint8_t> (&memory)[2]) const {
    PlacedWeight placed;
    placed.config = config;
    placed.data = weight.data();
    placed.scale = scale.empty() ? nullptr : scale.data();
    placed.grid = grid;
    placed.finite_codes = finite;
    placed.bias = bias.empty() ? nullptr : bias.data();
    if (layout != Layout::kPanel64 || !is_float8(config.scheme.weight.dtype)) return placed;
    const PanelShape shape = panel_shape(config.scheme.weight, config.n, config.k);
    memory[0].resize(shape.readable_bytes());
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

inline LinearConfig config_of(int64_t n, int64_t k, QuantKey weight, DType in, DType out, bool bias) {
  LinearConfig config;
  config.n = n;
  config.k = k;
  config.scheme.weight = weight;
  config.in = in;
  config.out = out;
  config.bias = bias;
  return config;
}

inline Layer random_layer(const LinearConfig& config, std::mt19937& random) {
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

inline Matrix random_matrix(DType dtype, int64_t rows, int64_t cols, int64_t gap, std::mt19937& random) {
  std::normal_distribution<float> normal;
  Matrix matrix(dtype, rows, cols, gap);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) matrix.set(r, c, normal(random));
  }
  return matrix;
}

// Scratch memory that `kernel` asks for.
inline size_t scratch_bytes(const Kernel& kernel, const Device& device, const Layer& layer, int64_t m) {
  if (kernel.workspace_bytes == nullptr) return 0;
  const size_t bytes = kernel.workspace_bytes(layer.config, device, m);
  EXPECT_LE(bytes, kernel.workspace_bytes(layer.config, device, m + 1));
  return bytes;
}

// run() on a CUDA device. `skip` elements lie between an aligned address and x, and y.
inline Matrix run_on_cuda(const Kernel& kernel, const Device& device, const Layer& layer, Matrix& x,
                          int64_t gap, size_t skip) {
  const DeviceGuard guard(device);
  const QuantKey& key = layer.config.scheme.weight;
  Matrix y(layer.config.out, x.rows, layer.config.n, gap);
  const size_t bytes = scratch_bytes(kernel, device, layer, x.rows);
  const float input_scale = layer.input_scale.value_or(0), max_scale = layer.max_scale();
  const float upper_bound = layer.input_scale_ub.value_or(0);
  const DeviceBuffer data(device, layer.device_codes(kernel.layout)), scale(device, layer.scale),
      bias(device, layer.bias.data(), layer.bias.size() * sizeof(float)),
      input(device, &input_scale, sizeof(float)), largest(device, &max_scale, sizeof(float)),
      most(device, &upper_bound, sizeof(float)), from(device, x.bytes, skip * dtype_bytes(x.dtype)),
      to(device, y.bytes, skip * dtype_bytes(y.dtype)), scratch(device, bytes);

  PlacedWeight placed;
  placed.config = layer.config;
  placed.device = &device;
  placed.layout = is_float8(key.dtype) ? kernel.layout : Layout::kRowMajor;
  placed.data = data.data();
  placed.scale = layer.scale.empty() ? nullptr : scale.data();
  placed.grid = layer.grid;
  placed.finite_codes = layer.finite;
  placed.bias = layer.bias.empty() ? nullptr : static_cast<const float*>(bias.data());
  placed.input_scale = layer.input_scale ? static_cast<const float*>(input.data()) : nullptr;
  placed.input_scale_ub = layer.input_scale_ub ? static_cast<const float*>(most.data()) : nullptr;
  placed.max_scale = layer.scale.empty() ? nullptr : static_cast<const float*>(largest.data());
  TensorView x_view = x.view(), y_view = y.view();
  x_view.data = from.data();
  y_view.data = to.data();
  if (kernel.prepare != nullptr) kernel.prepare(placed);
  kernel.apply(placed, x_view, y_view, {scratch.data(), bytes}, {});
  synchronize({});

  data.expect_unchanged("the weight");
  scale.expect_unchanged("the scales");
  bias.expect_unchanged("the bias");
  input.expect_unchanged("the activation scale");
  largest.expect_unchanged("the largest scale");
  from.expect_unchanged("x");
  scratch.expect_guards("the workspace");
  to.expect_guards("y");
  y.bytes = to.read();
  EXPECT_TRUE(y.guards_hold()) << "wrote between rows of y";
  return y;
}

// y = x · Wᵀ by `kernel`; fails the test when something beside y or the asked-for workspace was written.
inline Matrix run(const Kernel& kernel, const Device& device, const Layer& layer, Matrix& x,
                  int64_t gap = 0) {
  if (device.kind == DeviceKind::kCuda) return run_on_cuda(kernel, device, layer, x, gap, 0);
  Matrix y(layer.config.out, x.rows, layer.config.n, gap);
  const size_t bytes = scratch_bytes(kernel, device, layer, x.rows);
  HostTensor workspace = HostTensor::allocate(DType::kU8, {static_cast<int64_t>(bytes) + 64});
  std::memset(workspace.mutable_data(), Matrix::kGuard, bytes + 64);
  std::vector<uint8_t> memory[2];
  PlacedWeight placed = layer.placed(kernel.layout, memory);
  placed.device = &device;
  kernel.apply(placed, x.view(), y.view(), {workspace.mutable_data(), bytes}, {});
  EXPECT_TRUE(y.guards_hold()) << "wrote beside y";
  for (int i = 0; i < 64; ++i) EXPECT_EQ(workspace.as<uint8_t>()[bytes + i], Matrix::kGuard) << "workspace";
  return y;
}

// Error of a weight as a kernel multiplies it, beyond its code and its scale.
struct WeightRounding {
  double relative = 0, absolute = 0;
};

// One rounding to 16 bits where the product of code and scale is stored as such; in fp16 also what is too
// small beside the largest scale (slab_power.h).
inline WeightRounding weight_rounding(const Kernel& kernel, const Layer& layer) {
  const DType code = layer.config.scheme.weight.dtype, half = layer.config.in;
  if (kernel.name != "cuda_dequant_w8a16" || !is_float8(code)) return {};
  if (half != DType::kF16) return {.relative = unit_roundoff(half)};
  return {.relative = unit_roundoff(half),
          .absolute = layer.max_scale() * (code == DType::kE4M3 ? 0x1p-31 : 0x1p-24)};
}

// |y - truth| <= 2 (2 + sqrt(k)) u32 sum|x w| + u_out |truth|: fp32 accumulation loses about sqrt(k)
// roundings, the scales and the bias two more, and the result is rounded once to its type. `allowed` is what
// a test has reason to add; `every`: looks at one output of so many; `rounding`: see weight_rounding().
inline void expect_close(const Layer& layer, const Matrix& x, const Matrix& y, double allowed = 0,
                         int64_t every = 1, WeightRounding rounding = {}) {
  const double per_term =
      2 * (2 + std::sqrt(static_cast<double>(layer.config.k))) * 0x1p-24 + rounding.relative;
  std::vector<double> row(layer.config.k);
  for (int64_t n = 0; n < layer.config.n; ++n) {
    for (int64_t k = 0; k < layer.config.k; ++k) row[k] = layer.weight_at(n, k);
    for (int64_t m = n % every; m < x.rows; m += every) {
      double truth = layer.bias.empty() ? 0 : layer.bias[n], terms = std::fabs(truth), inputs = 0;
      for (int64_t k = 0; k < layer.config.k; ++k) {
        const double product = row[k] * x.at(m, k);
        truth += product;
        terms += std::fabs(product);
        inputs += std::fabs(x.at(m, k));
      }
      const double bound = per_term * terms + rounding.absolute * inputs +
                           unit_roundoff(y.dtype) * std::fabs(truth) + smallest_step(y.dtype) + allowed;
      const double error = std::fabs(y.at(m, n) - truth);
      ASSERT_LE(error, bound) << "y[" << m << ", " << n << "] = " << y.at(m, n) << ", truth " << truth;
    }
  }
}

}  // namespace anyfp8::test
