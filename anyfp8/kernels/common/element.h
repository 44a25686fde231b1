#pragma once

#include <cstdint>

#include "anyfp8/base/dtype.h"
#include "anyfp8/base/float8.h"

namespace anyfp8 {

// Element `index` of an array of a floating type, exactly; of another type, NaN.
inline float load_element(const void* data, DType dtype, int64_t index) noexcept {
  switch (dtype) {
    case DType::kF32: return static_cast<const float*>(data)[index];
    case DType::kF16: return f16_to_f32(static_cast<const uint16_t*>(data)[index]);
    case DType::kBF16: return bf16_to_f32(static_cast<const uint16_t*>(data)[index]);
    case DType::kE4M3: return e4m3_to_f32(static_cast<const uint8_t*>(data)[index]);
    case DType::kE5M2: return e5m2_to_f32(static_cast<const uint8_t*>(data)[index]);
    case DType::kE8M0: return e8m0_to_f32(static_cast<const uint8_t*>(data)[index]);
    default: return std::bit_cast<float>(0x7FC00000u);
  }
}

// Rounds to nearest even. `dtype` is f32, f16 or bf16, the types a kernel can give out.
inline void store_element(void* data, DType dtype, int64_t index, float value) noexcept {
  switch (dtype) {
    case DType::kF16: static_cast<uint16_t*>(data)[index] = f32_to_f16(value); break;
    case DType::kBF16: static_cast<uint16_t*>(data)[index] = f32_to_bf16(value); break;
    default: static_cast<float*>(data)[index] = value; break;
  }
}

}  // namespace anyfp8
