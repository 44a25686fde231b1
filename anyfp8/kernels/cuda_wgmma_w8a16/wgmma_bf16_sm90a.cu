#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_table.cuh"

namespace anyfp8::wgmma {

const void* kernel_bf16(Code code, Scaling scaling, ShapeId shape) {
  return kernel_of<Half::kBF16>(code, scaling, shape);
}

}  // namespace anyfp8::wgmma
