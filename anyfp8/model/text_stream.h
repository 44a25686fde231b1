#pragma once

#include <string>
#include <string_view>

namespace anyfp8 {

// Turns pieces of bytes, cut anywhere, into pieces of valid UTF-8: the beginning of a character at the end of
// a piece is held back until the rest arrives. Each longest beginning of a character that is not completed
// becomes one U+FFFD, as does each byte that begins none. The returned pieces, joined, depend on the joined
// input only. For one thread at a time.
class TextStream {
 public:
  std::string push(std::string_view bytes);
  std::string finish();  // what was held back; the stream is then as new

 private:
  std::string held_;  // at most 3 bytes: a proper beginning of a character
};

}  // namespace anyfp8
