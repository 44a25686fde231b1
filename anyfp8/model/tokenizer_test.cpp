#include "anyfp8/model/tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "anyfp8/base/error.h"
#include "anyfp8/base/text.h"
#include "anyfp8/model/text_stream.h"

namespace anyfp8 {
namespace {

using nlohmann::json;
using Ids = std::vector<int>;

const std::filesystem::path kModelDir = std::filesystem::path(ANYFP8_SOURCE_DIR) / "models" / "kjv-qwen3-fp8";

class TokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
#ifndef ANYFP8_HAVE_ICU
    GTEST_SKIP() << "this build has no ICU, so it has no tokenizer";
#endif
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  Tokenizer open_text(const std::string& text) {
    static std::atomic<int> counter = 0;
    if (dir_.empty()) {
      dir_ = std::filesystem::temp_directory_path() /
             fmt::format("anyfp8_tokenizer_{}_{}", ::getpid(), counter++);
      std::filesystem::create_directories(dir_);
    }
    std::ofstream(dir_ / "tokenizer.json") << text;
    return Tokenizer::open(dir_);
  }
  Tokenizer open_json(const json& file) { return open_text(file.dump()); }

  // The error of opening `file`, as "code: text".
  std::string error_of(const json& file) {
    try {
      open_json(file);
    } catch (const Error& error) {
      return fmt::format("{}: {}", error_code_name(error.code()), error.what());
    }
    return "no error";
  }

