#pragma once

#include <string>
#include <string_view>

#include "anyfp8/base/utf8.h"

namespace anyfp8 {

bool is_utf8(std::string_view text) noexcept;

// Text of a file for a message: in double quotes, control characters and broken UTF-8 as \xNN, the middle
// of a long one left out.
std::string shown(std::string_view text);

}  // namespace anyfp8
