#include "anyfp8/kernels/common/tile_table.cuh"

namespace anyfp8::tile {

const void* kernel_sm75_f16(Code code, Scaling scaling, ShapeId shape) {
  return kernel_of<Family::kSm75, Half::kF16>(code, scaling, shape);
}

}  // namespace anyfp8::tile
