#pragma once

#include <optional>
#include <string_view>

#include "anyfp8/scheme/format.h"

namespace anyfp8 {

// Internal to scheme/: the pieces of load_weight() that inspect() needs too.

// The dialect's word on a module; an empty one where there is no dialect.
LayerSpec layer_spec(const Checkpoint& checkpoint, const Format* format, std::string_view module);

// What a scale without a configured group must mean, by its shape: tensor, row, or 128 x 128 blocks where
// that may be; absent when it fits nothing.
std::optional<Group> group_from_shape(const Shape& scale, int64_t n, int64_t k, bool may_be_blocks);

// Whether a scale of this shape as stored can be the grid of `group` over [n, k].
bool shape_fits_group(const Shape& scale, Group group, int64_t n, int64_t k);

}  // namespace anyfp8
