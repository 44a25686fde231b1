#pragma once

#include <utility>

#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_kernel.cuh"
#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_launch.h"

// The kernels for one type of activations: its file instantiates kernel_of().
namespace anyfp8::wgmma {

template <Half kHalf, Code kCode, Scaling kScaling, ShapeId kShape>
const void* kernel_if_there() {
  if constexpr (has_shape({kHalf, kCode, kScaling}, kShape)) {
    return reinterpret_cast<const void*>(&wgmma_w8a16<Tile<kHalf, kCode, kScaling, kShape>>);
  } else {
    return nullptr;
  }
}

template <Half kHalf, Code kCode, Scaling kScaling, size_t... kIds>
const void* kernel_of_shape(ShapeId shape, std::index_sequence<kIds...>) {
  const void* kernel = nullptr;
  ((kIds == shape ? kernel = kernel_if_there<kHalf, kCode, kScaling, static_cast<ShapeId>(kIds)>() : nullptr),
   ...);
  return kernel;
}

template <Half kHalf, Code kCode>
const void* kernel_of_scaling(Scaling scaling, ShapeId shape) {
  constexpr std::make_index_sequence<kShapeCount> kAll;
  switch (scaling) {
    case Scaling::kRow: return kernel_of_shape<kHalf, kCode, Scaling::kRow>(shape, kAll);
    case Scaling::k128: return kernel_of_shape<kHalf, kCode, Scaling::k128>(shape, kAll);
    case Scaling::kMx: return kernel_of_shape<kHalf, kCode, Scaling::kMx>(shape, kAll);
    default: return nullptr;
  }
}

template <Half kHalf>
const void* kernel_of(Code code, Scaling scaling, ShapeId shape) {
  return code == Code::kE4M3 ? kernel_of_scaling<kHalf, Code::kE4M3>(scaling, shape)
                             : kernel_of_scaling<kHalf, Code::kE5M2>(scaling, shape);
}

}  // namespace anyfp8::wgmma
