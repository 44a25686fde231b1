#include "anyfp8/kernels/cuda_mma_w8a16/mma_kernels.cuh"

namespace anyfp8::mma {

const void* kernel_sm90_f16(Code code, int group, ShapeId shape) {
  return kernel_of<Family::kSm90, Half::kF16>(code, group, shape);
}

}  // namespace anyfp8::mma
