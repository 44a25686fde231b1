#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/checkpoint/json_fields.h"
#include "anyfp8/checkpoint/untrusted_text.h"
#include "anyfp8/model/tokenizer_tables.h"

namespace anyfp8 {
namespace {

using nlohmann::json;

constexpr size_t kMaxFileBytes = size_t{64} << 20;  // the largest published one has 33 MB
constexpr int kMaxId = 1 << 24;
constexpr size_t kMaxSteps = 16;        // of a pre-tokenizer; known ones have two or three
constexpr size_t kMaxAddedBytes = 256;  // of one added token: the search may read so many at every byte
constexpr size_t kMaxAffixTokens = 64;  // put around a text by the post-processor; known ones put one or two

// What a ByteLevel step with use_regex cuts by: the pattern of GPT-2.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Files write each byte of a token as one printable letter: bytes that print in Latin-1 as themselves, the
// n-th of the others as U+0100 + n (a space is U+0120 "Ġ"). By letter; -1 for none.
constexpr auto kBytesByLetter = [] {
  std::array<int16_t, 0x144> bytes{};
  bytes.fill(-1);
  size_t next = 0x100;
  for (int16_t byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    bytes[prints ? static_cast<size_t>(byte) : next++] = byte;
  }
  return bytes;
}();

// Nothing for a text with any other letter; such a token stands for its own bytes.
std::optional<std::string> bytes_from_letters(std::string_view letters) {
  std::string bytes;
  for (size_t at = 0; at < letters.size(); ++at) {
    size_t letter = static_cast<unsigned char>(letters[at]);
    // Letters are valid UTF-8; C5 leads the last of those in the table, up to U+017F.
    if (letter > 0xC5) return std::nullopt;
    if (letter >= 0x80) letter = (letter & 0x1F) << 6 | (static_cast<unsigned char>(letters[++at]) & 0x3F);
    if (letter >= kBytesByLetter.size() || kBytesByLetter[letter] < 0) return std::nullopt;
    bytes += static_cast<char>(kBytesByLetter[letter]);
  }
  return bytes;
}

const json& array_member(const json& object, const char* key) {
  const json& value = need_member(object, key);
  if (!value.is_array()) throw wrong_value(key, value, "an array");
  return value;
}

const std::string& string_member(const json& object, const char* key) {
  const json& value = need_member(object, key);
  if (!value.is_string()) throw wrong_value(key, value, "a string");
  return value.get_ref<const std::string&>();
}

int read_id(std::string_view name, const json& value) {
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() >= kMaxId) {
    throw wrong_value(shown(name), value, fmt::format("a token id from 0 to {}", kMaxId - 1));
  }
  return value.get<int>();
}

class Loader {
 public:
  std::shared_ptr<const TokenizerTables> load(const json& file) {
    // "truncation" and "padding" are not read: they concern batches, and the caller decides on lengths.
    const json& model = need_member(file, "model");
    at_place("model", [&] { read_model(model); });
    at_place("normalizer", [&] { read_normalizer(find_member(file, "normalizer")); });
    if (find_member(file, "added_tokens")) {
      const json& added = array_member(file, "added_tokens");
      for (size_t i = 0; i < added.size(); ++i) {
        at_place(fmt::format("added_tokens[{}]", i), [&] { read_added_token(added[i]); });
      }
    }
    finish(tables_->added.tokens);
    finish(tables_->added_normalized.tokens);
    at_place("pre_tokenizer", [&] {
      read_pre_tokenizer(need_member(file, "pre_tokenizer"));
      if (!byte_level_)
        throw Error(ErrorCode::kUnsupported, "has no ByteLevel step, and only byte-level BPE is supported");
    });
    if (const json* post = find_member(file, "post_processor")) {
      at_place("post_processor", [&] { read_post_processor(*post); });
    }
    at_place("decoder", [&] {
      const std::string& type = string_member(need_member(file, "decoder"), "type");
      if (type != "ByteLevel") throw unsupported_type(type, "ByteLevel");
    });
    return std::move(tables_);
  }

 private:
  static Error unsupported_type(const std::string& type, std::string_view supported) {
    return fail(ErrorCode::kUnsupported, "type {} is not supported, only {}", shown(type), supported);
  }

