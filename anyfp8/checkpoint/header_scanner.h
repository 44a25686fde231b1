#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "anyfp8/base/text.h"

namespace anyfp8 {

// Reads the JSON of a safetensors header token by token, left to right, holding nothing but a position.
// Every failure is an Error(kInvalidFile) with the byte offset in the file.
class HeaderScanner {
 public:
  // A string between its quotes, as written.
  struct Text {
    uint32_t offset = 0;  // in the header
    uint32_t bytes = 0;
    bool escaped = false;
  };

  // `json` begins at byte `file_offset` of the file.
  HeaderScanner(std::string_view json, size_t file_offset) : json_(json), file_offset_(file_offset) {}

  size_t position() const noexcept { return position_; }
  bool at_end() const noexcept { return position_ == json_.size(); }
  char peek() const noexcept { return at_end() ? '\0' : json_[position_]; }

  // Past white space, then past `token` if it is next.
  bool take(char token) noexcept;
  void need(char token, std::string_view purpose);  // "':' after a name"
  // After a member: true at ',', false at `close`.
  bool more(char close);

  // A string of at most max_bytes as written; UTF-8, escapes and NUL are checked.
  Text text(std::string_view purpose, size_t max_bytes);
  // Digits alone, at most 2^63 - 1.
  uint64_t integer(std::string_view purpose);

  std::string_view as_written(Text text) const noexcept { return json_.substr(text.offset, text.bytes); }
  // Appends the text with its escapes resolved.
  void decode(Text text, std::string& out) const;

  template <typename... Args>
  [[noreturn]] void fail_at(size_t position, fmt::format_string<Args...> text, Args&&... args) const {
    throw fail(ErrorCode::kInvalidFile, "byte {}: {}", file_offset_ + position,
               fmt::format(text, std::forward<Args>(args)...));
  }

 private:
  std::string found() const;  // what is at the position, in words
  void skip_space() noexcept;
  size_t checked_escape(size_t position) const;
  uint32_t hex4(size_t position) const;

  std::string_view json_;
  size_t file_offset_;
  size_t position_ = 0;
};

}  // namespace anyfp8
