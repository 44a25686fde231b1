#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "anyfp8/base/error.h"
#include "anyfp8/device/check_cuda.h"
#include "anyfp8/parallel/convert_elements.h"

namespace anyfp8 {
namespace {

template <typename From, typename To>
__global__ void convert(const From* from, To* to, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    to[i] = static_cast<To>(static_cast<float>(from[i]));
  }
}

template <typename From, typename To>
void queue(const void* from, void* to, int64_t count, Stream stream) {
  constexpr int kThreads = 256;
  constexpr int64_t kMostBlocks = 1024;
  const int64_t blocks = std::min((count + kThreads - 1) / kThreads, kMostBlocks);
  ANYFP8_CUDA_CHECK(launch(convert<From, To>, dim3(static_cast<unsigned>(blocks)), kThreads, stream.handle,
                           static_cast<const From*>(from), static_cast<To*>(to), count));
}

template <typename From>
void queue_from(const void* from, void* to, DType to_dtype, int64_t count, Stream stream) {
  switch (to_dtype) {
    case DType::kF32: return queue<From, float>(from, to, count, stream);
    case DType::kBF16: return queue<From, __nv_bfloat16>(from, to, count, stream);
    case DType::kF16: return queue<From, __half>(from, to, count, stream);
    default: throw Error(ErrorCode::kInternal, "elements are converted to f32, bf16 and f16 alone");
  }
}

}  // namespace

void convert_elements(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count,
                      Stream stream) {
  if (count == 0) return;
  switch (from_dtype) {
    case DType::kF32: return queue_from<float>(from, to, to_dtype, count, stream);
    case DType::kBF16: return queue_from<__nv_bfloat16>(from, to, to_dtype, count, stream);
    case DType::kF16: return queue_from<__half>(from, to, to_dtype, count, stream);
    default: throw Error(ErrorCode::kInternal, "elements are converted from f32, bf16 and f16 alone");
  }
}

}  // namespace anyfp8
