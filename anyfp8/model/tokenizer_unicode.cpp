#include "anyfp8/model/tokenizer_unicode.h"

#include "anyfp8/base/text.h"

#ifdef ANYFP8_HAVE_ICU
#include <unicode/normalizer2.h>
#include <unicode/regex.h>
#include <unicode/unistr.h>
#endif

namespace anyfp8 {

#ifdef ANYFP8_HAVE_ICU
namespace {

// Work of one match, in units of about a millisecond. A match of a sane pattern over 1 MB stays below 100; a
// pattern that backtracks without end would run for days.
constexpr int32_t kMatchTimeLimit = 1000;
// Memory for backtracking. The patterns of known models loop over sets, which takes one entry however long
// the run.
constexpr int32_t kMatchStackBytes = 32 << 20;

// The tokenizers library matches lines as Ruby does: ^ and $ at every line, of which only \n is the end.
constexpr uint32_t kRegexFlags = UREGEX_MULTILINE | UREGEX_UNIX_LINES;

icu::StringPiece icu_view(std::string_view text) { return {text.data(), static_cast<int32_t>(text.size())}; }

void check(UErrorCode status, std::string_view doing) {
  if (U_FAILURE(status))
    throw fail(ErrorCode::kInternal, "ICU failed with {} in {}", u_errorName(status), doing);
}

// A surrogate is half of a character of 4 bytes.
size_t utf8_bytes(char16_t unit) { return unit < 0x80 ? 1 : unit < 0x800 || U16_IS_SURROGATE(unit) ? 2 : 3; }

}  // namespace

struct UnicodeRegex::Compiled {
  std::unique_ptr<icu::RegexPattern> pattern;
};

void need_unicode() {}

std::string normalize_nfc(std::string_view text) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(status);
  check(status, "loading the NFC tables");
  std::string normalized;
  icu::StringByteSink<std::string> sink(&normalized, static_cast<int32_t>(text.size()));
  nfc->normalizeUTF8(0, icu_view(text), sink, nullptr, status);
  check(status, "NFC");
  return normalized;
}

UnicodeRegex::UnicodeRegex(std::string_view pattern) : compiled_(std::make_unique<Compiled>()) {
  UErrorCode status = U_ZERO_ERROR;
  UParseError where{};
  compiled_->pattern.reset(icu::RegexPattern::compile(icu::UnicodeString::fromUTF8(icu_view(pattern)),
                                                      kRegexFlags, where, status));
  if (U_FAILURE(status)) {
    throw fail(ErrorCode::kUnsupported, "ICU does not compile the regular expression: {} at character {}",
               u_errorName(status), where.offset);
  }
}

UnicodeRegex::~UnicodeRegex() = default;

void UnicodeRegex::split(std::string_view text, const std::function<void(std::string_view)>& visit) const {
  UErrorCode status = U_ZERO_ERROR;
  const icu::UnicodeString wide = icu::UnicodeString::fromUTF8(icu_view(text));
  const std::unique_ptr<icu::RegexMatcher> matcher(compiled_->pattern->matcher(wide, status));
  check(status, "making a regular expression matcher");
  matcher->setTimeLimit(kMatchTimeLimit, status);
  matcher->setStackLimit(kMatchStackBytes, status);
  check(status, "setting the limits of a regular expression");

  int32_t wide_at = 0;  // both name the end of the last piece, in units of `wide` and in bytes of `text`
  size_t at = 0;
  const auto take_until = [&](int32_t wide_end) {
    const size_t begin = at;
    for (; wide_at < wide_end; ++wide_at) at += utf8_bytes(wide[wide_at]);
    if (at != begin) visit(text.substr(begin, at - begin));
  };
  while (matcher->find(status)) {
    take_until(matcher->start(status));
    take_until(matcher->end(status));
  }
  if (U_FAILURE(status)) {
    throw fail(ErrorCode::kUnsupported,
               "the tokenizer's regular expression takes too much time or memory ({}) at byte {} of a text "
               "of {}: it "
               "backtracks where that of a known model does not; get the model's own tokenizer.json",
               u_errorName(status), at, text.size());
  }
  take_until(wide.length());
}

#else

struct UnicodeRegex::Compiled {};

void need_unicode() {
  throw Error(ErrorCode::kUnsupported,
              "anyfp8 was built without ICU, which the tokenizer needs: install libicu-dev and build again");
}

std::string normalize_nfc(std::string_view text) {
  need_unicode();
  return std::string(text);
}

UnicodeRegex::UnicodeRegex(std::string_view) { need_unicode(); }
UnicodeRegex::~UnicodeRegex() = default;
void UnicodeRegex::split(std::string_view, const std::function<void(std::string_view)>&) const {
  need_unicode();
}

#endif

}  // namespace anyfp8
