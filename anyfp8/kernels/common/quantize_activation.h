#pragma once

#include <cstddef>
#include <cstdint>

#include "anyfp8/base/tensor.h"
#include "anyfp8/device/device.h"
#include "anyfp8/scheme/quant_scheme.h"

namespace anyfp8 {

// Small arrays that an FP8 product reads beside x. They are written on the way, by blocks of their own: a
// launch of their own would cost what quantising a few hundred tokens does. All of it in device memory.
struct ProductExtras {
  const float* bias = nullptr;  // [bias_count] to `rounded_bias`, in `bias_dtype` (bf16 or f16)
  void* rounded_bias = nullptr;
  DType bias_dtype = DType::kBF16;
  uint32_t bias_count = 0;
  const float* scale = nullptr;  // [scale_rows, scale_cols] to rows that begin scale_pitch apart
  float* pitched_scale = nullptr;
  uint32_t scale_rows = 0, scale_cols = 0, scale_pitch = 0;
};

// Rows [row_begin, row_begin + x rows among `rows`) of x to codes and scales, as activation_scale.h says; a
// scale of the whole tensor is that of all rows of x. What is beyond the last row of x is zeros.
struct ActivationRows {
  QuantKey key;  // dtype e4m3 or e5m2; by tensor, token, 1x128, or 1x32 with e8m0; kStored by tensor alone
  TensorView x;  // [m, k] bf16 or f16, of any alignment and row stride
  int64_t row_begin = 0;
  int64_t rows = 0;                     // of codes and scales
  const float* stored_scale = nullptr;  // one, of kStored
  const float* upper_bound = nullptr;   // one, of amax; null without
  uint8_t* codes = nullptr;  // [rows, shuffled_pitch(k)] k64_shuffled, 16-byte aligned; for 1x32 in order
  // f32 [ceil(k / 128), rows] for 1x128, else [rows], also by tensor; for 1x32 mx_scale_tiles.h of all the
  // pitch.
  void* scales = nullptr;
  int64_t first_rows =
      0;  // for 1x128: the scales of rows from here on, if not 0, lie behind those of the others
  uint32_t* maxima = nullptr;  // kMaxima of scratch, dynamic by tensor alone
  ProductExtras extras;
};
inline constexpr size_t kMaxima = 1024;

// Loads the kernels of `key` and x of type `in` on the current device: what would else be done at first use.
void prepare_quantize_activation(const QuantKey& key, DType in);

// Queues it on `stream` of the current device, `device`, which has FP8 conversions (8.9 or newer): one
// launch. But two for a dynamic scale by tensor, which needs the maximum of all before the first code: the
// first leaves that of each block in `maxima`, and each block of the second takes the largest of these. No
// order of blocks changes it, and no memory has to be zero before. As one launch, whose blocks waited for
// each other (a cooperative one), it took 5.6 us for 128 x 4096 on an H200, where a stored scale takes 1.5.
void quantize_activation(const ActivationRows& work, const Device& device, Stream stream);

}  // namespace anyfp8
