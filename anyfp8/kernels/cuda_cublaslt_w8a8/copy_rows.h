#pragma once

#include <cstdint>

#include "anyfp8/device/device.h"

namespace anyfp8 {

// Queues a copy of `rows` rows of `columns` 16-bit elements on the current CUDA device: one after the other
// at `from`, at a multiple of 16 bytes, to rows that begin `stride` elements apart at any address. `columns`
// is a multiple of 8.
void copy_rows(const void* from, void* to, int64_t rows, int64_t columns, int64_t stride, Stream stream);

}  // namespace anyfp8
