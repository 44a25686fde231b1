#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "anyfp8/base/export.h"
#include "anyfp8/base/tensor.h"
#include "anyfp8/scheme/quant_scheme.h"

namespace anyfp8 {

// Where a weight's bytes lie. Named, and never inferred from a shape.
enum class Layout : uint8_t {
  kRowMajor,     // [n, k], k fastest: the checkpoint's own bytes
  kPanel64,      // 8-bit codes in panels of 64 outputs for the vector units of CPUs: internal, as
                 // kernels/common/panel64.h draws it
  kK64Shuffled,  // [n, k]: position 16t + 4s + j of each 64-byte chunk of a row holds k = 16s + 2t + (j >> 1)
                 // + 8 (j & 1)
};

ANYFP8_API std::string_view layout_name(Layout layout) noexcept;  // "row_major", "panel64", "k64_shuffled"

// The one form every dialect becomes:
//   y[m, n] = x[m, k] · (data[n, k] * scale)ᵀ + bias[n]
// where `scale` always multiplies. A 16-bit weight (lm_head) takes the same way with no scale.
struct Fp8Weight {
  QuantScheme scheme;
  Layout layout = Layout::kRowMajor;
  HostTensor data;   // [n, k] e4m3, e5m2, bf16, f16 or f32
  HostTensor scale;  // scale_grid(group, n, k): f32, or e8m0 where scheme.weight.scale_dtype says so
  HostTensor bias;   // [n] f32, f16 or bf16; not defined() without bias
  std::optional<float> input_scale;     // static activation scale: kept, used by W8A8 alone
  std::optional<float> input_scale_ub;  // upper bound of dynamic activation amax (fbgemm)

  int64_t n() const { return data.shape()[0]; }
  int64_t k() const { return data.shape()[1]; }
  bool quantized() const { return is_float8(data.dtype()); }
  // Bytes of data, scale and bias.
  size_t resident_bytes() const {
    const auto bytes = [](const HostTensor& t) { return t.defined() ? t.size_bytes() : 0; };
    return bytes(data) + bytes(scale) + bytes(bias);
  }
};

// Refuses, naming the position, what no kernel may see. Both throw Error(kInvalidArgument).
// check_scheme(): shapes and dtypes that do not fit the scheme, NaN, infinite or negative scales.
// check_weight(): that, and NaN or infinite codes and zero scales over non-zero codes; reads the whole weight
// once.
ANYFP8_API void check_scheme(const Fp8Weight& weight);
ANYFP8_API void check_weight(const Fp8Weight& weight);

// scale of element (row, col), whatever the group and the scale's dtype.
ANYFP8_API float scale_at(const Fp8Weight& weight, int64_t row, int64_t col);

// Rows [row_begin, row_end) as f32 [rows, k]: data * scale, rounded once.
ANYFP8_API HostTensor dequantize(const Fp8Weight& weight, int64_t row_begin, int64_t row_end);

// A copy of a float tensor (f32, f16, bf16, e4m3, e5m2, e8m0) as f32, exact.
ANYFP8_API HostTensor to_f32(const HostTensor& tensor);

}  // namespace anyfp8
