#pragma once

#include <cstdint>

#include "anyfp8/kernels/common/mx_factor.h"
#include "anyfp8/kernels/common/tile_shapes.h"

// How 8-bit codes become 16-bit numbers: each is put into a 16-bit half with its sign in front, all 8 bits of
// it, and shifted to where exponent and mantissa meet; what is left of the copies of the sign is bit 15. The
// number is then too small by a power of two, which one exact multiplication returns.
//
//   word q of codes b3 b2 b1 b0     low:  {b2, b0}  (sign b2 b2 sign b0 b0) << left & mask
//                                   high: {b3, b1}
//
// Subnormal codes become subnormal numbers, which the multiplication makes normal: exact for every finite
// code. Each operation reads one register: on an H200 one between two mma.sync takes 1.4 cycles of the tensor
// pipe, and 2.1 if it reads two (a loop of 16 products and 2 or 4 operations for each). Against shifting and
// masking sign and number apart, 7 operations for 4 codes and not 6, this gained 1 to 4 % at wgmma.
namespace anyfp8::tile {

template <Code kCode, Half kHalf>
struct DecodeRule {  // e4m3 to bf16
  static constexpr uint32_t kLeft = 4, kMask = 0x87F087F0;
  static constexpr uint32_t kFactor = 0x7B807B80;  // twice 2^120: exponent biases 7 and 127
};
template <>
struct DecodeRule<Code::kE5M2, Half::kBF16> {
  static constexpr uint32_t kLeft = 5, kMask = 0x8FE08FE0;
  static constexpr uint32_t kFactor = 0x77807780;  // 2^112: 15 and 127
};
template <>
struct DecodeRule<Code::kE4M3, Half::kF16> {
  static constexpr uint32_t kLeft = 7, kMask = 0xBF80BF80;
  static constexpr uint32_t kFactor = 0x5C005C00;  // 2^8: 7 and 15
};
template <>
struct DecodeRule<Code::kE5M2, Half::kF16> {
  static constexpr uint32_t kLeft = 8, kMask = 0xFF00FF00;
  static constexpr uint32_t kFactor = 0x3C003C00;  // 1: the same exponent
};

// Bytes 0 and 2 of q, or 1 and 3, each in the lower byte of a half whose upper byte is its sign.
template <bool kHigh>
inline __device__ uint32_t with_signs(uint32_t q) {
  uint32_t halves;
  asm("prmt.b32 %0, %1, %1, %2;" : "=r"(halves) : "r"(q), "n"(kHigh ? 0xB391 : 0xA280));
  return halves;
}

template <Family kFamily, Half kHalf>
inline __device__ uint32_t multiply2(uint32_t v, uint32_t factor) {
  uint32_t r;
  if constexpr (kHalf == Half::kF16) {
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(v), "r"(factor));
  } else if constexpr (kFamily >= Family::kSm90) {
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(v), "r"(factor));
  } else {  // plus -0, which changes no number
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(v), "r"(factor), "r"(0x80008000u));
  }
  return r;
}

// Words of rows g and g + 8 to the fragment of operand a for one 16-wide step. factor0, factor1: of the two
// rows, each twice; DecodeRule's, or mx_factor()'s.
template <Family kFamily, Half kHalf, Code kCode>
inline __device__ void decode(uint32_t (&a)[4], uint32_t q0, uint32_t q1, uint32_t factor0,
                              uint32_t factor1) {
  using Rule = DecodeRule<kCode, kHalf>;
  a[0] = multiply2<kFamily, kHalf>(with_signs<false>(q0) << Rule::kLeft & Rule::kMask, factor0);
  a[1] = multiply2<kFamily, kHalf>(with_signs<false>(q1) << Rule::kLeft & Rule::kMask, factor1);
  a[2] = multiply2<kFamily, kHalf>(with_signs<true>(q0) << Rule::kLeft & Rule::kMask, factor0);
  a[3] = multiply2<kFamily, kHalf>(with_signs<true>(q1) << Rule::kLeft & Rule::kMask, factor1);
}
template <Family kFamily, Half kHalf, Code kCode>
inline __device__ void decode(uint32_t (&a)[4], uint32_t q0, uint32_t q1) {
  using Rule = DecodeRule<kCode, kHalf>;
  if constexpr (kCode == Code::kE5M2 && kHalf == Half::kF16) {  // the upper byte, as it is
    a[0] = (q0 << 8) & Rule::kMask;
    a[1] = (q1 << 8) & Rule::kMask;
    a[2] = q0 & Rule::kMask;
    a[3] = q1 & Rule::kMask;
  } else {
    decode<kFamily, kHalf, kCode>(a, q0, q1, Rule::kFactor, Rule::kFactor);
  }
}

// MX: the factor, twice, of group `group` of the four whose biased exponents (MxRule::offset()) are the bytes
// of `exponents`.
template <Half kHalf>
inline __device__ uint32_t mx_factor(uint32_t exponents, int group) {
  return __byte_perm(exponents, 0, 0x4040 + 0x0101 * group) << (kHalf == Half::kBF16 ? 7 : 10);
}

}  // namespace anyfp8::tile