  void read_model(const json& model) {
    if (const std::string& type = string_member(model, "type"); type != "BPE")
      throw unsupported_type(type, "BPE");
    for (const char* key :
         {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
      const json* value = find_member(model, key);
      if (!value || *value == "" || *value == false || *value == 0) continue;
      throw fail(ErrorCode::kUnsupported,
                 "\"{}\" is {}: byte-level BPE has no use for it, and it is not supported", key,
                 value_text(*value));
    }
    ignore_merges_ = bool_member(model, "ignore_merges", false);
    tables_->byte_ids.fill(-1);

    const json& vocab = need_member(model, "vocab");
    if (!vocab.is_object()) throw wrong_value("vocab", vocab, "an object");
    at_place("vocab", [&] {
      tables_->tokens.reserve(vocab.size());
      tables_->ids.reserve(vocab.size());
      for (const auto& [content, value] : vocab.items()) {
        const int id = read_id(content, value);
        add_token(content, id);
        note_piece(content, id);
      }
    });
    check_byte_ids();

    const json& merges = array_member(model, "merges");
    tables_->merges.reserve(merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      try {
        read_merge(merges[i], static_cast<uint32_t>(i));
      } catch (Error& error) {
        throw std::move(error).in(fmt::format("merges[{}]", i));
      }
    }
  }

  TokenizerTables::Token& add_token(const std::string& content, int id) {
    const auto [found, is_new_content] = tables_->ids.emplace(content, id);
    if (found->second != id) {
      throw fail(ErrorCode::kInvalidFile, "token {} has the two ids {} and {}", shown(content), found->second,
                 id);
    }
    const auto [token, is_new_id] = tables_->tokens.try_emplace(id);
    if (is_new_content != is_new_id) {
      throw fail(ErrorCode::kInvalidFile, "id {} of token {} is the id of another token too", id,
                 shown(content));
    }
    if (is_new_id) token->second.bytes = bytes_from_letters(content).value_or(content);
    tables_->vocab_size = std::max(tables_->vocab_size, id + 1);
    return token->second;
  }

  // Keeps what encoding needs to know of a token of the model, which is more than an added token.
  void note_piece(const std::string& content, int id) {
    const auto bytes = bytes_from_letters(content);
    if (!bytes) return;
    if (bytes->size() == 1) tables_->byte_ids[static_cast<unsigned char>((*bytes)[0])] = id;
    if (ignore_merges_) tables_->whole_pieces.emplace(*bytes, id);
  }

  void check_byte_ids() const {
    for (size_t byte = 0; byte < 256; ++byte) {
      const bool in_utf8 = byte < 0xC0 || (byte >= 0xC2 && byte <= 0xF4);
      if (tables_->byte_ids[byte] >= 0 || !in_utf8) continue;
      throw fail(ErrorCode::kUnsupported,
                 "vocab has no token for byte {:#04x}: byte-level BPE needs one for every byte", byte);
    }
  }

  void read_merge(const json& merge, uint32_t rank) {
    std::string_view left, right;
    if (merge.is_string()) {
      const std::string_view text = merge.get_ref<const std::string&>();
      const size_t space = std::min(text.find(' '), text.size());
      left = text.substr(0, space);
      right = text.substr(std::min(space + 1, text.size()));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get_ref<const std::string&>();
      right = merge[1].get_ref<const std::string&>();
    }
    if (left.empty() || right.empty() || (merge.is_string() && right.find(' ') != std::string_view::npos)) {
      throw wrong_value("it", merge, "two tokens, in an array or in a string with a space between them");
    }
    const int left_id = need_model_token(left);
    const int right_id = need_model_token(right);
    const int merged = need_model_token(std::string(left).append(right));
    tables_->merges.insert_or_assign(merge_key(left_id, right_id), TokenizerTables::Merge{rank, merged});
  }

  int need_model_token(std::string_view content) const {
    const auto found = tables_->ids.find(content);
    if (found == tables_->ids.end()) {
      throw fail(ErrorCode::kInvalidFile, "token {} is not in the vocabulary", shown(content));
    }
    return found->second;
  }

  void read_normalizer(const json* normalizer) {
    if (!normalizer) return;
    const std::string& type = string_member(*normalizer, "type");
    if (type == "Sequence") {
      for (const json& part : array_member(*normalizer, "normalizers")) read_normalizer(&part);
    } else if (type == "NFC") {
      tables_->nfc = true;
    } else {
      throw unsupported_type(type, "NFC");
    }
  }

  void read_added_token(const json& token) {
    const std::string& content = string_member(token, "content");
    if (content.empty() || content.size() > kMaxAddedBytes) {
      throw fail(ErrorCode::kInvalidFile, "content has {} bytes and must have 1 to {}", content.size(),
                 kMaxAddedBytes);
    }
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      if (bool_member(token, key, false)) {
        throw fail(ErrorCode::kUnsupported, "\"{}\" of {} is set and is not supported", key, shown(content));
      }
    }
    const int id = read_id("id", need_member(token, "id"));
    const bool special = bool_member(token, "special", false);
    TokenizerTables::Token& known = add_token(content, id);
    known.special = known.special || special;
    // Ordinary text never becomes a special token.
    if (special) tables_->whole_pieces.erase(known.bytes);
    const bool normalized = bool_member(token, "normalized", !special);
    TokenizerTables::AddedTokens& added = normalized ? tables_->added_normalized : tables_->added;
    const std::string& searched = normalized && tables_->nfc ? normalize_nfc(content) : content;
    added.tokens.push_back({searched, id});
    added.first_bytes.set(static_cast<unsigned char>(searched[0]));
  }

