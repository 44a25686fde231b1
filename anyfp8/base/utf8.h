#pragma once

#include <cstddef>
#include <string_view>

namespace anyfp8 {

struct Utf8Front {
  size_t bytes;   // a character, or the longest beginning of one (at least 1)
  size_t needed;  // by the character this begins; 0 when the first byte begins none
};

// What `text`, which is not empty, begins with, by the table of well-formed sequences of the Unicode
// standard:
//   first    00-7F  C2-DF  E0     E1-EC EE-EF  ED     F0     F1-F3  F4
//   second          80-BF  A0-BF  80-BF        80-9F  90-BF  80-BF  80-8F   (further ones always 80-BF)
inline Utf8Front utf8_front(std::string_view text) noexcept {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {1, 1};
  if (first < 0xC2 || first > 0xF4) return {1, 0};
  const size_t needed = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  size_t bytes = 1;
  while (bytes < needed && bytes < text.size() && byte(bytes) >= low && byte(bytes) <= high) {
    low = 0x80;
    high = 0xBF;
    ++bytes;
  }
  return {bytes, needed};
}

// Bytes of the character that `text` begins with; 0 when it begins with none. `text` is not empty.
inline size_t utf8_sequence_bytes(std::string_view text) noexcept {
  const Utf8Front front = utf8_front(text);
  return front.bytes == front.needed ? front.bytes : 0;
}

}  // namespace anyfp8
