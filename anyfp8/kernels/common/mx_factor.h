#pragma once

#include <cstdint>

#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/kernels/common/tile_shapes.h"

// MX scales at next to no cost: decoding a code multiplies it by a power of two anyway (fragment_decode.cuh),
// so the scale 2^(e - 127) of its group of 32 goes into that factor, and one set of sums takes all of k.
//
//   factor = 2^power * 2^(e - 127 - base)     which makes of a code the number code * 2^(e - 127 - base)
//   y      = 2^base * sum
//
// It is exact while that is a number of bf16 or fp16: for e - 127 - base from `bottom` to `top`.
//
//   bf16   base is 0, or what the largest scale of the weight has over 2^top (e4m3: 2^7), where the factor
//          ends. Weights under smaller scales than 2^bottom (2^-124) are off by 2^-134 at most, as they
//          would be in a bf16 checkpoint.
//   fp16   has room for 23 such exponents (e5m2: 9). base makes the largest scale the top one; a group
//          further down is added to sums that are scaled for it and scaled back, which is exact too.
namespace anyfp8::tile {

struct MxRule {
  int power;        // decoding multiplies by 2^power; DecodeRule::kFactor
  int bottom, top;  // of e - 127 - base
  int least, most;  // of base
  int bias;         // of an exponent of 16-bit numbers

  ANYFP8_HOST_DEVICE static constexpr MxRule of(Half half, Code code) {
    if (half == Half::kBF16) {
      return code == Code::kE4M3 ? MxRule{120, -124, 7, 0, 120, 127} : MxRule{112, -117, 15, 0, 112, 127};
    }
    return code == Code::kE4M3 ? MxRule{8, -15, 7, -60, 15, 15} : MxRule{0, -8, 0, -60, 15, 15};
  }

  // From the bits of the largest scale as fp32.
  ANYFP8_HOST_DEVICE constexpr int base(uint32_t max_scale_bits) const {
    const int wanted = static_cast<int>(max_scale_bits >> 23) - 127 - top;
    return wanted < least ? least : wanted > most ? most : wanted;
  }
  // The biased exponent of the factor for the scale 2^(base + scale).
  ANYFP8_HOST_DEVICE constexpr int exponent(int scale) const { return power + bias + scale; }
  // Which a scale's code becomes by adding this, modulo 256.
  ANYFP8_HOST_DEVICE constexpr int offset(int base) const { return exponent(-127 - base) & 0xFF; }
  // The code of the scale 2^base.
  ANYFP8_HOST_DEVICE static constexpr int neutral(int base) { return base + 127; }

  // For a scale 2^(base + scale) outside of bottom to top: sums are multiplied by 2^shift before the group is
  // added, its factor as well, and the sums by 2^-shift after it. fp16's |x| <= 2^16 and k <= 2^14 make sums
  // of at most 2^46 times 2^base, so they do not leave fp32; and as base is 15 at most, what a group further
  // down than the most here could add is below 2^-25, which is nothing in fp16.
  ANYFP8_HOST_DEVICE constexpr int shift(int scale) const {
    constexpr int kMostUp = 80, kMostDown = 70;
    if (scale >= bottom && scale <= top) return 0;
    return scale < -kMostUp ? kMostUp : scale > kMostDown ? -kMostDown : -scale;
  }
  // The biased exponent of the group's factor then.
  ANYFP8_HOST_DEVICE constexpr int shifted_exponent(int scale) const {
    const int shifted = scale + shift(scale);
    return shifted > top ? exponent(top) : exponent(shifted) < 0 ? 0 : exponent(shifted);
  }
};

}  // namespace anyfp8::tile
