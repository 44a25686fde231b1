#pragma once

#include <utility>

#include "anyfp8/kernels/common/tile_kernel.cuh"
#include "anyfp8/kernels/common/tile_launch.h"

// One family's kernels for one type of activations: its file instantiates kernel_of().
namespace anyfp8::tile {

template <Family kFamily, Half kHalf, Code kCode, int kGroup, ShapeId kShape>
const void* kernel_if_there() {
  if constexpr (has_shape(kFamily, {kHalf, kCode, kGroup}, kShape)) {
    return reinterpret_cast<const void*>(&tile_w8a16<TileShape<kFamily, kHalf, kCode, kGroup, kShape>>);
  } else {
    return nullptr;
  }
}

template <Family kFamily, Half kHalf, Code kCode, int kGroup, size_t... kIds>
const void* kernel_of_shape(ShapeId shape, std::index_sequence<kIds...>) {
  const void* kernel = nullptr;
  ((kIds == shape ? kernel = kernel_if_there<kFamily, kHalf, kCode, kGroup, static_cast<ShapeId>(kIds)>()
                  : nullptr),
   ...);
  return kernel;
}

template <Family kFamily, Half kHalf>
const void* kernel_of(Code code, int group, ShapeId shape) {
  constexpr std::make_index_sequence<kShapeCount> kAll;
  if (code == Code::kE4M3) {
    return group == 0     ? kernel_of_shape<kFamily, kHalf, Code::kE4M3, 0>(shape, kAll)
           : group == 128 ? kernel_of_shape<kFamily, kHalf, Code::kE4M3, 128>(shape, kAll)
                          : kernel_of_shape<kFamily, kHalf, Code::kE4M3, 32>(shape, kAll);
  }
  return group == 0     ? kernel_of_shape<kFamily, kHalf, Code::kE5M2, 0>(shape, kAll)
         : group == 128 ? kernel_of_shape<kFamily, kHalf, Code::kE5M2, 128>(shape, kAll)
                        : kernel_of_shape<kFamily, kHalf, Code::kE5M2, 32>(shape, kAll);
}

}  // namespace anyfp8::tile
