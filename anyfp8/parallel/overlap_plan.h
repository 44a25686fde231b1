#pragma once

#include <cstdint>

#include "anyfp8/kernels/kernel.h"

namespace anyfp8 {

// In how many parts of m a RowParallelLinear computes on `device`, so that the sums of one part travel while
// the next part is multiplied; 1: all at once. Pure, and the same on every rank as long as their shares of k
// are `largest_k` at most and their cards are alike. The model is in docs/scaling.md.
int64_t overlap_parts(int64_t m, int64_t n, int64_t largest_k, int ranks, DType sums, const Device& device);

// The tokens of part `part` of `parts`: multiples of 128, the last one takes the rest.
TokenRange part_of_tokens(int64_t m, int64_t part, int64_t parts) noexcept;

}  // namespace anyfp8
