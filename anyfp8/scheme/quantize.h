#pragma once

#include <string>
#include <string_view>

#include "anyfp8/base/export.h"
#include "anyfp8/scheme/fp8_weight.h"

namespace anyfp8 {

// e4m3 weights: one scale a tensor, a row, a 128 x 128 block (fp32), or a 1 x 32 group (e8m0).
enum class QuantizeScheme : uint8_t { kTensor, kChannel, kBlock, kMxfp8 };

// "tensor", "channel", "block", "mxfp8"; Error(kInvalidArgument) lists them.
ANYFP8_API QuantizeScheme quantize_scheme_from_name(std::string_view name);

// scale = max(max|w| / 448, 1e-12) over the group in fp32, data = round_to_nearest_even(clamp(w / scale,
// ±448)). mxfp8: scale = 2^ceil(log2(max|w| / 448)), limited to [2^-127, 2^127]; k must be a multiple of 32.
// scale_dtype kBF16 rounds each scale to bf16 first, as compressed-tensors files of bf16 models hold it.
// `weight` is bf16, f16 or f32 [n, k]. Error(kInvalidArgument) naming the position of a NaN or infinity.
ANYFP8_API Fp8Weight quantize(const HostTensor& weight, QuantizeScheme scheme,
                              DType scale_dtype = DType::kF32);

}  // namespace anyfp8
