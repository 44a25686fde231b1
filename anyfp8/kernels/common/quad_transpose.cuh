#pragma once

#include <cstdint>

namespace anyfp8::device_code {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// Lanes 4q .. 4q + 3 of a whole warp: words[j] of lane t becomes words[t] of lane j.
__device__ inline void transpose_quad(uint32_t (&words)[4]) {
  const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t got = __shfl_xor_sync(kAllLanes, odd ? words[i] : words[i + 1], 1);
    (odd ? words[i] : words[i + 1]) = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t got = __shfl_xor_sync(kAllLanes, upper ? words[i] : words[i + 2], 2);
    (upper ? words[i] : words[i + 2]) = got;
  }
}

}  // namespace anyfp8::device_code
