#include "anyfp8/scheme/quantize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "anyfp8/base/float8.h"
#include "anyfp8/base/float_mode.h"
#include "anyfp8/base/text.h"
#include "anyfp8/base/threads.h"

namespace anyfp8 {
namespace {

// Keeps w / scale finite over groups of zeros; the value other FP8 quantisers write there.
constexpr float kSmallestScale = 1e-12f;

struct SchemeRow {
  QuantizeScheme scheme;
  std::string_view name;
  Group group;
};
constexpr SchemeRow kSchemes[] = {
    {QuantizeScheme::kTensor, "tensor", kPerTensor},
    {QuantizeScheme::kChannel, "channel", kPerRow},
    {QuantizeScheme::kBlock, "block", kBlock128},
    {QuantizeScheme::kMxfp8, "mxfp8", kMx32},
};

// Part [row_begin, row_end) x [col_begin, col_end) of the weight: what one scale covers.
struct Block {
  int64_t row_begin, row_end, col_begin, col_end;
};

float largest_magnitude(const float* w, int64_t k, const Block& b) {
  float largest = 0;
  for (int64_t r = b.row_begin; r < b.row_end; ++r) {
    for (int64_t c = b.col_begin; c < b.col_end; ++c) largest = std::max(largest, std::fabs(w[r * k + c]));
  }
  return largest;
}

// The smallest code whose power of two brings every element within 448.
uint8_t e8m0_scale(float largest) {
  int exponent = -127;
  if (largest > 0) exponent = std::max(exponent, std::ilogb(largest) - 9);
  while (std::ldexp(double{kE4M3Max}, exponent) < largest) ++exponent;
  return static_cast<uint8_t>(exponent + 127);
}

void quantize_block(const float* w, uint8_t* data, int64_t k, const Block& b, float scale) {
  for (int64_t r = b.row_begin; r < b.row_end; ++r) {
    for (int64_t c = b.col_begin; c < b.col_end; ++c) data[r * k + c] = f32_to_e4m3(w[r * k + c] / scale);
  }
}

}  // namespace

QuantizeScheme quantize_scheme_from_name(std::string_view name) {
  std::vector<std::string_view> names;
  for (const SchemeRow& row : kSchemes) {
    if (row.name == name) return row.scheme;
    names.push_back(row.name);
  }
  throw fail(ErrorCode::kInvalidArgument, "\"{}\" is no scheme to quantise to; {} are", name,
             fmt::join(names, ", "));
}

Fp8Weight quantize(const HostTensor& weight, QuantizeScheme scheme, DType scale_dtype) {
  if (!weight.defined() || weight.shape().size() != 2 || weight.size() == 0 ||
      !is_float16_or_32(weight.dtype())) {
    throw fail(ErrorCode::kInvalidArgument,
               "only bf16, f16 and f32 weights [n, k] can be quantised; this one is {} {}",
               dtype_name(weight.dtype()), shape_text(weight.shape()));
  }
  if (scale_dtype != DType::kF32 && scale_dtype != DType::kBF16) {
    throw fail(ErrorCode::kInvalidArgument, "scales are rounded to f32 or bf16, not to {}",
               dtype_name(scale_dtype));
  }
  const int64_t n = weight.shape()[0], k = weight.shape()[1];
  const bool mx = scheme == QuantizeScheme::kMxfp8;
  if (mx && k % kMx32.cols != 0) {
    throw fail(ErrorCode::kInvalidArgument, "mxfp8 needs k to be a multiple of 32; this weight has k = {}",
               k);
  }
  const Group group = kSchemes[static_cast<int>(scheme)].group;
  const Grid grid = scale_grid(group, n, k);
  Fp8Weight result;
  result.scheme.weight = {DType::kE4M3, group, ScaleSource::kStored, mx ? DType::kE8M0 : DType::kF32};
  result.data = HostTensor::allocate(DType::kE4M3, {n, k});
  result.scale = HostTensor::allocate(result.scheme.weight.scale_dtype, {grid.rows, grid.cols});
  uint8_t* data = reinterpret_cast<uint8_t*>(result.data.mutable_data());
  std::byte* scales = result.scale.mutable_data();

  const HostTensor wide = to_f32(weight);
  const float* w = wide.as<float>();
  for (int64_t i = 0; i < n * k; ++i) {
    if (!std::isfinite(w[i])) {
      throw fail(ErrorCode::kInvalidArgument,
                 "the weight at [{}, {}] is {}; only finite weights can be quantised", i / k, i % k, w[i]);
    }
  }
  const int64_t rows = group.rows == 0 ? n : group.rows, cols = group.cols == 0 ? k : group.cols;
#pragma omp parallel num_threads(num_threads()) if (n * k > 1 << 16)
  {
    const DefaultFloatMode mode;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < grid.rows * grid.cols; ++i) {
      const int64_t r = i / grid.cols * rows, c = i % grid.cols * cols;
      const Block block{r, std::min(n, r + rows), c, std::min(k, c + cols)};
      const float largest = largest_magnitude(w, k, block);
      float scale;
      if (mx) {
        const uint8_t code = e8m0_scale(largest);
        scales[i] = std::byte{code};
        scale = e8m0_to_f32(code);
      } else {
        // A product with the rounded 1/448, not a division: PyTorch on a GPU, which wrote most FP8
        // checkpoints, divides by a constant this way, and the last bit of half the scales depends on it.
        scale = std::max(largest * (1.0f / kE4M3Max), kSmallestScale);
        if (scale_dtype == DType::kBF16) scale = bf16_to_f32(f32_to_bf16(scale));
        reinterpret_cast<float*>(scales)[i] = scale;
      }
      quantize_block(w, data, k, block, scale);
    }
  }
  return result;
}

}  // namespace anyfp8
