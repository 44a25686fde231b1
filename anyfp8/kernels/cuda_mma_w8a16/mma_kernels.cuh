#pragma once

#include "anyfp8/kernels/cuda_mma_w8a16/mma_launch.h"
#include "anyfp8/kernels/cuda_mma_w8a16/mma_tile.cuh"

// One family's kernels for one type of activations.
namespace anyfp8::mma {

template <Family kFamily, Half kHalf, Code kCode, int kGroup, ShapeId kShape>
const void* kernel_if_there() {
  if constexpr (has_shape(kFamily, kCode, kGroup, kShape)) {
    return reinterpret_cast<const void*>(&mma_w8a16<TileShape<kFamily, kHalf, kCode, kGroup, kShape>>);
  } else {
    return nullptr;
  }
}

template <Family kFamily, Half kHalf, Code kCode, int kGroup>
const void* kernel_of_shape(ShapeId shape) {
  switch (shape) {
    case kNarrow8: return kernel_if_there<kFamily, kHalf, kCode, kGroup, kNarrow8>();
    case kWide8: return kernel_if_there<kFamily, kHalf, kCode, kGroup, kWide8>();
    case kNarrow16: return kernel_if_there<kFamily, kHalf, kCode, kGroup, kNarrow16>();
    case kWide16: return kernel_if_there<kFamily, kHalf, kCode, kGroup, kWide16>();
    case kTokens32: return kernel_if_there<kFamily, kHalf, kCode, kGroup, kTokens32>();
    case kTokens64: return kernel_if_there<kFamily, kHalf, kCode, kGroup, kTokens64>();
    case kTokens128: return kernel_if_there<kFamily, kHalf, kCode, kGroup, kTokens128>();
    default: return kernel_if_there<kFamily, kHalf, kCode, kGroup, kTokens128Grouped>();
  }
}

template <Family kFamily, Half kHalf>
const void* kernel_of(Code code, int group, ShapeId shape) {
  if (code == Code::kE4M3) {
    return group == 0     ? kernel_of_shape<kFamily, kHalf, Code::kE4M3, 0>(shape)
           : group == 128 ? kernel_of_shape<kFamily, kHalf, Code::kE4M3, 128>(shape)
                          : kernel_of_shape<kFamily, kHalf, Code::kE4M3, 32>(shape);
  }
  return group == 0     ? kernel_of_shape<kFamily, kHalf, Code::kE5M2, 0>(shape)
         : group == 128 ? kernel_of_shape<kFamily, kHalf, Code::kE5M2, 128>(shape)
                        : kernel_of_shape<kFamily, kHalf, Code::kE5M2, 32>(shape);
}

}  // namespace anyfp8::mma
