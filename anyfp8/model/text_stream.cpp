#include "anyfp8/model/text_stream.h"

#include <utility>

namespace anyfp8 {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

struct Subpart {
  size_t bytes;   // read: a character, or the longest beginning of one (at least 1)
  size_t needed;  // by the character this begins; 0 when the first byte begins none
};

// The character at the front of `text`, by the table of well-formed sequences of the Unicode standard:
//   first    00-7F  C2-DF  E0     E1-EC EE-EF  ED     F0     F1-F3  F4
//   second          80-BF  A0-BF  80-BF        80-9F  90-BF  80-BF  80-8F   (further ones always 80-BF)
Subpart read_subpart(std::string_view text) {
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

}  // namespace

std::string TextStream::push(std::string_view bytes) {
  std::string joined = std::exchange(held_, {});
  joined += bytes;
  const std::string_view text = joined;
  std::string valid;
  valid.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Subpart part = read_subpart(text.substr(at));
    if (part.bytes == part.needed) {
      valid += text.substr(at, part.bytes);
    } else if (part.needed != 0 && at + part.bytes == text.size()) {
      held_ = text.substr(at);
    } else {
      valid += kReplacement;
    }
    at += part.bytes;
  }
  return valid;
}

std::string TextStream::finish() {
  return std::exchange(held_, {}).empty() ? std::string() : std::string(kReplacement);
}

}  // namespace anyfp8
