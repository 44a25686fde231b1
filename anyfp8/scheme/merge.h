#pragma once

#include <span>

#include "anyfp8/base/export.h"
#include "anyfp8/scheme/fp8_weight.h"

namespace anyfp8 {

// One weight from several with the same k, stacked along n (q/k/v, gate/up). Every scale is kept as it is:
// the group becomes the finest that all parts' scales can be written in exactly (tensor scales that differ
// become row scales; blocks cut by a part's end become rows x cols blocks). Nothing is requantised. Bytes are
// copied. Error(kInvalidArgument) for parts of differing k, dtype, layout or bias.
ANYFP8_API Fp8Weight merge(std::span<const Fp8Weight> parts);

}  // namespace anyfp8