  static void finish(std::vector<TokenizerTables::AddedToken>& tokens) {
    std::ranges::sort(tokens, {}, &TokenizerTables::AddedToken::content);
    const auto same = [](const auto& a, const auto& b) { return a.content == b.content; };
    tokens.erase(std::unique(tokens.begin(), tokens.end(), same), tokens.end());
    // What a token begins with is the one before it in order, or begins that one too.
    for (size_t i = 0; i < tokens.size(); ++i) {
      ptrdiff_t before = static_cast<ptrdiff_t>(i) - 1;
      while (before >= 0 && !tokens[i].content.starts_with(tokens[before].content))
        before = tokens[before].prefix;
      tokens[i].prefix = before;
    }
  }

  void read_pre_tokenizer(const json& step) {
    const std::string& type = string_member(step, "type");
    if (type == "Sequence") {
      for (const json& part : array_member(step, "pretokenizers")) read_pre_tokenizer(part);
      return;
    }
    if (type != "Split" && type != "ByteLevel") throw unsupported_type(type, "Sequence, Split and ByteLevel");
    if (byte_level_)
      throw fail(ErrorCode::kUnsupported, "{} comes after ByteLevel, which must be the last step", type);
    if (tables_->steps.size() == kMaxSteps)
      throw fail(ErrorCode::kUnsupported, "has more than {} steps", kMaxSteps);
    TokenizerTables::Step& read = tables_->steps.emplace_back();
    if (type == "Split") return read_split(step, read);
    byte_level_ = true;
    read.add_prefix_space = bool_member(step, "add_prefix_space", true);
    if (bool_member(step, "use_regex", true)) read.regex = std::make_unique<UnicodeRegex>(kByteLevelPattern);
  }

  static void read_split(const json& split, TokenizerTables::Step& step) {
    const json& pattern = need_member(split, "pattern");
    if (!find_member(pattern, "Regex"))
      throw Error(ErrorCode::kUnsupported,
                  "Split has a pattern that is not a \"Regex\", which is not supported");
    step.regex = std::make_unique<UnicodeRegex>(string_member(pattern, "Regex"));
    if (const std::string& behavior = string_member(split, "behavior"); behavior != "Isolated") {
      throw fail(ErrorCode::kUnsupported, "Split has behavior {}, only Isolated is supported",
                 shown(behavior));
    }
  }

  void read_post_processor(const json& post) {
    const std::string& type = string_member(post, "type");
    if (type == "ByteLevel") return;  // it moves offsets, and there are none here
    if (type == "Sequence") {
      for (const json& part : array_member(post, "processors")) read_post_processor(part);
    } else if (type == "TemplateProcessing") {
      read_template(post);
    } else {
      throw unsupported_type(type, "ByteLevel, TemplateProcessing and Sequence");
    }
  }

  void read_template(const json& post) {
    std::vector<int> prefix, suffix;
    bool after_text = false;
    for (const json& part : array_member(post, "single")) {
      if (find_member(part, "Sequence")) {
        if (after_text)
          throw Error(ErrorCode::kUnsupported, "\"single\" has the text twice, which is not supported");
        after_text = true;
        continue;
      }
      const std::string& name = string_member(need_member(part, "SpecialToken"), "id");
      const json& special = need_member(need_member(post, "special_tokens"), name.c_str());
      for (const json& id : array_member(special, "ids")) {
        const int known = read_id("ids", id);
        if (!tables_->tokens.contains(known)) {
          throw fail(ErrorCode::kInvalidFile, "special token {} has id {}, which no token has", shown(name),
                     known);
        }
        (after_text ? suffix : prefix).push_back(known);
      }
    }
    if (!after_text)
      throw Error(ErrorCode::kInvalidFile, "\"single\" has no \"Sequence\", so the text would be lost");
    if (tables_->prefix.size() + tables_->suffix.size() + prefix.size() + suffix.size() > kMaxAffixTokens) {
      throw fail(ErrorCode::kUnsupported, "more than {} tokens are put around a text", kMaxAffixTokens);
    }
    // A later template is put around an earlier one.
    tables_->prefix.insert(tables_->prefix.begin(), prefix.begin(), prefix.end());
    tables_->suffix.insert(tables_->suffix.end(), suffix.begin(), suffix.end());
  }

  std::shared_ptr<TokenizerTables> tables_ = std::make_shared<TokenizerTables>();
  bool ignore_merges_ = false;
  bool byte_level_ = false;  // the pre-tokenizer's last step was read
};

}  // namespace

std::shared_ptr<const TokenizerTables> load_tokenizer_tables(const std::filesystem::path& path) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  if (error) {
    throw fail(ErrorCode::kNotFound,
               "{}: {}; the text of a model needs it, download it from where the model came from",
               path.string(), error.message());
  }
  if (bytes == 0) throw fail(ErrorCode::kInvalidFile, "{}: is empty; download it again", path.string());
  const json file = read_json_file(path, kMaxFileBytes);
  return at_place(path.string(), [&] { return Loader().load(file); });
}

}  // namespace anyfp8