 private:
  std::filesystem::path dir_;
};

constexpr std::string_view kLlamaPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

json added_token(int id, const std::string& content, bool special) {
  return {{"id", id}, {"content", content}, {"special", special}, {"normalized", !special}};
}

// A tokenizer.json in the manner of Llama 3: bytes are ids 0 to 255 (by value), merged tokens follow.
json llama_file(const std::vector<std::pair<std::string, std::string>>& merges) {
  json vocab = json::object();
  int others = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const int letter = prints ? byte : 0x100 + others++;
    std::string text(1, static_cast<char>(letter));
    if (letter >= 0x80)
      text = {static_cast<char>(0xC0 | letter >> 6), static_cast<char>(0x80 | (letter & 0x3F))};
    vocab[text] = byte;
  }
  json pairs = json::array();
  for (const auto& [left, right] : merges) {
    if (!vocab.contains(left + right)) vocab[left + right] = vocab.size();
    pairs.push_back({left, right});
  }
  return {
      {"added_tokens", {added_token(1000, "<|begin|>", true), added_token(1001, "<|end|>", true)}},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"},
           {"pattern", {{"Regex", kLlamaPattern}}},
           {"behavior", "Isolated"},
           {"invert", false}},
          {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
      {"post_processor",
       {{"type", "Sequence"},
        {"processors",
         {{{"type", "ByteLevel"}},
          {{"type", "TemplateProcessing"},
           {"single", {{{"SpecialToken", {{"id", "<|begin|>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
           {"special_tokens", {{"<|begin|>", {{"id", "<|begin|>"}, {"ids", {1000}}}}}}}}}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", pairs}}},
  };
}

TEST_F(TokenizerTest, AgreesWithTheTokenizersLibraryOnEveryCase) {
  const auto path =
      std::filesystem::path(ANYFP8_SOURCE_DIR) / ".." / "shared" / "models" / "tokenizer_cases.json";
  if (!std::filesystem::exists(path))
    GTEST_SKIP() << "../shared/models/tokenizer_cases.json is not on this machine";
  const Tokenizer tokenizer = Tokenizer::open(kModelDir);
  std::ifstream file(path);
  const json cases = json::parse(file);
  ASSERT_EQ(cases.size(), 257u);
  for (const json& one : cases) {
    const Ids ids = one["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.encode(one["text"].get<std::string>()), ids) << one["text"];
    EXPECT_EQ(tokenizer.decode(ids, false), one["decoded"].get<std::string>()) << one["text"];
  }
}

// Ids from the tokenizers library, so that a checkout without ../shared is held to them too.
TEST_F(TokenizerTest, EncodesKnownTextsOfTheModelInTheTree) {
  const Tokenizer tokenizer = Tokenizer::open(kModelDir);
  const std::vector<std::pair<std::string, Ids>> cases = {
      {"", {}},
      {"In the beginning God created", {43, 80, 261, 2149, 390, 3372}},
      {"trailing ", {86, 335, 379, 294, 223}},
      {"\t\ttab", {200, 200, 86, 470}},
      {"\r\n", {204, 201}},
      {"1234567", {19, 20, 21, 22, 23, 24, 25}},
      {"don't I'll WE'RE", {70, 286, 9, 86, 299, 9, 278, 458, 39, 9, 52, 39}},
      {"e\u0301 vs é", {130, 105, 471, 85, 223, 130, 105}},  // composed by NFC
  };
  for (const auto& [text, ids] : cases) EXPECT_EQ(tokenizer.encode(text), ids) << text;
  EXPECT_EQ(tokenizer.vocab_size(), 4096);
  EXPECT_EQ(tokenizer.token_bytes(*tokenizer.token_id("Ġthe")), " the");
}

TEST_F(TokenizerTest, SpecialTokensAreReadAndWrittenOnlyWhenAsked) {
  const Tokenizer tokenizer = Tokenizer::open(kModelDir);
  const std::string text = "<|im_start|>God<|im_end|>";
  const Ids ids = tokenizer.encode(text);
  ASSERT_GE(ids.size(), 3u);
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids.back(), 2);
  EXPECT_EQ(tokenizer.decode(ids), "God");
  EXPECT_EQ(tokenizer.decode(ids, false), text);

  const Ids plain = tokenizer.encode(text, true, false);
  for (const int id : plain) EXPECT_FALSE(tokenizer.is_special(id)) << id;
  EXPECT_EQ(tokenizer.decode(plain), text);

  EXPECT_TRUE(tokenizer.is_special(*tokenizer.token_id("<|im_end|>")));
  EXPECT_EQ(tokenizer.token_bytes(2), "");
}

TEST_F(TokenizerTest, IdsWithoutATokenDecodeToNothing) {
  const Tokenizer tokenizer = open_json(llama_file({}));
  EXPECT_EQ(tokenizer.vocab_size(), 1002);
  for (const int id : {-1, 256, 999, 1002, std::numeric_limits<int>::max()}) {
    EXPECT_FALSE(tokenizer.has_token(id)) << id;
    EXPECT_FALSE(tokenizer.is_special(id)) << id;
    EXPECT_EQ(tokenizer.token_bytes(id), "") << id;
    EXPECT_EQ(tokenizer.decode(Ids{'a', id, 'b'}), "ab") << id;
  }
  EXPECT_FALSE(tokenizer.token_id("no such token"));
}

TEST_F(TokenizerTest, BeginOfTextComesFromTheTemplate) {
  json file = llama_file({});
  EXPECT_EQ(open_json(file).encode("a"), (Ids{1000, 'a'}));
  EXPECT_EQ(open_json(file).encode("a", false), (Ids{'a'}));
  json& single = file["post_processor"]["processors"][1]["single"];
  std::swap(single[0], single[1]);  // now an end of text
  EXPECT_EQ(open_json(file).encode("a"), (Ids{'a', 1000}));
  file["post_processor"] = nullptr;
  EXPECT_EQ(open_json(file).encode("a"), (Ids{'a'}));
}

TEST_F(TokenizerTest, LowestRankMergesFirstAndLeftmostOfEquals) {
  const Tokenizer tokenizer = open_json(llama_file({{"b", "c"}, {"a", "b"}, {"a", "a"}, {"a", "bc"}}));
  EXPECT_EQ(tokenizer.encode("abc", false), (Ids{259}));  // b+c, then a+bc; not a+b
  EXPECT_EQ(tokenizer.encode("abab", false), (Ids{257, 257}));
  EXPECT_EQ(tokenizer.encode("aaa", false), (Ids{258, 'a'}));
  EXPECT_EQ(tokenizer.encode("aab", false), (Ids{'a', 257}));  // a+b ranks before a+a
}

TEST_F(TokenizerTest, IgnoreMergesTakesAWholePieceThatIsAToken) {
  json file = llama_file({});
  file["model"]["vocab"]["Ġab"] = 300;  // no merge makes it
  EXPECT_EQ(open_json(file).encode("x ab", false), (Ids{'x', ' ', 'a', 'b'}));
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(open_json(file).encode("x ab", false), (Ids{'x', 300}));
  EXPECT_EQ(open_json(file).encode("x abc", false), (Ids{'x', ' ', 'a', 'b', 'c'}));
  file["added_tokens"].push_back(
      added_token(300, "Ġab", true));  // plain text must not become a special token
  EXPECT_EQ(open_json(file).encode("x ab", false), (Ids{'x', ' ', 'a', 'b'}));
}

// Every pair of equal digits merges, so the ids show where the pre-tokenizer cut.
TEST_F(TokenizerTest, PreTokenizerCutsAsTheFileSays) {
  json file = llama_file({{"1", "1"}, {"Ġ", "a"}, {"Ġ", "Ġ"}, {"!", "Ċ"}});
  file["post_processor"] = nullptr;
  const int ones = 256, space_a = 257, spaces = 258, bang_newline = 259;
  EXPECT_EQ(open_json(file).encode("1111"), (Ids{ones, '1', '1'}));  // 111 | 1
  EXPECT_EQ(open_json(file).encode("a   a"), (Ids{'a', spaces, space_a}));
  EXPECT_EQ(open_json(file).encode("!\na"), (Ids{bang_newline, 'a'}));

  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}};
  EXPECT_EQ(open_json(file).encode("a1111"), (Ids{space_a, ones, ones}));
  EXPECT_EQ(open_json(file).encode(" a!\n"), (Ids{space_a, '!', '\n'}));
  EXPECT_EQ(open_json(file).encode(""), (Ids{}));
}

TEST_F(TokenizerTest, AddedTokensMatchLongestFirst) {
  json file = llama_file({});
  file["post_processor"] = nullptr;
  file["added_tokens"] = {added_token(1000, "<a>", true), added_token(1001, "<a><b>", true),
                          added_token(1002, "tool", false)};
  const Tokenizer tokenizer = open_json(file);
  EXPECT_EQ(tokenizer.encode("<a><a><b><b>"), (Ids{1000, 1001, '<', 'b', '>'}));
  EXPECT_EQ(tokenizer.encode("xtool<a>", true, false), (Ids{'x', 1002, '<', 'a', '>'}));
  EXPECT_EQ(tokenizer.decode(Ids{'x', 1002, 1000}), "xtool");
}

// Trying each token, or each length of one, at every byte takes minutes.
TEST_F(TokenizerTest, ManyAddedTokensThatBeginAlikeAreFoundInTime) {
  json file = llama_file({});
  file["post_processor"] = nullptr;
  std::string run;
  for (int i = 1; i < 256; ++i)
    file["added_tokens"].push_back(added_token(2000 + i, (run += 'a') + 'c', false));
  const Tokenizer tokenizer = open_json(file);
  EXPECT_EQ(tokenizer.encode("aacab"), (Ids{2002, 'a', 'b'}));
  EXPECT_EQ(tokenizer.encode("aab" + run + "ac"), (Ids{'a', 'a', 'b', 'a', 2255}));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(tokenizer.encode(std::string(1 << 20, 'a')).size(), size_t{1} << 20);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 5) << "about 0.2 s in a plain build";
}

TEST_F(TokenizerTest, LongestAddedTokenAmongPrefixesOfOthers) {
  json file = llama_file({});
  file["post_processor"] = nullptr;
  file["added_tokens"] = json::array();
  const std::vector<std::string> contents = {"aa",      "aab",        "aabcde",      "aabd",
                                             "b\u00FF", "aabc\u00FF", "\u00FF\u00FF"};
  for (size_t i = 0; i < contents.size(); ++i)
    file["added_tokens"].push_back(added_token(2000 + static_cast<int>(i), contents[i], false));
  const Tokenizer tokenizer = open_json(file);
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    Ids expected;
    for (size_t n = random() % 12; n > 0; --n)
      text += std::array{"a", "aab", "c", "d", "e", "\u00FF", "b"}[random() % 7];
    for (size_t at = 0; at < text.size();) {
      size_t best = contents.size();
      for (size_t i = 0; i < contents.size(); ++i) {
        const bool begins = std::string_view(text).substr(at).starts_with(contents[i]);
        if (begins && (best == contents.size() || contents[i].size() > contents[best].size())) best = i;
      }
      const bool found = best < contents.size();
      expected.push_back(found ? 2000 + static_cast<int>(best) : static_cast<unsigned char>(text[at]));
      at += found ? contents[best].size() : 1;
    }
    ASSERT_EQ(tokenizer.encode(text), expected) << text;
  }
}

TEST_F(TokenizerTest, AMissingOrEmptyFileSaysSo) {
  EXPECT_THROW(open_text(""), Error);
  try {
    open_text("");
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find("tokenizer.json: is empty"), std::string_view::npos);
  }
  try {
    Tokenizer::open(std::filesystem::temp_directory_path() / "anyfp8-no-such-model");
    ADD_FAILURE() << "opened";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_NE(std::string_view(error.what()).find("download it"), std::string_view::npos) << error.what();
  }
}

// Objects of one key cost some 160 bytes each, for 6 of the file: these would take 250 MB.
TEST_F(TokenizerTest, AFileOfNestedObjectsIsRefused) {
  std::string nest;
  for (int depth = 0; depth < 50; ++depth) nest += "{\"a\":";
  nest += "0" + std::string(50, '}');
  std::string text = "[" + nest;
  while (text.size() < 13 << 20) text += "," + nest;
  try {
    open_text(text + "]");
    ADD_FAILURE() << "opened";
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find("more values"), std::string_view::npos) << error.what();
  }
}

TEST_F(TokenizerTest, NormalizedAddedTokensAreFoundAfterNfc) {
  json file = llama_file({});
  file["post_processor"] = nullptr;
  file["normalizer"] = {{"type", "NFC"}};
  file["added_tokens"] = {added_token(1000, "<\u00E9>", false), added_token(1001, "[\u00E9]", true)};
  const Tokenizer tokenizer = open_json(file);
  EXPECT_EQ(tokenizer.encode("<e\u0301>"), (Ids{1000}));
  EXPECT_EQ(tokenizer.encode("[\u00E9]"), (Ids{1001}));
  EXPECT_EQ(tokenizer.encode("[e\u0301]"), (Ids{'[', 0xC3, 0xA9, ']'}));
}

TEST_F(TokenizerTest, AnyBytesComeBackAsTheirValidText) {
  json file = llama_file({{"a", "b"}, {"Ã", "©"}, {"ï", "¿"}, {"Ġ", "a"}});  // NFC off: the bytes are kept
  file["post_processor"] = nullptr;
  const Tokenizer tokenizer = open_json(file);
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::string bytes(random() % 200, '\0');
    // A third of the bytes from a small set, so that white space, letters and parts of characters meet.
    for (char& byte : bytes)
      byte = random() % 3 ? static_cast<char>(random()) : "ab \n\xC3\xA9\xE6\x97\xA5"[random() % 9];
    TextStream stream;
    std::string valid = stream.push(bytes);
    valid += stream.finish();
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(bytes)), valid);
  }
}

