#include "anyfp8/scheme/fp8_weight.h"

#include <algorithm>
#include <cmath>

#include "anyfp8/base/element.h"
#include "anyfp8/base/float_mode.h"
#include "anyfp8/base/text.h"
#include "anyfp8/base/threads.h"

namespace anyfp8 {
namespace {

float element_at(const HostTensor& tensor, int64_t index) {
  return load_element(tensor.data(), tensor.dtype(), index);
}

// First code of a row that is NaN or infinite, or -1. The any-of loop is written to vectorise; the position
// is looked for only when there is one.
int64_t first_bad_code(const uint8_t* row, int64_t k, DType dtype) {
  const uint8_t limit = dtype == DType::kE4M3 ? 0x7F : 0x7C;  // smallest magnitude code that is not finite
  uint8_t any = 0;
  for (int64_t i = 0; i < k; ++i) any |= static_cast<uint8_t>((row[i] & 0x7F) >= limit);
  if (!any) return -1;
  return std::find_if(row, row + k, [&](uint8_t c) { return (c & 0x7F) >= limit; }) - row;
}

void check_structure(const Fp8Weight& w) {
  if (!w.data.defined() || w.data.shape().size() != 2) {
    throw fail(ErrorCode::kInvalidArgument, "a linear weight has two dimensions, [n, k]; this one is {}",
               w.data.defined() ? shape_text(w.data.shape()) : "missing");
  }
  if (w.n() < 1 || w.k() < 1)
    throw fail(ErrorCode::kInvalidArgument, "a linear weight needs n >= 1 and k >= 1; this one is {}",
               shape_text(w.data.shape()));
  if (w.scheme.weight.dtype != w.data.dtype()) {
    throw fail(ErrorCode::kInvalidArgument, "the scheme says {} and the weight is {}",
               dtype_name(w.scheme.weight.dtype), dtype_name(w.data.dtype()));
  }
  if (!is_float8(w.data.dtype()) && !is_float16_or_32(w.data.dtype())) {
    throw fail(ErrorCode::kInvalidArgument, "{} is no weight dtype; e4m3, e5m2, bf16, f16 and f32 are",
               dtype_name(w.data.dtype()));
  }
  if (w.bias.defined() && (w.bias.shape() != Shape{w.n()} || !is_float16_or_32(w.bias.dtype()))) {
    throw fail(ErrorCode::kInvalidArgument, "the bias is {} {}; a weight {} needs [{}] of f32, f16 or bf16",
               dtype_name(w.bias.dtype()), shape_text(w.bias.shape()), shape_text(w.data.shape()), w.n());
  }
  if (w.input_scale && !(std::isfinite(*w.input_scale) && *w.input_scale > 0)) {
    throw fail(ErrorCode::kInvalidArgument, "the static input scale is {}; it must be finite and above 0",
               *w.input_scale);
  }
  if (w.scheme.activation && w.scheme.activation->source == ScaleSource::kStored && !w.input_scale) {
    throw fail(ErrorCode::kInvalidArgument,
               "the scheme says the activation scale is stored, and there is none");
  }
  if (!w.quantized()) {
    if (w.scale.defined())
      throw fail(ErrorCode::kInvalidArgument, "a {} weight has no scale, and this one does",
                 dtype_name(w.data.dtype()));
    return;
  }
  const Group group = w.scheme.weight.group;
  if (group.rows < 0 || group.cols < 0)
    throw fail(ErrorCode::kInvalidArgument, "a group of {} x {} elements is not possible", group.rows,
               group.cols);
  if (!w.scale.defined()) throw fail(ErrorCode::kInvalidArgument, "an FP8 weight needs a scale");
  const Grid grid = scale_grid(group, w.n(), w.k());
  if (w.scale.shape() != Shape{grid.rows, grid.cols} || w.scale.dtype() != w.scheme.weight.scale_dtype ||
      (w.scale.dtype() != DType::kF32 && w.scale.dtype() != DType::kE8M0)) {
    throw fail(ErrorCode::kInvalidArgument,
               "the scale is {} {}; a weight {} in groups of {} needs {} [{}, {}]",
               dtype_name(w.scale.dtype()), shape_text(w.scale.shape()), shape_text(w.data.shape()),
               group_text(group), dtype_name(w.scheme.weight.scale_dtype), grid.rows, grid.cols);
  }
}

// Zero scales are legal over zeros only: anything else would silently lose its block.
void check_zero_block(const Fp8Weight& w, int64_t block_row, int64_t block_col) {
  const Group g = w.scheme.weight.group;
  const int64_t rows = g.rows == 0 ? w.n() : g.rows, cols = g.cols == 0 ? w.k() : g.cols;
  for (int64_t r = block_row * rows; r < std::min(w.n(), (block_row + 1) * rows); ++r) {
    const uint8_t* row = w.data.as<uint8_t>() + r * w.k();
    for (int64_t c = block_col * cols; c < std::min(w.k(), (block_col + 1) * cols); ++c) {
      if ((row[c] & 0x7F) != 0) {
        throw fail(
            ErrorCode::kInvalidArgument,
            "the scale at [{}, {}] is 0 and the weight at [{}, {}] is not; a zero scale may only cover zeros",
            block_row, block_col, r, c);
      }
    }
  }
}

void check_scale_values(const Fp8Weight& w, bool with_data) {
  const DefaultFloatMode mode;  // e8m0 code 0 is an fp32 subnormal, and not 0
  const int64_t cols = w.scale.shape()[1];
  for (int64_t i = 0; i < w.scale.size(); ++i) {
    const float value = element_at(w.scale, i);
    if (!std::isfinite(value) || value < 0) {
      throw fail(ErrorCode::kInvalidArgument,
                 "the scale at [{}, {}] is {}; scales must be finite and not negative", i / cols, i % cols,
                 value);
    }
    if (value == 0 && with_data) check_zero_block(w, i / cols, i % cols);
  }
}

}  // namespace

std::string_view layout_name(Layout layout) noexcept {
  switch (layout) {
    case Layout::kRowMajor: return "row_major";
    case Layout::kPanel64: return "panel64";
    case Layout::kK64Shuffled: return "k64_shuffled";
  }
  return "unknown";
}

void check_scheme(const Fp8Weight& weight) {
  check_structure(weight);
  if (weight.quantized()) check_scale_values(weight, false);
}

void check_weight(const Fp8Weight& weight) {
  check_structure(weight);
  if (!weight.quantized()) return;
  const int64_t n = weight.n(), k = weight.k();
  const uint8_t* codes = weight.data.as<uint8_t>();
  int64_t bad = n * k;  // the first position, whatever the number of threads
#pragma omp parallel for schedule(static) num_threads(num_threads()) reduction(min : bad) if (n * k > 1 << 18)
  for (int64_t r = 0; r < n; ++r) {
    const int64_t c = first_bad_code(codes + r * k, k, weight.data.dtype());
    if (c >= 0) bad = std::min(bad, r * k + c);
  }
  if (bad < n * k) {
    throw fail(ErrorCode::kInvalidArgument,
               "the weight at [{}, {}] is code 0x{:02X}, which is {}; FP8 weights must be finite", bad / k,
               bad % k, codes[bad], std::isnan(element_at(weight.data, bad)) ? "NaN" : "infinite");
  }
  check_scale_values(weight, true);
}

float scale_at(const Fp8Weight& weight, int64_t row, int64_t col) {
  if (!weight.quantized()) return 1.0f;
  const Group g = weight.scheme.weight.group;
  const int64_t r = g.rows == 0 ? 0 : row / g.rows, c = g.cols == 0 ? 0 : col / g.cols;
  return element_at(weight.scale, r * weight.scale.shape()[1] + c);
}

HostTensor dequantize(const Fp8Weight& weight, int64_t row_begin, int64_t row_end) {
  if (row_begin < 0 || row_begin > row_end || row_end > weight.n()) {
    throw fail(ErrorCode::kInvalidArgument, "rows [{}, {}) asked for of a weight with {} rows", row_begin,
               row_end, weight.n());
  }
  if (weight.layout != Layout::kRowMajor) {
    throw fail(ErrorCode::kInvalidArgument, "dequantize() reads row-major weights; this one is {}",
               layout_name(weight.layout));
  }
  const int64_t k = weight.k();
  HostTensor result = HostTensor::allocate(DType::kF32, {row_end - row_begin, k});
  float* out = reinterpret_cast<float*>(result.mutable_data());
#pragma omp parallel num_threads(num_threads()) if ((row_end - row_begin) * k > 1 << 16)
  {
    const DefaultFloatMode mode;
#pragma omp for schedule(static)
    for (int64_t r = row_begin; r < row_end; ++r) {
      for (int64_t c = 0; c < k; ++c) {
        out[(r - row_begin) * k + c] = element_at(weight.data, r * k + c) * scale_at(weight, r, c);
      }
    }
  }
  return result;
}

HostTensor to_f32(const HostTensor& tensor) {
  const DType dtype = tensor.dtype();
  if (!is_float16_or_32(dtype) && !is_float8(dtype) && dtype != DType::kE8M0) {
    throw fail(ErrorCode::kUnsupported, "{} is no floating point type this library computes with",
               dtype_name(dtype));
  }
  HostTensor result = HostTensor::allocate(DType::kF32, tensor.shape());
  float* out = reinterpret_cast<float*>(result.mutable_data());
  for (int64_t i = 0; i < tensor.size(); ++i) out[i] = element_at(tensor, i);
  return result;
}

}  // namespace anyfp8
