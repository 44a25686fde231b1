#pragma once

#include "anyfp8/kernels/common/tile_arguments.h"
#include "anyfp8/kernels/common/tile_plan.h"
#include "anyfp8/kernels/kernel.h"

namespace anyfp8::tile {

// The kernels of a family, or null where has_shape() says no; each is defined in a file of that family's
// name.
const void* kernel_sm75_f16(Code code, Scaling scaling, ShapeId shape);
const void* kernel_sm80_bf16(Code code, Scaling scaling, ShapeId shape);
const void* kernel_sm80_f16(Code code, Scaling scaling, ShapeId shape);
const void* kernel_sm90_bf16(Code code, Scaling scaling, ShapeId shape);
const void* kernel_sm90_f16(Code code, Scaling scaling, ShapeId shape);

// Loads every kernel that apply() may launch for a layer, on the current device: a first use takes memory,
// and on a card without machine code of its own seconds.
void prepare(const Card& card, const LinearConfig& config);

// y = x · Wᵀ + bias by the kernels of card.family, for a layer that check_fused_w8a16() admits. `scratch` has
// most_scratch_bytes().
void apply(const Card& card, const PlacedWeight& weight, const TensorView& x, const TensorView& y,
           Scratch scratch, Stream stream);

}  // namespace anyfp8::tile
