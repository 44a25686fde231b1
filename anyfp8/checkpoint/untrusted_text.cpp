#include "anyfp8/checkpoint/untrusted_text.h"

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