TEST_F(TokenizerTest, StreamedTokenBytesAreTheDecodedText) {
  const Tokenizer tokenizer = Tokenizer::open(kModelDir);
  const Ids ids = tokenizer.encode("日本 café 😀👍🏽 und so weiter\n");
  TextStream stream;
  std::string text;
  for (const int id : ids) text += stream.push(tokenizer.token_bytes(id));
  text += stream.finish();
  EXPECT_EQ(text, tokenizer.decode(ids));
  EXPECT_EQ(text, "日本 café 😀👍🏽 und so weiter\n");
}

// Without a heap the first takes hours, and a pattern that backtracks per character overflows.
TEST_F(TokenizerTest, AMegabyteInOneWordTakesLessThanSeconds) {
  const Tokenizer tokenizer = Tokenizer::open(kModelDir);
  std::string words;
  while (words.size() < 1 << 20) words += "In the beginning God created the heaven and the earth. ";
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& text :
       {std::string(1 << 20, 'a'), std::string(1 << 20, ' '), std::string(1 << 20, '\n'),
        std::string(1 << 20, '!'), std::string(1 << 20, '<'), std::string(1 << 20, '\xFF'), words}) {
    const Ids ids = tokenizer.encode(text);
    EXPECT_EQ(tokenizer.decode(ids) == text, text[0] != '\xFF');
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 60) << "about 2 s in a plain build";
}

