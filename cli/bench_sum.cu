#include "anyfp8/device/check_cuda.h"
#include "cli/bench_sum.h"

namespace anyfp8::cli {
namespace {

constexpr int kThreads = 512;
constexpr int kLoads = 8;  // on their way at once, of a thread

__global__ void __launch_bounds__(kThreads) sum_kernel(const uint4* data, size_t count, uint32_t* sum) {
  const size_t step = size_t{gridDim.x} * kThreads;
  uint32_t total = 0;
  size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; i + (kLoads - 1) * step < count; i += kLoads * step) {
    uint4 loaded[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) loaded[j] = __ldcs(data + i + j * step);
#pragma unroll
    for (int j = 0; j < kLoads; ++j) total += loaded[j].x + loaded[j].y + loaded[j].z + loaded[j].w;
  }
  for (; i < count; i += step) total += data[i].x + data[i].y + data[i].z + data[i].w;
  if (total == 0xFFFFFFFFu) *sum = total;  // the compiler cannot know that it never is
}

}  // namespace

void queue_sum(const void* data, size_t bytes, uint32_t* sum, int sm_count, Stream stream) {
  constexpr int kBlocksEachSm = 4;
  ANYFP8_CUDA_CHECK(launch(sum_kernel, static_cast<unsigned>(sm_count * kBlocksEachSm), kThreads,
                           stream.handle, static_cast<const uint4*>(data), bytes / 16, sum));
}

}  // namespace anyfp8::cli
