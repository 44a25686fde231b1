#include "anyfp8/model/text_stream.h"

#include <utility>

#include "anyfp8/base/utf8.h"

namespace anyfp8 {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string TextStream::push(std::string_view bytes) {
  std::string joined = std::exchange(held_, {});
  joined += bytes;
  const std::string_view text = joined;
  std::string valid;
  valid.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Front part = utf8_front(text.substr(at));
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