TEST_F(TokenizerTest, APatternThatBacktracksWithoutEndIsAnError) {
  json file = llama_file({});
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$";
  const Tokenizer tokenizer = open_json(file);
  EXPECT_EQ(tokenizer.encode("aaa", false), (Ids{'a', 'a', 'a'}));
  const auto start = std::chrono::steady_clock::now();
  try {
    tokenizer.encode(std::string(40, 'a') + "b");
    ADD_FAILURE() << "came to an end";
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find("the tokenizer's regular expression"),
              std::string_view::npos);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 30) << "about 1 s in a plain build";
  EXPECT_THROW(tokenizer.encode(std::string(1 << 22, 'a') + "b"), Error);
}

TEST_F(TokenizerTest, UnknownComponentsAreRefusedByName) {
  const json good = llama_file({});
  ASSERT_EQ(error_of(good), "no error");
  const auto expect = [&](const char* pointer, json value, const std::string& named) {
    json file = good;
    file[json::json_pointer(pointer)] = std::move(value);
    const std::string error = error_of(file);
    EXPECT_TRUE(error.starts_with(std::string(error_code_name(ErrorCode::kUnsupported)))) << error;
    EXPECT_NE(error.find(named), std::string::npos) << error;
  };
  expect("/normalizer", {{"type", "NFKC"}}, "NFKC");
  expect("/pre_tokenizer", {{"type", "Metaspace"}}, "Metaspace");
  expect("/pre_tokenizer/pretokenizers/0/type", "Digits", "Digits");
  expect("/pre_tokenizer/pretokenizers/0/pattern", {{"String", " "}}, "Regex");
  expect("/pre_tokenizer/pretokenizers/0/pattern/Regex", "(", "regular expression");
  expect("/pre_tokenizer/pretokenizers/0/behavior", "Removed", "Removed");
  expect("/pre_tokenizer/pretokenizers", json::array(), "ByteLevel");
  expect("/post_processor", {{"type", "BertProcessing"}}, "BertProcessing");
  expect("/decoder/type", "Metaspace", "Metaspace");
  expect("/model/type", "Unigram", "Unigram");
  expect("/model/byte_fallback", true, "byte_fallback");
  expect("/model/unk_token", "<unk>", "unk_token");
  expect("/model/dropout", 0.1, "dropout");
  expect("/model/continuing_subword_prefix", "##", "continuing_subword_prefix");
  expect("/model/end_of_word_suffix", "</w>", "end_of_word_suffix");
  for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
    expect(("/added_tokens/0/" + std::string(flag)).c_str(), true, flag);
  }
}

