#include "anyfp8/kernels/common/fused_launch.h"

#include "anyfp8/device/check_cuda.h"

namespace anyfp8 {

const void* ready_kernel(const void* kernel, int shared_bytes, std::atomic<uint64_t>& devices) {
  int index = 0;
  ANYFP8_CUDA_CHECK(cudaGetDevice(&index));
  const uint64_t bit = index < 64 ? uint64_t{1} << index : 0;
  if ((devices.load(std::memory_order_acquire) & bit) != 0) return kernel;
  ANYFP8_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  devices.fetch_or(bit, std::memory_order_release);
  return kernel;
}

void launch_fused(const FusedLaunch& launch, void* parameter, Stream stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(static_cast<unsigned>(launch.threads));
  config.dynamicSmemBytes = static_cast<size_t>(launch.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream.handle);
  cudaLaunchAttribute attributes[2]{};
  config.attrs = attributes;
  if (launch.overlaps) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  if (launch.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(launch.cluster), 1, 1};
  }
  void* parameters[] = {parameter};
  ANYFP8_CUDA_CHECK(cudaLaunchKernelExC(&config, launch.kernel, parameters));
}

bool begins_at_multiples_of(uintptr_t bytes, const TensorView& matrix) {
  return reinterpret_cast<uintptr_t>(matrix.data) % bytes == 0 &&
         (matrix.rows < 2 || static_cast<uintptr_t>(matrix.row_stride) * 2 % bytes == 0);
}

}  // namespace anyfp8
