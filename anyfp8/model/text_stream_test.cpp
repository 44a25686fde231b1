#include "anyfp8/model/text_stream.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace anyfp8 {
namespace {

std::string stream_in_pieces(std::string_view text, size_t piece_bytes) {
  TextStream stream;
  std::string joined;
  for (size_t at = 0; at < text.size(); at += piece_bytes)
    joined += stream.push(text.substr(at, piece_bytes));
  return joined + stream.finish();
}

constexpr std::string_view kMixed = "aé日😀\n\xF0\x9F\x98z\xC3";  // ends in two broken characters

TEST(TextStream, ReplacesEachLongestBeginningOfABrokenCharacter) {
  const std::vector<std::pair<std::string, int>> broken = {
      {"\xF0\x9F\x98", 1},  // three quarters of a character
      {"\xE6\x97", 1},
      {"\xC3", 1},
      {"\x80", 1},          // continuation alone
      {"\xC0\x80", 2},      // overlong: C0 begins nothing
      {"\xE0\x80\x80", 3},  // overlong: 80 cannot follow E0
      {"\xF0\x8F\xBF\xBF", 4},
      {"\xED\xA0\x80", 3},      // a surrogate
      {"\xF4\x90\x80\x80", 4},  // above U+10FFFF
      {"\xF5\xFF", 2},
      {"\xF0\x9F\xF0\x9F", 2},
  };
  for (const auto& [bytes, replacements] : broken) {
    std::string expected = "a";
    for (int i = 0; i < replacements; ++i) expected += "\uFFFD";
    for (const size_t piece : {1, 2, 3, 100}) {
      EXPECT_EQ(stream_in_pieces("a" + bytes, piece), expected)
          << testing::PrintToString(bytes) << " by " << piece;
      EXPECT_EQ(stream_in_pieces("a" + bytes + "b", piece), expected + "b")
          << testing::PrintToString(bytes) << " by " << piece;
    }
  }
}

TEST(TextStream, CutAtEveryByteGivesTheSameText) {
  const std::string whole = stream_in_pieces(kMixed, kMixed.size());
  EXPECT_EQ(whole, "aé日😀\n\uFFFDz\uFFFD");
  for (size_t cut = 0; cut <= kMixed.size(); ++cut) {
    TextStream stream;
    std::string joined = stream.push(kMixed.substr(0, cut));
    joined += stream.push(kMixed.substr(cut));
    joined += stream.finish();
    EXPECT_EQ(joined, whole) << "cut at " << cut;
  }
}

TEST(TextStream, HoldsBackOnlyWhatIsIncomplete) {
  TextStream stream;
  EXPECT_EQ(stream.push("a\xF0\x9F"), "a");
  EXPECT_EQ(stream.push("\x98"), "");
  EXPECT_EQ(stream.push("\x80z"), "😀z");
  EXPECT_EQ(stream.push("\xC3"), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.push("\xA9"), "\uFFFD");  // as new: the held byte is gone
}

}  // namespace
}  // namespace anyfp8
