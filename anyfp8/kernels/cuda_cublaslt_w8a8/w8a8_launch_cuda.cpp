#include "anyfp8/kernels/cuda_cublaslt_w8a8/w8a8_launch.h"

#include "anyfp8/base/text.h"
#include "anyfp8/kernels/cuda_cublaslt_w8a8/copy_rows.h"
#include "anyfp8/kernels/cuda_cublaslt_w8a8/few_tokens.h"

namespace anyfp8 {
namespace w8a8 {

// The codes of a row go on with zeros to its pitch, in x as in the weight: k is the pitch.
Fp8Product product_of(const LinearConfig& config, int64_t rows) {
  const Group group = config.scheme.weight.group;
  return {.n = rows,
          .k = shuffled_pitch(config.k),
          .weight = config.scheme.weight.dtype,
          .activation = config.scheme.activation->dtype,
          .out = config.out,
          .scales = group == kPerTensor  ? Fp8Scales::kTensor
                    : group == kBlock128 ? Fp8Scales::kBlock128
                    : group == kMx32     ? Fp8Scales::kMx
                                         : Fp8Scales::kOuter,
          .bias = config.bias};
}

ActivationRows quantisation(const PlacedWeight& placed, const TensorView& x, const Scratchpad& at,
                            std::byte* memory) {
  const LinearConfig& config = placed.config;
  ActivationRows activations{.key = *config.scheme.activation,
                             .x = x,
                             .stored_scale = placed.input_scale,
                             .upper_bound = placed.input_scale_ub,
                             .codes = reinterpret_cast<uint8_t*>(memory + at.codes),
                             .scales = memory + at.scales,
                             .maxima = reinterpret_cast<uint32_t*>(memory + at.maxima)};
  if (config.bias) {
    activations.extras.bias = placed.bias;
    activations.extras.rounded_bias = memory + at.bias;
    activations.extras.bias_dtype = config.out;
    activations.extras.bias_count = static_cast<uint32_t>(config.n);
  }
  if (copies_weight_scale(config)) {
    activations.extras.scale = static_cast<const float*>(placed.scale);
    activations.extras.pitched_scale = reinterpret_cast<float*>(memory + at.weight_scale);
    activations.extras.scale_rows = static_cast<uint32_t>(placed.grid.rows);
    activations.extras.scale_cols = static_cast<uint32_t>(placed.grid.cols);
    activations.extras.scale_pitch = static_cast<uint32_t>(scale_pitch(config.k));
  }
  return activations;
}

}  // namespace w8a8

namespace {

// y = x · Wᵀ of MX weights, a slab of outputs after the other.
void multiply_mx_slabs(const PlacedWeight& placed, const w8a8::Scratchpad& at, std::byte* memory,
                       Fp8Operands operands, Stream stream) {
  const LinearConfig& config = placed.config;
  operands.w = memory + at.slab;
  operands.w_scale = memory + at.weight_scale;
  const int64_t most = w8a8::mx_slab_rows(config.n, config.k);
  for (int64_t begin = 0; begin < config.n; begin += most) {
    const int64_t rows = std::min(most, config.n - begin);
    w8a8::copy_mx_slab(placed, begin, rows, memory + at.slab, memory + at.weight_scale, stream);
    Fp8Operands slab = operands;
    slab.y = static_cast<uint16_t*>(operands.y) + begin;
    if (config.bias) slab.bias = static_cast<const uint16_t*>(operands.bias) + begin;
    cublaslt_fp8_gemm(w8a8::product_of(config, rows), slab, {memory, kCublasBytes}, stream);
  }
}

}  // namespace

void prepare_cuda_cublaslt_w8a8(const PlacedWeight& placed) {
  const LinearConfig& config = placed.config;
  if (config.scheme.activation->source == ScaleSource::kStored && placed.input_scale == nullptr) {
    throw fail(
        ErrorCode::kInvalidArgument,
        "a layer n = {}, k = {} is to have static activation scales and its weight has no input_scale; "
        "give one, or make the scheme's activations dynamic",
        config.n, config.k);
  }
  prepare_quantize_activation(*config.scheme.activation, config.in);
  if (w8a8::granule_of(config) > 1) w8a8::prepare_few_tokens(config);
  if (!w8a8::is_mx(config)) return plan_cublaslt_fp8(w8a8::product_of(config, config.n));
  const int64_t rows = w8a8::mx_slab_rows(config.n, config.k), last = config.n % rows;
  plan_cublaslt_fp8(w8a8::product_of(config, rows));
  if (last != 0) plan_cublaslt_fp8(w8a8::product_of(config, last));
}

void apply_cuda_cublaslt_w8a8(const PlacedWeight& placed, const TensorView& x, const TensorView& y,
                              Scratch scratch, Stream stream) {
  const LinearConfig& config = placed.config;
  const int64_t m = x.rows;
  if (m == 0) return;
  const w8a8::Scratchpad at = w8a8::scratchpad(config, m);
  auto* const memory = static_cast<std::byte*>(scratch.data);
  ActivationRows activations = w8a8::quantisation(placed, x, at, memory);
  const bool y_aligned = reinterpret_cast<uintptr_t>(y.data) % 16 == 0 && y.row_stride % 8 == 0;
  const w8a8::Parts parts = w8a8::parts_of(m, {config.n, config.k}, w8a8::granule_of(config), y_aligned);
  Fp8Operands operands{
      .w = placed.data,
      .w_scale = w8a8::copies_weight_scale(config) ? activations.extras.pitched_scale : placed.scale,
      .x = activations.codes,
      .x_scale = activations.scales,
      .y = memory + at.y,
      .y_stride = config.n,
      .bias = activations.extras.rounded_bias};
  for (int64_t part = 0; part < parts.count; ++part) {
    const auto [begin, rows] = parts.at(part, m);
    const int64_t few = part + 1 == parts.count ? parts.few : 0, end = begin + rows;
    activations.row_begin = begin;
    activations.rows = rows + few;
    activations.first_rows = rows;
    quantize_activation(activations, *placed.device, stream);
    activations.extras = {};  // are there from now on
    auto* const y_data = static_cast<uint16_t*>(y.data);
    if (few > 0) {
      w8a8::multiply_few_tokens(
          placed,
          {.tokens = static_cast<int>(few),
           .codes = activations.codes + rows * shuffled_pitch(config.k),
           .scales = static_cast<const float*>(activations.scales) + placed.grid.cols * rows,
           .y = y_data + end * y.row_stride,
           .y_stride = y.row_stride,
           .bias = operands.bias},
          stream);
    }
    if (rows == 0) continue;

    operands.m = rows;
    if (!parts.staged) operands.y = y_data + begin * y.row_stride, operands.y_stride = y.row_stride;
    if (w8a8::is_mx(config)) {
      multiply_mx_slabs(placed, at, memory, operands, stream);
    } else {
      cublaslt_fp8_gemm(w8a8::product_of(config, config.n), operands, {memory, kCublasBytes}, stream);
    }
    if (parts.staged) {
      copy_rows(operands.y, y_data + begin * y.row_stride, std::min(rows, m - begin), config.n, y.row_stride,
                stream);
    }
  }
}

}  // namespace anyfp8
