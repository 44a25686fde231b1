#pragma once

// Internal: what tokenizer_load.cpp makes of a tokenizer.json and tokenizer.cpp works with.
#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "anyfp8/model/tokenizer_unicode.h"

namespace anyfp8 {

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using IdsByString = std::unordered_map<std::string, int, StringHash, std::equal_to<>>;

struct TokenizerTables {
  struct Token {
    std::string bytes;
    bool special = false;
  };
  struct Merge {
    uint32_t rank;  // lower ones are applied first
    int merged;     // id
  };
  // Tokens that are cut out of the text before anything else.
  struct AddedToken {
    std::string content;
    int id;
    ptrdiff_t prefix = -1;  // index of the longest other one that this begins with
  };
  struct AddedTokens {
    std::vector<AddedToken> tokens;  // ascending by content, without repeats
    std::bitset<256> first_bytes;
  };
  // One step of the pre-tokenizer, applied to every piece of the step before.
  struct Step {
    bool add_prefix_space = false;        // in front of a piece that does not begin with one
    std::unique_ptr<UnicodeRegex> regex;  // null: the piece stays whole
  };

  // Hashed and not indexed by id: a file of one token with id 2^24 must not cost gigabytes.
  std::unordered_map<int, Token> tokens;
  IdsByString ids;                             // by content as the file writes it
  int vocab_size = 0;                          // highest id + 1
  std::array<int, 256> byte_ids;               // the token of each byte; -1 for those that UTF-8 never has
  std::unordered_map<uint64_t, Merge> merges;  // by merge_key
  IdsByString whole_pieces;  // by bytes: pieces that are a token without merging (ignore_merges)
  bool nfc = false;
  AddedTokens added;             // looked for in the text as given
  AddedTokens added_normalized;  // looked for after normalisation
  std::vector<Step> steps;
  std::vector<int> prefix, suffix;  // what the post-processor adds
};

constexpr uint64_t merge_key(int left, int right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

std::shared_ptr<const TokenizerTables> load_tokenizer_tables(const std::filesystem::path& path);

}  // namespace anyfp8
