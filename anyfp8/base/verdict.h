#pragma once

#include <string>
#include <utility>

namespace anyfp8 {

// The answer to "can this be done?": yes, or no with a sentence that holds the values found and needed.
class [[nodiscard]] Verdict {
 public:
  static Verdict yes() { return Verdict(true, {}); }
  static Verdict no(std::string reason) { return Verdict(false, std::move(reason)); }
  explicit operator bool() const noexcept { return yes_; }
  const std::string& reason() const noexcept { return reason_; }  // empty when yes

 private:
  Verdict(bool yes, std::string reason) : yes_(yes), reason_(std::move(reason)) {}
  bool yes_;
  std::string reason_;
};

}  // namespace anyfp8

// In a function that returns a Verdict: ANYFP8_NEED(k % 16 == 0, "k = {} is not a multiple of 16", k);
// The including .cpp file needs anyfp8/base/text.h.
#define ANYFP8_NEED(condition, ...)                                           \
  do {                                                                        \
    if (!(condition)) return ::anyfp8::Verdict::no(fmt::format(__VA_ARGS__)); \
  } while (false)
