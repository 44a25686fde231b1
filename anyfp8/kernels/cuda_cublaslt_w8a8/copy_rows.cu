#include "anyfp8/kernels/cuda_cublaslt_w8a8/copy_rows.h"

#include "anyfp8/device/check_cuda.h"

namespace anyfp8 {
namespace {

constexpr int kThreads = 256;

// A thread copies 8 elements. kAligned: rows begin at multiples of 16 bytes there too.
template <bool kAligned>
__global__ void __launch_bounds__(kThreads)
    copy_rows_kernel(const uint4* from, uint16_t* to, int64_t count, uint32_t units, int64_t stride) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const uint4 loaded = from[i];
  uint16_t* const at = to + i / units * stride + i % units * 8;
  if constexpr (kAligned) {
    *reinterpret_cast<uint4*>(at) = loaded;
  } else {
    const uint32_t words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
    for (int j = 0; j < 8; ++j) at[j] = static_cast<uint16_t>(words[j / 2] >> 16 * (j % 2));
  }
}

}  // namespace

void copy_rows(const void* from, void* to, int64_t rows, int64_t columns, int64_t stride, Stream stream) {
  const bool aligned = reinterpret_cast<uintptr_t>(to) % 16 == 0 && stride % 8 == 0;
  const int64_t units = columns / 8, count = rows * units;
  ANYFP8_CUDA_CHECK(launch(aligned ? copy_rows_kernel<true> : copy_rows_kernel<false>,
                           static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, stream.handle,
                           static_cast<const uint4*>(from), static_cast<uint16_t*>(to), count,
                           static_cast<uint32_t>(units), stride));
}

}  // namespace anyfp8
