#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "anyfp8/base/dtype.h"

// What reader and writer of safetensors files hold each other to.
namespace anyfp8 {

inline constexpr size_t kMaxHeaderBytes = 100'000'000;  // of the format
// Ours. With compact records they keep a header's memory below 64 MB whatever it says.
inline constexpr size_t kMaxTensors = size_t{1} << 18;
inline constexpr size_t kMaxRank = 8;
inline constexpr size_t kMaxNameBytes = 4096;
inline constexpr size_t kMaxMetadataBytes = size_t{16} << 20;
inline constexpr size_t kMaxMetadataEntries = size_t{1} << 16;
inline constexpr std::string_view kMetadataKey = "__metadata__";

struct SafetensorsDType {
  std::string_view name;
  uint32_t bits;
  std::optional<DType> dtype;  // absent: known to the format, not to this library
};

// In the order of the reference implementation, whose files hold the last of these first.
inline constexpr std::array<SafetensorsDType, 22> kSafetensorsDTypes = {{
    {"BOOL", 8, DType::kBool},
    {"F4", 4, std::nullopt},
    {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt},
    {"U8", 8, DType::kU8},
    {"I8", 8, DType::kI8},
    {"F8_E5M2", 8, DType::kE5M2},
    {"F8_E4M3", 8, DType::kE4M3},
    {"F8_E8M0", 8, DType::kE8M0},
    {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F8_E5M2FNUZ", 8, std::nullopt},
    {"I16", 16, DType::kI16},
    {"U16", 16, DType::kU16},
    {"F16", 16, DType::kF16},
    {"BF16", 16, DType::kBF16},
    {"I32", 32, DType::kI32},
    {"U32", 32, DType::kU32},
    {"F32", 32, DType::kF32},
    {"C64", 64, std::nullopt},
    {"F64", 64, DType::kF64},
    {"I64", 64, DType::kI64},
    {"U64", 64, DType::kU64},
}};

// Why `name` (valid UTF-8) cannot name a tensor; empty when it can.
constexpr std::string_view tensor_name_fault(std::string_view name) {
  if (name.empty()) return "is empty";
  if (name.size() > kMaxNameBytes) return "is longer than 4096 bytes";
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) return "holds a control character";
  }
  return {};
}

}  // namespace anyfp8
