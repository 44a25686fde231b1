#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "anyfp8/base/dtype.h"

// Elements of every dtype as fp32 in device code, exact on every architecture: no instruction of FP8
// hardware.
namespace anyfp8::device_code {

// sign eeee mmm. Laid over an fp32 the seven bits are the number times 2^-120, a subnormal where eeee is 0,
// and one product puts it right (subnormals cost nothing on GPUs).
__device__ inline float e4m3_to_f32(uint32_t code) {
  const uint32_t magnitude = code & 0x7Fu;
  const float value = __uint_as_float((code & 0x80u) << 24 | magnitude << 20) * 0x1p120f;
  return magnitude == 0x7Fu ? __uint_as_float(0x7FC00000u) : value;
}

// The upper byte of an fp16.
__device__ inline float e5m2_to_f32(uint32_t code) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(code << 8)));
}

__device__ inline float e8m0_to_f32(uint32_t code) {
  if (code == 0) return 0x1p-127f;
  return __uint_as_float(code == 255 ? 0x7FC00000u : code << 23);
}

template <DType kType>
__device__ inline float load_f32(const void* data, int64_t index) {
  if constexpr (kType == DType::kE4M3) {
    return e4m3_to_f32(static_cast<const uint8_t*>(data)[index]);
  } else if constexpr (kType == DType::kE5M2) {
    return e5m2_to_f32(static_cast<const uint8_t*>(data)[index]);
  } else if constexpr (kType == DType::kE8M0) {
    return e8m0_to_f32(static_cast<const uint8_t*>(data)[index]);
  } else if constexpr (kType == DType::kBF16) {
    return __uint_as_float(uint32_t{static_cast<const uint16_t*>(data)[index]} << 16);
  } else if constexpr (kType == DType::kF16) {
    return __half2float(static_cast<const __half*>(data)[index]);
  } else {
    static_assert(kType == DType::kF32);
    return static_cast<const float*>(data)[index];
  }
}

// Scales: f32 or e8m0.
__device__ inline float load_scale(const void* data, DType dtype, int64_t index) {
  return dtype == DType::kE8M0 ? load_f32<DType::kE8M0>(data, index) : load_f32<DType::kF32>(data, index);
}

// One rounding, to nearest even; f32, bf16 or f16.
__device__ inline void store_rounded(void* data, DType dtype, int64_t index, float value) {
  switch (dtype) {
    case DType::kBF16: static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16_rn(value); break;
    case DType::kF16: static_cast<__half*>(data)[index] = __float2half_rn(value); break;
    default: static_cast<float*>(data)[index] = value; break;
  }
}

// The magnitudes of bytes 1 and 3 of `word`, finite codes, as two fp16, without their signs, which are the
// bits 0x80008000.
//   e4m3: the byte, moved to the exponent of fp16, is the number times 2^-8
//   e5m2: the byte is the number
template <DType kType>
__device__ inline __half2 magnitudes_of_odd_bytes(uint32_t word) {
  static_assert(kType == DType::kE4M3 || kType == DType::kE5M2);
  const uint32_t bits = word & 0x7F007F00u;
  if constexpr (kType == DType::kE5M2) {
    return *reinterpret_cast<const __half2*>(&bits);
  } else {
    const uint32_t shifted = bits >> 1;
    return __hmul2(*reinterpret_cast<const __half2*>(&shifted), __float2half2_rn(256));
  }
}

}  // namespace anyfp8::device_code
