#pragma once

#include <cstdint>

#include "anyfp8/kernels/common/k64_shuffle.h"

// MX scales at next to no cost: decoding a code multiplies it by a power of two anyway (fragment_decode.cuh),
// so the scale 2^(e - 127) of its group of 32 goes into that factor, and one set of sums takes all of k. bf16
// has the exponents for it: a code times its scale is a number that a 16-bit checkpoint would hold.
//
//   factor = 2^power * 2^(e - 127) * 2^-base     power: 120 for e4m3, 112 for e5m2
//   y      = 2^base * sum
//
// A factor ends at 2^127, so base is 0 while no scale of the weight is above 2^7 (e5m2: 2^15), and else what
// the largest has over that. Nothing is lost of a weight that is a multiple of bf16's smallest step, 2^-133 *
// 2^base: codes are multiples of 2^-9 (e5m2: 2^-16), so that holds for scales from 2^-124 (e5m2: 2^-117) on,
// or, with larger scales in the weight, for those down to 2^-131 (2^-132) of the largest; whatever else
// is in a row.
namespace anyfp8 {

inline constexpr int kMxPowerOfE4M3 = 120, kMxPowerOfE5M2 = 112;

// base, from the bits of the largest scale as fp32: 0 to 120.
ANYFP8_HOST_DEVICE constexpr int mx_base(int power, uint32_t max_scale_bits) {
  const int excess = static_cast<int>(max_scale_bits >> 23) - 127 - (127 - power);
  return excess > 0 ? excess : 0;
}

// Added to four scales side by side it makes them the biased exponents of their factors: 0 to 254 each, as no
// scale is above the largest, so nothing is carried. A 0 stands for a factor below 2^-126, which is taken
// for 0.
ANYFP8_HOST_DEVICE constexpr uint32_t mx_exponents(int power, int base) {
  return static_cast<uint32_t>(power - base) * 0x01010101u;
}

}  // namespace anyfp8
