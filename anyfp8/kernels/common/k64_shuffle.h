#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "anyfp8/device/device.h"

#ifdef __CUDACC__
#define ANYFP8_HOST_DEVICE __host__ __device__
#else
#define ANYFP8_HOST_DEVICE
#endif

// The layout kK64Shuffled of 8-bit weights on CUDA devices: row-major [n, pitch], where each 64-byte chunk of
// a row is permuted so that 16 bytes are what one lane of mma.sync holds:
//
//   lane t of a row reads bytes 16t .. 16t+15:   word s of them is    k = 16s + 2t      (byte 0)
//                                                                         16s + 2t + 8  (byte 1)
//                                                                         16s + 2t + 1  (byte 2)
//                                                                         16s + 2t + 9  (byte 3)
//
// Bytes 0 and 2 become the fragment registers of k = 2t, 2t+1 of the 16-wide step s, bytes 1 and 3 those of
// k = 2t+8, 2t+9. A row is padded with zero bytes to a multiple of 64; a code of zero is the number zero.
namespace anyfp8 {

inline constexpr int64_t kShuffleChunk = 64;

// Bytes from one row to the next.
ANYFP8_HOST_DEVICE constexpr int64_t shuffled_pitch(int64_t k) {
  return (k + kShuffleChunk - 1) / kShuffleChunk * kShuffleChunk;
}

// k within its chunk of the byte that lies at `position` of the shuffled chunk.
ANYFP8_HOST_DEVICE constexpr int shuffled_k(int position) {
  const int t = position / 16, s = position / 4 % 4, j = position % 4;
  return 16 * s + 2 * t + (j >> 1) + 8 * (j & 1);
}

// One chunk on the host, `from` and `to` distinct.
constexpr void shuffle_chunk(const uint8_t* from, uint8_t* to) {
  for (int position = 0; position < kShuffleChunk; ++position) to[position] = from[shuffled_k(position)];
}
constexpr void unshuffle_chunk(const uint8_t* from, uint8_t* to) {
  for (int position = 0; position < kShuffleChunk; ++position) to[shuffled_k(position)] = from[position];
}

// A row of k bytes on the host, from its shuffled_pitch(k) bytes.
inline void unshuffle_row(const uint8_t* from, uint8_t* to, int64_t k) {
  for (; k >= kShuffleChunk; k -= kShuffleChunk, from += kShuffleChunk, to += kShuffleChunk) {
    unshuffle_chunk(from, to);
  }
  if (k == 0) return;
  uint8_t last[kShuffleChunk];
  unshuffle_chunk(from, last);
  std::memcpy(to, last, static_cast<size_t>(k));
}

// Byte i of the result is byte (selector >> 4i) & 7 of the eight bytes of b:a, as __byte_perm does it.
ANYFP8_HOST_DEVICE inline uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
#ifdef __CUDA_ARCH__
  return __byte_perm(a, b, selector);
#else
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t picked = 0;
  for (int i = 0; i < 4; ++i) {
    picked |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
  }
  return picked;
#endif
}

// A chunk as 16 little-endian words, natural order to shuffled: word 4t + s takes bytes 2t, 2t+8, 2t+1, 2t+9
// of the 16 that begin at word 4s.
ANYFP8_HOST_DEVICE inline void shuffle_words(const uint32_t (&from)[16], uint32_t (&to)[16]) {
  for (int t = 0; t < 4; ++t) {
    for (int s = 0; s < 4; ++s) {
      const int low = 4 * s + t / 2;
      to[4 * t + s] = pick_bytes(from[low], from[low + 2], t % 2 == 0 ? 0x5140 : 0x7362);
    }
  }
}
ANYFP8_HOST_DEVICE inline void unshuffle_words(const uint32_t (&from)[16], uint32_t (&to)[16]) {
  for (int half = 0; half < 2; ++half) {
    for (int s = 0; s < 4; ++s) {
      const uint32_t even = from[8 * half + s], odd = from[8 * half + 4 + s];
      to[4 * s + half] = pick_bytes(even, odd, 0x6420);
      to[4 * s + 2 + half] = pick_bytes(even, odd, 0x7531);
    }
  }
}

// `chunks` chunks one after the other, in place, on the current CUDA device: queued on `stream`. CUDA builds
// alone have these two.
void shuffle_on_device(void* data, int64_t chunks, Stream stream);
void unshuffle_on_device(void* data, int64_t chunks, Stream stream);

}  // namespace anyfp8
