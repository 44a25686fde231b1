#pragma once

#include <cstdint>

#include "anyfp8/base/dtype.h"
#include "anyfp8/device/device.h"

namespace anyfp8 {

// In how many parts of m a RowParallelLinear computes on `device`, so that the sums of one part travel while
// the next part is multiplied; 1: all at once. Pure, and the same on every rank, as `largest_k` is the
// largest of their shares and their cards are alike. `sums` is the type that is summed. docs/scaling.md has
// the model.
int64_t overlap_parts(int64_t m, int64_t n, int64_t largest_k, int ranks, DType sums, const Device& device);

}  // namespace anyfp8
