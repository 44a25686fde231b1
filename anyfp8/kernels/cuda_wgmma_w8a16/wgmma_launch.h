#pragma once

#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_plan.h"
#include "anyfp8/kernels/kernel.h"

namespace anyfp8::wgmma {

// The kernels by type of activations, or null where has_shape() says no.
const void* kernel_bf16(Code code, Scaling scaling, ShapeId shape);
const void* kernel_f16(Code code, Scaling scaling, ShapeId shape);

// Loads every kernel that apply() may launch for the layer, on the current device.
void prepare(const PlacedWeight& weight);

// Queues y = x · Wᵀ + bias, for a layer that check() of the kernel's table admits.
void apply(const PlacedWeight& weight, const TensorView& x, const TensorView& y, Scratch, Stream stream);

}  // namespace anyfp8::wgmma
