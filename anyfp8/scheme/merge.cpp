#include "anyfp8/scheme/merge.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "anyfp8/base/float_mode.h"
#include "anyfp8/base/log.h"
#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

void check_parts(std::span<const Fp8Weight> parts) {
  if (parts.empty()) throw fail(ErrorCode::kInvalidArgument, "merge() needs at least one weight");
  const Fp8Weight& first = parts[0];
  for (size_t i = 0; i < parts.size(); ++i) {
    const Fp8Weight& part = parts[i];
    check_scheme(part);
    const auto differs = [&](const char* what, const auto& here, const auto& there) {
      return fail(ErrorCode::kInvalidArgument,
                  "weight {} has {} {} and weight 0 has {}; merged weights must agree", i, what, here, there);
    };
    if (part.k() != first.k()) throw differs("k =", part.k(), first.k());
    if (part.data.dtype() != first.data.dtype()) {
      throw differs("dtype", dtype_name(part.data.dtype()), dtype_name(first.data.dtype()));
    }
    if (part.layout != Layout::kRowMajor) {
      throw fail(ErrorCode::kInvalidArgument, "weight {} is {}; only row-major weights are merged", i,
                 layout_name(parts[i].layout));
    }
    if (part.bias.defined() != first.bias.defined()) {
      throw differs("bias:", part.bias.defined(), first.bias.defined());
    }
  }
}

// The finest group in which every part's scales can be written. Columns: the greatest common divisor of the
// extents. Rows: of all places where a scale ends, counted from the top of the merged weight:
//
//   part 0, 192 rows of 128-row blocks   part 1, 128 rows
//   |--- 128 ---|- 64 -|                 |--- 128 ---|
//   0          128    192                           320     gcd(128, 192) = 64
Group merged_group(std::span<const Fp8Weight> parts) {
  int64_t rows = 0, cols = 0, offset = 0;
  for (const Fp8Weight& part : parts) {
    const Group g = part.scheme.weight.group;
    cols = std::gcd(cols, g.cols);
    if (offset > 0) rows = std::gcd(rows, offset);
    if (g.rows > 0 && g.rows < part.n()) rows = std::gcd(rows, g.rows);
    offset += part.n();
  }
  // Whole rows under one scale have one name that every kernel knows, {1, 0}; n scales are small change.
  if (cols == 0) return kPerRow;
  return {static_cast<int32_t>(rows), static_cast<int32_t>(cols)};
}

bool one_tensor_scale(std::span<const Fp8Weight> parts) {
  return std::all_of(parts.begin(), parts.end(), [&](const Fp8Weight& part) {
    return part.scheme.weight.group == kPerTensor && scale_at(part, 0, 0) == scale_at(parts[0], 0, 0);
  });
}

// e8m0 stays e8m0 where all parts have it; mixed with fp32 it is exactly an fp32.
void merge_scales(std::span<const Fp8Weight> parts, Fp8Weight& result) {
  const DefaultFloatMode mode;
  const bool all_e8m0 = std::all_of(parts.begin(), parts.end(),
                                    [](const Fp8Weight& part) { return part.scale.dtype() == DType::kE8M0; });
  const Group group = one_tensor_scale(parts) ? kPerTensor : merged_group(parts);
  const Grid grid = scale_grid(group, result.n(), result.k());
  result.scheme.weight.group = group;
  result.scheme.weight.scale_dtype = all_e8m0 ? DType::kE8M0 : DType::kF32;
  result.scale = HostTensor::allocate(result.scheme.weight.scale_dtype, {grid.rows, grid.cols});
  std::byte* out = result.scale.mutable_data();
  size_t part = 0;
  int64_t part_begin = 0;
  for (int64_t r = 0; r < grid.rows; ++r) {
    const int64_t row = r * group.rows;
    while (row - part_begin >= parts[part].n()) part_begin += parts[part++].n();
    for (int64_t c = 0; c < grid.cols; ++c) {
      const float value = scale_at(parts[part], row - part_begin, c * group.cols);
      const int64_t i = r * grid.cols + c;
      if (all_e8m0) {
        out[i] = std::byte(value == 0x1p-127f ? 0 : std::ilogb(value) + 127);
      } else {
        reinterpret_cast<float*>(out)[i] = value;
      }
    }
  }
}

HostTensor merge_bias(std::span<const Fp8Weight> parts, int64_t n) {
  HostTensor bias = HostTensor::allocate(DType::kF32, {n});
  std::byte* out = bias.mutable_data();
  for (const Fp8Weight& part : parts) {
    const HostTensor wide = to_f32(part.bias);
    std::memcpy(out, wide.data(), wide.size_bytes());
    out += wide.size_bytes();
  }
  return bias;
}

// W8A8 quantises x once for the merged layer, so one static scale must serve all parts: the largest, which
// clips nothing. W8A16 ignores it.
void merge_input_scales(std::span<const Fp8Weight> parts, Fp8Weight& result) {
  for (const Fp8Weight& part : parts) {
    if (!part.input_scale || !result.input_scale) {
      result.input_scale.reset();
      if (result.scheme.activation) result.scheme.activation->source = ScaleSource::kDynamic;
      return;
    }
    if (*part.input_scale != *result.input_scale) {
      log_once(LogLevel::kInfo, "merged layers have differing static input scales; the largest is kept");
    }
    result.input_scale = std::max(*result.input_scale, *part.input_scale);
  }
}

}  // namespace

Fp8Weight merge(std::span<const Fp8Weight> parts) {
  check_parts(parts);
  const Fp8Weight& first = parts[0];
  int64_t n = 0;
  for (const Fp8Weight& part : parts) n += part.n();

  Fp8Weight result;
  result.scheme = first.scheme;
  result.input_scale = first.input_scale;
  result.input_scale_ub = first.input_scale_ub;
  for (const Fp8Weight& part : parts) {
    if (part.scheme.activation != first.scheme.activation) result.scheme.activation.reset();
  }
  result.data = HostTensor::allocate(first.data.dtype(), {n, first.k()});
  std::byte* out = result.data.mutable_data();
  for (const Fp8Weight& part : parts) {
    std::memcpy(out, part.data.data(), part.data.size_bytes());
    out += part.data.size_bytes();
  }
  if (first.quantized()) merge_scales(parts, result);
  if (first.bias.defined()) result.bias = merge_bias(parts, n);
  merge_input_scales(parts, result);
  return result;
}

}  // namespace anyfp8
