#pragma once

#include <cstdint>

#include "anyfp8/base/dtype.h"
#include "anyfp8/device/device.h"

namespace anyfp8 {

// to[i] = from[i], rounded to nearest even, on the current CUDA device; f32, bf16 and f16. Queued on
// `stream`.
void convert_elements(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count,
                      Stream stream);

}  // namespace anyfp8
