#pragma once

#include <cstdint>

#include "anyfp8/base/dtype.h"
#include "anyfp8/kernels/common/k64_shuffle.h"

// fp16 holds code * scale only where the scale is near 1: from 147 on the largest codes of e4m3 are above
// 65504, and under 1e-7 all are subnormal. So a slab in fp16 holds code * (scale * 2^p), and the sums are
// multiplied by 2^-p: both are exact, and p is one number for the whole weight, by its largest scale.
//
//   largest scale * 2^p   e4m3 in [64, 128), times codes up to 448     below 57344
//                         e5m2 in [1/2, 1),  times codes up to 57344   below 57344
//
// What may still be lost lies below 2^-14, where fp16 has multiples of 2^-24:
//   e4m3   nothing under scales down to 2^-11 of the largest, as the smallest code is 2^-9;
//          under smaller ones a weight may be off by 2^-31 of the largest scale
//   e5m2   codes below 2^-13, and more of them under smaller scales, may be off by 2^-24 of the largest
// Under scales down to 2^-27 of the largest that is less than fp16's rounding of the largest code; a row of
// smaller ones, such as of an output that was cut off, loses bits, and at 2^-40 all. No weight is refused for
// it. bf16 has the exponents of fp32 and needs no p.
namespace anyfp8 {

// p, from the bits of the largest scale. 2^p and 2^-p are normal fp32 numbers: under scales below 2^-120,
// where p stops at 126, y is 0 in fp16 anyway.
ANYFP8_HOST_DEVICE constexpr int slab_power(DType weight, uint32_t max_scale_bits) {
  const int exponent = static_cast<int>(max_scale_bits >> 23) - 127;  // it has no sign
  const int p = (weight == DType::kE4M3 ? 6 : -1) - exponent;
  return p > 126 ? 126 : p < -126 ? -126 : p;
}

// 2^p as fp32.
ANYFP8_HOST_DEVICE constexpr uint32_t bits_of_power(int p) { return static_cast<uint32_t>(p + 127) << 23; }

}  // namespace anyfp8
