#pragma once

#include "anyfp8/kernels/cuda_mma_w8a16/mma_arguments.h"
#include "anyfp8/kernels/cuda_mma_w8a16/mma_plan.h"
#include "anyfp8/kernels/kernel.h"

namespace anyfp8::mma {

// The kernels of a family, or null where has_shape() says no; each is defined in a file of that family's name.
const void* kernel_sm75_f16(Code code, int group, ShapeId shape);
const void* kernel_sm80_bf16(Code code, int group, ShapeId shape);
const void* kernel_sm80_f16(Code code, int group, ShapeId shape);
const void* kernel_sm90_bf16(Code code, int group, ShapeId shape);
const void* kernel_sm90_f16(Code code, int group, ShapeId shape);

// Queues the work of `plan` on the current device. `arguments` hold the operands; their tiles, steps and splits are
// filled in here.
void launch(const Plan& plan, Family family, Half half, Code code, int group, MmaArguments arguments, Stream stream);

}  // namespace anyfp8::mma

namespace anyfp8 {
void apply_cuda_mma_w8a16(const PlacedWeight& weight, const TensorView& x, const TensorView& y, Scratch scratch,
                          Stream stream);
}  // namespace anyfp8
