#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace anyfp8 {

// Bytes of the UTF-8 sequence that `text` begins with; 0 when it is none (overlong forms, surrogates and
// code points above U+10FFFF included). `text` is not empty.
size_t utf8_sequence_bytes(std::string_view text) noexcept;

bool is_utf8(std::string_view text) noexcept;

// Text of a file for a message: in double quotes, control characters and broken UTF-8 as \xNN, the middle
// of a long one left out.
std::string shown(std::string_view text);

}  // namespace anyfp8
