#pragma once

#include <cstdint>
#include <cstring>

#include "anyfp8/base/dtype.h"
#include "anyfp8/base/float8.h"

// One element of an array of a floating type. Files lay tensors at any address, so nothing here asks for
// alignment.
namespace anyfp8 {

namespace detail {

template <typename T>
T load_at(const void* data, int64_t index) noexcept {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T>
void store_at(void* data, int64_t index, T value) noexcept {
  std::memcpy(static_cast<char*>(data) + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

}  // namespace detail

// Exactly; NaN for a type that is no floating type of up to 32 bits.
inline float load_element(const void* data, DType dtype, int64_t index) noexcept {
  switch (dtype) {
    case DType::kF32: return detail::load_at<float>(data, index);
    case DType::kF16: return f16_to_f32(detail::load_at<uint16_t>(data, index));
    case DType::kBF16: return bf16_to_f32(detail::load_at<uint16_t>(data, index));
    case DType::kE4M3: return e4m3_to_f32(static_cast<const uint8_t*>(data)[index]);
    case DType::kE5M2: return e5m2_to_f32(static_cast<const uint8_t*>(data)[index]);
    case DType::kE8M0: return e8m0_to_f32(static_cast<const uint8_t*>(data)[index]);
    default: return std::bit_cast<float>(0x7FC00000u);
  }
}

// Rounds to nearest even. `dtype` is f32, f16 or bf16, the types a kernel can give out.
inline void store_element(void* data, DType dtype, int64_t index, float value) noexcept {
  switch (dtype) {
    case DType::kF16: detail::store_at(data, index, f32_to_f16(value)); break;
    case DType::kBF16: detail::store_at(data, index, f32_to_bf16(value)); break;
    default: detail::store_at(data, index, value); break;
  }
}

}  // namespace anyfp8
