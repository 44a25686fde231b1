#include "anyfp8/checkpoint/header_scanner.h"

#include <limits>

#include "anyfp8/checkpoint/untrusted_text.h"

namespace anyfp8 {
namespace {

constexpr std::string_view kEscapes = "\"\\/bfnrt";
constexpr std::string_view kEscaped = "\"\\/\b\f\n\r\t";

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr bool is_high_surrogate(uint32_t code) { return code >= 0xD800 && code < 0xDC00; }
constexpr bool is_low_surrogate(uint32_t code) { return code >= 0xDC00 && code < 0xE000; }

void append_utf8(uint32_t code, std::string& out) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    tail(6), tail(0);
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    tail(12), tail(6), tail(0);
  }
}

}  // namespace

void HeaderScanner::skip_space() noexcept {
  while (!at_end() && (json_[position_] == ' ' || json_[position_] == '\n' || json_[position_] == '\t' ||
                       json_[position_] == '\r')) {
    ++position_;
  }
}

std::string HeaderScanner::found() const {
  if (at_end()) return "the end of the header";
  const char c = json_[position_];
  if (c == '"') return "a string";
  if (c == '{') return "an object";
  if (c == '[') return "an array";
  if (c == '-' || is_digit(c)) return "a number";
  return shown(json_.substr(position_, 1));
}

bool HeaderScanner::take(char token) noexcept {
  skip_space();
  if (peek() != token || at_end()) return false;
  ++position_;
  return true;
}

void HeaderScanner::need(char token, std::string_view purpose) {
  if (!take(token)) fail_at(position_, "found {}, need '{}' {}", found(), token, purpose);
}

bool HeaderScanner::more(char close) {
  if (take(close)) return false;
  if (!take(',')) fail_at(position_, "found {}, need ',' or '{}'", found(), close);
  return true;
}

HeaderScanner::Text HeaderScanner::text(std::string_view purpose, size_t max_bytes) {
  skip_space();
  if (peek() != '"') fail_at(position_, "found {}, need a string for {}", found(), purpose);
  const size_t start = ++position_;
  bool escaped = false;
  while (peek() != '"' || at_end()) {
    if (at_end()) fail_at(start - 1, "the string of {} does not end within the header", purpose);
    const unsigned char c = static_cast<unsigned char>(json_[position_]);
    if (c == '\\') {
      escaped = true;
      position_ = checked_escape(position_);
    } else if (c < 0x20) {
      fail_at(position_, "control character \\x{:02x} in {}", c, purpose);
    } else {
      const size_t bytes = utf8_sequence_bytes(json_.substr(position_, 4));
      if (bytes == 0) fail_at(position_, "{} is not valid UTF-8", purpose);
      position_ += bytes;
    }
    if (position_ - start > max_bytes) {
      fail_at(start - 1, "{} is longer than {} bytes", purpose, max_bytes);
    }
  }
  const Text text{static_cast<uint32_t>(start), static_cast<uint32_t>(position_ - start), escaped};
  ++position_;
  return text;
}

uint32_t HeaderScanner::hex4(size_t position) const {
  uint32_t code = 0;
  for (size_t i = position; i < position + 4; ++i) {
    const char c = i < json_.size() ? json_[i] : '\0';
    const int digit = is_digit(c)            ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) fail_at(position - 2, "\\u needs four hexadecimal digits");
    code = code * 16 + static_cast<uint32_t>(digit);
  }
  return code;
}

// The position after the escape that begins at `position`.
size_t HeaderScanner::checked_escape(size_t position) const {
  const char kind = position + 1 < json_.size() ? json_[position + 1] : '\0';
  if (kEscapes.find(kind) != std::string_view::npos) return position + 2;
  if (kind != 'u') fail_at(position, "unknown escape \\{} in a string", shown({&kind, 1}));
  const uint32_t code = hex4(position + 2);
  if (code == 0) fail_at(position, "NUL character \\u0000 in a string");
  if (is_low_surrogate(code)) fail_at(position, "lone surrogate \\u{:04x} in a string", code);
  if (!is_high_surrogate(code)) return position + 6;
  if (json_.substr(position + 6, 2) != "\\u" || !is_low_surrogate(hex4(position + 8))) {
    fail_at(position, "lone surrogate \\u{:04x} in a string", code);
  }
  return position + 12;
}

void HeaderScanner::decode(Text text, std::string& out) const {
  if (!text.escaped) {
    out += as_written(text);
    return;
  }
  for (size_t i = text.offset; i < text.offset + text.bytes;) {
    if (json_[i] != '\\') {
      out += json_[i++];
    } else if (json_[i + 1] != 'u') {
      out += kEscaped[kEscapes.find(json_[i + 1])];
      i += 2;
    } else {
      uint32_t code = hex4(i + 2);
      i += 6;
      if (is_high_surrogate(code)) {
        code = 0x10000 + ((code - 0xD800) << 10) + (hex4(i + 2) - 0xDC00);
        i += 6;
      }
      append_utf8(code, out);
    }
  }
}

uint64_t HeaderScanner::integer(std::string_view purpose) {
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  skip_space();
  const size_t start = position_;
  if (!is_digit(peek())) {
    fail_at(start, "found {}, need a whole number from 0 to 2^63 - 1 for {}",
            peek() == '-' ? "a negative number" : found(), purpose);
  }
  uint64_t value = 0;
  for (; is_digit(peek()); ++position_) {
    const uint64_t digit = static_cast<uint64_t>(peek() - '0');
    if (value > (kMax - digit) / 10) fail_at(start, "the number for {} is larger than 2^63 - 1", purpose);
    value = value * 10 + digit;
  }
  if (json_[start] == '0' && position_ - start > 1) fail_at(start, "a number for {} begins with 0", purpose);
  if (peek() == '.' || peek() == 'e' || peek() == 'E') {
    fail_at(start, "found a fraction or exponent, need a whole number for {}", purpose);
  }
  return value;
}

}  // namespace anyfp8
