#include "anyfp8/kernels/common/tile_table.cuh"

namespace anyfp8::tile {

const void* kernel_sm90a_bf16(Code code, Scaling scaling, ShapeId shape) {
  return kernel_of<Family::kSm90a, Half::kBF16>(code, scaling, shape);
}

}  // namespace anyfp8::tile
