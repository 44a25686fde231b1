#pragma once

#include <cstddef>

#include "anyfp8/kernels/common/cublaslt_fp8_cuda.h"
#include "anyfp8/kernels/common/quantize_activation.h"
#include "anyfp8/kernels/cuda_cublaslt_w8a8/w8a8_parts.h"

// The two halves of cuda_cublaslt_w8a8's work, which `anyfp8 bench` also times one by one. CUDA builds alone.
namespace anyfp8::w8a8 {

// The product of `rows` outputs: all of them, or of MX weights a slab.
Fp8Product product_of(const LinearConfig& config, int64_t rows);

// Of the tokens of x into scratch memory at `memory`, with what else the product reads; `row_begin` and
// `rows` are still to be given.
ActivationRows quantisation(const PlacedWeight& placed, const TensorView& x, const Scratchpad& at,
                            std::byte* memory);

}  // namespace anyfp8::w8a8