TEST_F(TokenizerTest, AByteWithoutATokenIsRefused) {
  json file = llama_file({});
  file["model"]["vocab"].erase("Ġ");
  EXPECT_NE(error_of(file).find("0x20"), std::string::npos) << error_of(file);
}

TEST_F(TokenizerTest, StructuralMistakesAreNamedWithTheirPlace) {
  const json good = llama_file({{"a", "b"}});
  const auto expect = [&](const char* pointer, json value, const std::string& place) {
    json file = good;
    file[json::json_pointer(pointer)] = std::move(value);
    const std::string error = error_of(file);
    EXPECT_TRUE(error.starts_with(std::string(error_code_name(ErrorCode::kInvalidFile)))) << error;
    EXPECT_NE(error.find("tokenizer.json: " + place), std::string::npos) << error;
  };
  expect("/model", nullptr, "has no model");
  expect("/model/vocab", nullptr, "model: has no vocab");
  expect("/model/vocab", json::array(), "model: vocab is []");
  expect("/model/vocab/ab", "x", "model: vocab: \"ab\" is ");
  expect("/model/vocab/ab", -1, "model: vocab: \"ab\" is ");
  expect("/model/vocab/ab", int64_t{1} << 31, "model: vocab: \"ab\" is ");
  expect("/model/vocab/ab", std::numeric_limits<uint64_t>::max(), "model: vocab: \"ab\" is ");
  expect("/model/vocab/ab", 'a', "model: vocab: ");  // the id of "a"
  expect("/model/merges", nullptr, "model: has no merges");
  expect("/model/merges/0", 5, "model: merges[0]: ");
  expect("/model/merges/0", "ab", "model: merges[0]: ");
  expect("/model/merges/0", "a b c", "model: merges[0]: ");
  expect("/model/merges/0", "a nothing", "model: merges[0]: ");
  expect("/model/merges/0", "b a", "model: merges[0]: ");  // "ba" is no token
  expect("/model/merges/0", {"a", "b", "c"}, "model: merges[0]: ");
  expect("/model/merges/0", {"a", 1}, "model: merges[0]: ");
  expect("/model/ignore_merges", "yes", "model: ignore_merges is \"yes\"");
  expect("/added_tokens", 3, "added_tokens is 3");
  expect("/added_tokens/1", "x", "added_tokens[1]: ");
  expect("/added_tokens/1/id", 'a', "added_tokens[1]: ");
  expect("/added_tokens/1/id", 1.5, "added_tokens[1]: \"id\" is 1.5");
  expect("/added_tokens/1/content", "", "added_tokens[1]: ");
  expect("/pre_tokenizer/type", 1, "pre_tokenizer: type is 1");
  expect("/post_processor/processors/1/single", json::array(), "post_processor: ");
  expect("/post_processor/processors/1/special_tokens", json::object(), "post_processor: ");
  expect("/post_processor/processors/1/special_tokens/<|begin|>/ids/0", 999, "post_processor: ");
  expect("/decoder", nullptr, "decoder: ");
}

