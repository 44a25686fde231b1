#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "anyfp8/base/export.h"

namespace anyfp8 {

// Element types a tensor can have in memory. kE4M3 is the OCP "fn" form (largest value 448, no infinity,
// NaN = 0x7F and 0xFF); kE8M0 is a power of two, 2^(code-127), NaN = 0xFF.
enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kE4M3,
  kE5M2,
  kE8M0,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
};

// Bytes of one element.
ANYFP8_API size_t dtype_bytes(DType dtype) noexcept;

// The name used in output and on the command line: "e4m3", "bf16", "u8" ...
ANYFP8_API std::string_view dtype_name(DType dtype) noexcept;

// kF32, kF16, kBF16 (and kF64, which no kernel takes).
constexpr bool is_float8(DType d) noexcept { return d == DType::kE4M3 || d == DType::kE5M2; }
constexpr bool is_float16_or_32(DType d) noexcept {
  return d == DType::kF32 || d == DType::kF16 || d == DType::kBF16;
}

}  // namespace anyfp8
