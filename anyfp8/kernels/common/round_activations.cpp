#include "anyfp8/kernels/common/round_activations.h"

#include <algorithm>
#include <cmath>

#include "anyfp8/base/element.h"
#include "anyfp8/base/text.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/kernels/common/activation_scale.h"

namespace anyfp8 {
namespace {

struct Region {
  int64_t row_begin, row_end, col_begin, col_end;
};

// What one scale covers.
Region region_of(Group group, int64_t m, int64_t k, int64_t grid_row, int64_t grid_col) {
  const auto part = [](int32_t extent, int64_t size, int64_t index) {
    const int64_t step = extent == 0 ? size : extent;
    return std::pair{index * step, std::min((index + 1) * step, size)};
  };
  const auto [row_begin, row_end] = part(group.rows, m, grid_row);
  const auto [col_begin, col_end] = part(group.cols, k, grid_col);
  return {row_begin, row_end, col_begin, col_end};
}

float element(const TensorView& x, int64_t row, int64_t col) {
  return load_element(x.data, x.dtype, row * x.row_stride + col);
}

float scale_of(const TensorView& x, const ActivationQuant& quant, const Region& region) {
  if (quant.key.source == ScaleSource::kStored) return *quant.stored_scale;
  float amax = 0;
  for (int64_t row = region.row_begin; row < region.row_end; ++row) {
    for (int64_t col = region.col_begin; col < region.col_end; ++col) {
      const float magnitude = std::fabs(element(x, row, col));
      if (std::isfinite(magnitude)) amax = std::max(amax, magnitude);
    }
  }
  return activation_scale(amax, quant.upper_bound.value_or(kNoUpperBound), quant.key.dtype,
                          quant.key.scale_dtype);
}

// write(row, col, code, scale) for each element, write_scale(index, scale) for each place of the grid.
template <typename Write, typename WriteScale>
void quantize_each(const TensorView& x, const ActivationQuant& quant, const Write& write,
                   const WriteScale& write_scale) {
  if (const Verdict verdict = can_quantize(quant); !verdict)
    throw Error(ErrorCode::kUnsupported, verdict.reason());
  const int64_t m = x.rows, k = x.cols;
  if (m == 0) return;
  const Grid grid = scale_grid(quant.key.group, m, k);
  const bool clamps = clamps_infinity(quant.key.source, quant.upper_bound.has_value());
#pragma omp parallel for num_threads(num_threads()) if (m * k >= 1 << 15)
  for (int64_t place = 0; place < grid.rows * grid.cols; ++place) {
    const Region region = region_of(quant.key.group, m, k, place / grid.cols, place % grid.cols);
    const float scale = scale_of(x, quant, region);
    write_scale(place, scale);
    for (int64_t row = region.row_begin; row < region.row_end; ++row) {
      for (int64_t col = region.col_begin; col < region.col_end; ++col)
        write(row, col, activation_code(element(x, row, col), scale, quant.key.dtype, clamps), scale);
    }
  }
}

}  // namespace

std::optional<ActivationQuant> activation_quant(const Fp8Weight& weight) {
  if (!weight.scheme.activation) return std::nullopt;
  return ActivationQuant{*weight.scheme.activation, weight.input_scale, weight.input_scale_ub};
}

Verdict can_quantize(const ActivationQuant& quant) {
  const QuantKey& key = quant.key;
  ANYFP8_NEED(is_float8(key.dtype), "activations are to become {}; e4m3 and e5m2 are defined",
              dtype_name(key.dtype));
  const bool stored = key.source == ScaleSource::kStored;
  ANYFP8_NEED(key.scale_dtype == DType::kF32 || (key.scale_dtype == DType::kE8M0 && !stored),
              "{} activation scales are {}; f32 ones, and dynamic e8m0 ones, are defined",
              stored ? "stored" : "dynamic", dtype_name(key.scale_dtype));
  ANYFP8_NEED(!stored || quant.stored_scale.has_value(),
              "the activation scale is to be stored and is not there");
  ANYFP8_NEED(!stored || key.group == kPerTensor,
              "stored activation scales are by {}; by tensor they are defined", group_text(key.group));
  return Verdict::yes();
}

QuantizedActivations quantize_activations(const TensorView& x, const ActivationQuant& quant) {
  const Grid grid = scale_grid(quant.key.group, x.rows, x.cols);
  QuantizedActivations result{HostTensor::allocate(quant.key.dtype, {x.rows, x.cols}),
                              HostTensor::allocate(DType::kF32, {grid.rows, grid.cols})};
  auto* codes = reinterpret_cast<uint8_t*>(result.codes.mutable_data());
  auto* scales = reinterpret_cast<float*>(result.scales.mutable_data());
  quantize_each(
      x, quant, [&](int64_t row, int64_t col, uint8_t code, float) { codes[row * x.cols + col] = code; },
      [&](int64_t place, float scale) { scales[place] = scale; });
  return result;
}

void round_activations(const TensorView& x, const ActivationQuant& quant, float* y) {
  const bool e4m3 = quant.key.dtype == DType::kE4M3;
  quantize_each(
      x, quant,
      [&](int64_t row, int64_t col, uint8_t code, float scale) {
        y[row * x.cols + col] = (e4m3 ? e4m3_to_f32(code) : e5m2_to_f32(code)) * scale;
      },
      [](int64_t, float) {});
}

}  // namespace anyfp8
