#include <cuda_runtime_api.h>

#include <algorithm>

#include "anyfp8/device/check_cuda.h"
#include "anyfp8/kernels/common/k64_shuffle.h"

// In place: a thread holds a whole chunk in registers before it writes it back.
namespace anyfp8 {
namespace {

constexpr int kThreads = 256;

template <bool kInverse>
__global__ void __launch_bounds__(kThreads) permute_chunks(uint4* data, int64_t chunks) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t chunk = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; chunk < chunks;
       chunk += step) {
    uint4* const at = data + 4 * chunk;
    uint32_t from[16], to[16];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4 v = at[i];
      from[4 * i] = v.x, from[4 * i + 1] = v.y, from[4 * i + 2] = v.z, from[4 * i + 3] = v.w;
    }
    if constexpr (kInverse) {
      unshuffle_words(from, to);
    } else {
      shuffle_words(from, to);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) at[i] = make_uint4(to[4 * i], to[4 * i + 1], to[4 * i + 2], to[4 * i + 3]);
  }
}

template <bool kInverse>
void permute(void* data, int64_t chunks, Stream stream) {
  if (chunks == 0) return;
  // Runs once a layer: enough blocks to fill any card, few enough to be a grid whatever the size.
  constexpr int64_t kMostBlocks = 1 << 12;
  const auto blocks = static_cast<unsigned>(std::min((chunks + kThreads - 1) / kThreads, kMostBlocks));
  ANYFP8_CUDA_CHECK(
      launch(permute_chunks<kInverse>, blocks, kThreads, stream.handle, static_cast<uint4*>(data), chunks));
}

}  // namespace

void shuffle_on_device(void* data, int64_t chunks, Stream stream) { permute<false>(data, chunks, stream); }
void unshuffle_on_device(void* data, int64_t chunks, Stream stream) { permute<true>(data, chunks, stream); }

}  // namespace anyfp8
