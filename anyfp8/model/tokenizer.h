#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace anyfp8 {

struct TokenizerTables;

// Byte-level BPE from a Hugging Face tokenizer.json. Immutable: copies share one set of tables, and every
// method may be called from many threads at once.
class Tokenizer {
 public:
  // Reads model_dir/tokenizer.json. Error(kUnsupported) names a component that this class does not know, and
  // says so when the library was built without ICU; Error(kInvalidFile) names the place of a structural
  // mistake.
  static Tokenizer open(const std::filesystem::path& model_dir);

  // Invalid UTF-8 is read as U+FFFD. parse_special: special tokens written out in the text become their ids,
  // else they are ordinary text (added tokens that are not special are always recognised). add_special: the
  // post-processor's tokens, such as beginning-of-text, are put around the result. Error(kInvalidArgument)
  // above 256 MiB of text.
  std::vector<int> encode(std::string_view utf8, bool add_special = true, bool parse_special = true) const;

  // Valid UTF-8: bytes that form no character become U+FFFD. Ids without a token are left out.
  std::string decode(std::span<const int> ids, bool skip_special = true) const;

  // The bytes of one token, which may be part of a character; empty for special tokens and ids without a
  // token.
  std::string token_bytes(int id) const;

  int vocab_size() const;  // highest id + 1
  bool has_token(int id) const;
  bool is_special(int id) const;
  // The id of a token as the file writes it: "<|im_end|>"; ordinary tokens in byte-level letters, "Ġthe".
  std::optional<int> token_id(std::string_view content) const;

 private:
  explicit Tokenizer(std::shared_ptr<const TokenizerTables> tables);

  std::shared_ptr<const TokenizerTables> tables_;
};

}  // namespace anyfp8
