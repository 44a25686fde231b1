#pragma once

#include <utility>

#include "anyfp8/kernels/common/tile_kernel.cuh"
#include "anyfp8/kernels/common/tile_launch.h"

// One family's kernels for one type of activations: its file instantiates kernel_of().
namespace anyfp8::tile {

template <Family kFamily, Half kHalf, Code kCode, Scaling kScaling, ShapeId kShape>
const void* kernel_if_there() {
  if constexpr (has_shape(kFamily, {kHalf, kCode, kScaling}, kShape)) {
    return reinterpret_cast<const void*>(&tile_w8a16<TileShape<kFamily, kHalf, kCode, kScaling, kShape>>);
  } else {
    return nullptr;
  }
}

template <Family kFamily, Half kHalf, Code kCode, Scaling kScaling, size_t... kIds>
const void* kernel_of_shape(ShapeId shape, std::index_sequence<kIds...>) {
  const void* kernel = nullptr;
  ((kIds == shape ? kernel = kernel_if_there<kFamily, kHalf, kCode, kScaling, static_cast<ShapeId>(kIds)>()
                  : nullptr),
   ...);
  return kernel;
}

template <Family kFamily, Half kHalf, Code kCode>
const void* kernel_of_scaling(Scaling scaling, ShapeId shape) {
  constexpr std::make_index_sequence<kShapeCount> kAll;
  switch (scaling) {
    case Scaling::kRow: return kernel_of_shape<kFamily, kHalf, kCode, Scaling::kRow>(shape, kAll);
    case Scaling::k128: return kernel_of_shape<kFamily, kHalf, kCode, Scaling::k128>(shape, kAll);
    case Scaling::k32: return kernel_of_shape<kFamily, kHalf, kCode, Scaling::k32>(shape, kAll);
    default: return kernel_of_shape<kFamily, kHalf, kCode, Scaling::kMx>(shape, kAll);
  }
}

template <Family kFamily, Half kHalf>
const void* kernel_of(Code code, Scaling scaling, ShapeId shape) {
  return code == Code::kE4M3 ? kernel_of_scaling<kFamily, kHalf, Code::kE4M3>(scaling, shape)
                             : kernel_of_scaling<kFamily, kHalf, Code::kE5M2>(scaling, shape);
}

}  // namespace anyfp8::tile
