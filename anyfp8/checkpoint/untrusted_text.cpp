#include "anyfp8/checkpoint/untrusted_text.h"

#include <cstdint>

#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

// The longest tensor name of published checkpoints is near 100 bytes.
constexpr size_t kShownBytes = 160;

void append_visible(std::string_view text, std::string& out) {
  while (!text.empty()) {
    const size_t bytes = utf8_sequence_bytes(text);
    const unsigned char first = static_cast<unsigned char>(text[0]);
    const bool visible = bytes > 1 || (bytes == 1 && first >= 0x20 && first != 0x7F);
    if (visible) {
      if (first == '"' || first == '\\') out += '\\';
      out += text.substr(0, bytes);
    } else {
      out += fmt::format("\\x{:02x}", first);
    }
    text.remove_prefix(visible ? bytes : 1);
  }
}

}  // namespace

size_t utf8_sequence_bytes(std::string_view text) noexcept {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < bytes) return 0;
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = byte(1);
  if (first == 0xE0 && second < 0xA0) return 0;  // overlong
  if (first == 0xED && second > 0x9F) return 0;  // surrogates
  if (first == 0xF0 && second < 0x90) return 0;  // overlong
  if (first == 0xF4 && second > 0x8F) return 0;  // above U+10FFFF
  return bytes;
}

bool is_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    const size_t bytes = utf8_sequence_bytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

std::string shown(std::string_view text) {
  std::string out = "\"";
  if (text.size() <= kShownBytes) {
    append_visible(text, out);
  } else {  // both ends: names of one model differ at either
    append_visible(text.substr(0, kShownBytes / 2), out);
    out += "...";
    append_visible(text.substr(text.size() - kShownBytes / 2), out);
  }
  out += '"';
  return out;
}

}  // namespace anyfp8