TEST_F(TokenizerTest, MergesMayBeStrings) {
  json file = llama_file({{"a", "b"}});
  file["model"]["merges"][0] = "a b";
  EXPECT_EQ(open_json(file).encode("ab", false), (Ids{256}));
}

TEST_F(TokenizerTest, EveryTruncationAndManyMutationsOpenOrFailWithASentence) {
  const std::string good = llama_file({{"a", "b"}}).dump();
  const auto open_or_fail = [&](const std::string& text) {
    try {
      open_text(text).encode("ab 12 <|end|>");
      return true;
    } catch (const Error& error) {
      EXPECT_GT(std::string_view(error.what()).size(), 20u);
      return false;
    }
  };
  for (size_t bytes = 0; bytes < good.size(); bytes += 7)
    EXPECT_FALSE(open_or_fail(good.substr(0, bytes))) << bytes;
  std::mt19937 random(11);
  for (int round = 0; round < 500; ++round) {
    std::string text = good;
    // Half in the small components at the ends, which the vocabulary in the middle would hide.
    const size_t at = random() % 2 ? random() % text.size() : text.size() - 1 - random() % 900;
    text[at] = random() % 2 ? static_cast<char>(random()) : "{}[]\",:0129-tfn\\"[random() % 16];
    open_or_fail(text);
  }
}

#ifndef ANYFP8_HAVE_ICU
TEST(TokenizerWithoutIcu, OpenSaysWhatIsMissing) {
  try {
    Tokenizer::open(kModelDir);
    FAIL() << "opened";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string_view(error.what()).find("ICU"), std::string_view::npos);
  }
}
#endif

}  // namespace
}  // namespace anyfp8
