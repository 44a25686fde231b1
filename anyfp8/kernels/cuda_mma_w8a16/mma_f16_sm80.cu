#include "anyfp8/kernels/common/tile_table.cuh"

namespace anyfp8::tile {

const void* kernel_sm80_f16(Code code, Scaling scaling, ShapeId shape) {
  return kernel_of<Family::kSm80, Half::kF16>(code, scaling, shape);
}

}  // namespace anyfp8::tile
