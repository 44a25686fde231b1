#pragma once

#include <array>
#include <cstdint>

#include "anyfp8/base/dtype.h"
#include "anyfp8/base/float8.h"

// Tables with which vector units turn FP8 codes into the two bytes of their bf16 value, exactly for all 256
// codes: subnormals, NaN and -0 too. Made from the scalar conversions when the library is compiled.
namespace anyfp8 {

constexpr uint16_t fp8_as_bf16(DType dtype, uint8_t code) {
  return f32_to_bf16(dtype == DType::kE4M3 ? e4m3_to_f32(code) : e5m2_to_f32(code));
}

// For byte permutes of 128 entries: the bytes of code 0 .. 127; the sign is the code's bit 7.
struct Fp8Bytes {
  alignas(64) uint8_t high[128], low[128];
};
constexpr Fp8Bytes fp8_bytes(DType dtype) {
  Fp8Bytes bytes{};
  for (int code = 0; code < 128; ++code) {
    const uint16_t value = fp8_as_bf16(dtype, static_cast<uint8_t>(code));
    bytes.high[code] = static_cast<uint8_t>(value >> 8);
    bytes.low[code] = static_cast<uint8_t>(value);
  }
  return bytes;
}

// For shuffles of 16 entries. Of normal codes the bf16 is the code, shifted, with another exponent bias:
//
//   high = base[code bits above kHighShift]   low = code << kLowShift
//
// The few others, subnormals, NaN and infinity, are put right by exclusive or with what is wrong, which is
// looked up at (code + kOffset) & 0x7F; there they are the first 16 and all that is beyond is 0.
template <DType D>
struct Fp8Shuffle {
  static_assert(D == DType::kE4M3 || D == DType::kE5M2);
  static constexpr bool kE4M3 = D == DType::kE4M3;
  static constexpr int kHighShift = kE4M3 ? 4 : 3;  // e4m3: s eee | e mmm.  e5m2: s | eeee | e mm
  static constexpr int kLowShift = kE4M3 ? 4 : 5;
  static constexpr bool kSignInBase = kE4M3;
  static constexpr uint8_t kLowMask = static_cast<uint8_t>(0xFF << kLowShift);
  static constexpr uint8_t kOffset = kE4M3 ? 1 : 4;  // 0x7F, and 0x7C .. 0x7F, wrap round to 0

  static constexpr uint8_t base(int index) {
    if (kSignInBase) return static_cast<uint8_t>((index >= 8 ? 0x80 : 0) | (0x3C + index % 8));
    return static_cast<uint8_t>(0x38 + index);
  }
  static constexpr uint16_t wrong(int place) {
    const auto code = static_cast<uint8_t>((place - kOffset) & 0x7F);
    const auto high = base(code >> kHighShift);
    const auto low = static_cast<uint8_t>(code << kLowShift);
    return static_cast<uint16_t>(fp8_as_bf16(D, code) ^ (high << 8 | low));
  }
  static constexpr bool only_the_first_are_wrong() {
    for (int place = 16; place < 128; ++place) {
      if (wrong(place) != 0) return false;
    }
    return true;
  }

  struct Bytes {
    alignas(16) uint8_t base[16], wrong_high[16], wrong_low[16];
  };
  static constexpr Bytes bytes() {
    Bytes b{};
    for (int i = 0; i < 16; ++i) {
      b.base[i] = base(i);
      b.wrong_high[i] = static_cast<uint8_t>(wrong(i) >> 8);
      b.wrong_low[i] = static_cast<uint8_t>(wrong(i));
    }
    return b;
  }
};
static_assert(Fp8Shuffle<DType::kE4M3>::only_the_first_are_wrong());
static_assert(Fp8Shuffle<DType::kE5M2>::only_the_first_are_wrong());

template <DType D>
inline constexpr Fp8Bytes kFp8Bytes = fp8_bytes(D);
template <DType D>
inline constexpr typename Fp8Shuffle<D>::Bytes kFp8Shuffle = Fp8Shuffle<D>::bytes();

}  // namespace anyfp8
