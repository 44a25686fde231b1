#pragma once

#include <cstdint>

#include "anyfp8/base/export.h"

namespace anyfp8 {

// Threads a parallel region uses: set_num_threads(), else ANYFP8_THREADS, else the CPUs this process may
// run on. Never more than that many threads exist; OpenMP keeps them between calls.
ANYFP8_API int num_threads() noexcept;
ANYFP8_API void set_num_threads(int count);  // Error(kInvalidArgument) below 1 or above 1024

// Threads worth waking for work that takes one of them so long: up to num_threads(), one for each 10 us.
int useful_threads(double work_ns) noexcept;

// Part `part` of `parts` of [0, count), in contiguous ranges of whole multiples of `granule`.
struct IndexRange {
  int64_t begin, end;
};
IndexRange static_split(int64_t count, int64_t granule, int part, int parts) noexcept;

}  // namespace anyfp8
