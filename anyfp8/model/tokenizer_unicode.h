#pragma once

// Internal: all that the tokenizer asks of ICU. Without ICU, need_unicode and the constructor throw
// Error(kUnsupported). Text is valid UTF-8 of less than 1 GiB.
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace anyfp8 {

void need_unicode();

std::string normalize_nfc(std::string_view text);

// A regular expression that cuts text into pieces. Immutable; used from many threads at once.
class UnicodeRegex {
 public:
  explicit UnicodeRegex(std::string_view pattern);  // Error(kUnsupported) for one that ICU does not compile
  ~UnicodeRegex();

  // Calls visit for the matches and what lies between them, in order, none of them empty.
  // Error(kUnsupported) when the pattern takes too much time or memory on this text.
  void split(std::string_view text, const std::function<void(std::string_view)>& visit) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace anyfp8
