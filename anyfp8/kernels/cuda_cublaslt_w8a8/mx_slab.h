#pragma once

#include <cstdint>

#include "anyfp8/device/device.h"
#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/kernels/cuda_dequant_w8a16/slab_split.h"
#include "anyfp8/kernels/kernel.h"

// MX weights for cuBLASLt, which multiplies 32 codes that lie side by side by one scale. k64_shuffled bytes
// mix the two groups of a chunk, so slabs of rows are written to scratch memory in their own order, read once
// from there, and their scales beside them as mx_scale_tiles.h says. The layer keeps one copy, that of all
// kernels.
namespace anyfp8::w8a8 {

// Rows of every slab but the last, at most 32 MiB as codes; 0 where a row is too long.
constexpr int64_t mx_slab_rows(int64_t n, int64_t k) { return slab_rows(n, shuffled_pitch(k) / 2); }

// Queues that rows [begin, begin + rows) of an MX weight go to `codes` [rows, shuffled_pitch(k)] and
// `scales`, both at multiples of 16 bytes. `begin` is any.
void copy_mx_slab(const PlacedWeight& weight, int64_t begin, int64_t rows, void* codes, void* scales,
                  Stream stream);

}  // namespace anyfp8::w8a8
