#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/checkpoint/untrusted_text.h"
#include "anyfp8/model/tokenizer_tables.h"

namespace anyfp8 {
namespace {

using nlohmann::json;

constexpr size_t kMaxFileBytes = size_t{64} << 20;  // the largest published one has 33 MB
constexpr int kMaxId = 1 << 24;
constexpr size_t kMaxSteps = 16;         // of a pre-tokenizer; known ones have two or three
constexpr size_t kMaxAddedBytes = 1024;  // of one added token: the search tries every length at every byte
constexpr size_t kMaxAffixTokens = 64;   // put around a text by the post-processor; known ones put one or two

// What a ByteLevel step with use_regex cuts by: the pattern of GPT-2.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string shown_value(const json& value) {
  if (value.is_structured()) return value.type_name();
  return value.is_string() ? shown(value.get_ref<const std::string&>()) : value.dump();
}

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

Error wrong_type(const json& value, std::string_view needed) {
  return fail(ErrorCode::kInvalidFile, "is {} and must be {}", shown_value(value), needed);
}

// A member of an object that is not null; null where it is absent.
const json* find_member(const json& object, const char* key) {
  if (!object.is_object()) throw wrong_type(object, "an object");
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

const json& need_member(const json& object, const char* key) {
  const json* found = find_member(object, key);
  if (!found) throw fail(ErrorCode::kInvalidFile, "has no \"{}\"", key);
  return *found;
}

const std::string& need_string(const json& value) {
  if (!value.is_string()) throw wrong_type(value, "a string");
  return value.get_ref<const std::string&>();
}

const json& need_array(const json& value) {
  if (!value.is_array()) throw wrong_type(value, "an array");
  return value;
}

const std::string& type_of(const json& component) { return need_string(need_member(component, "type")); }

bool flag(const json& object, const char* key, bool when_absent) {
  const json* found = find_member(object, key);
  if (!found) return when_absent;
  if (!found->is_boolean())
    throw fail(ErrorCode::kInvalidFile, "\"{}\" is {} and must be true or false", key, shown_value(*found));
  return found->get<bool>();
}

int read_id(const json& value) {
  if (!value.is_number_integer()) throw wrong_type(value, "a token id");
  const int64_t id = value.get<int64_t>();
  if (id < 0 || id >= kMaxId)
    throw fail(ErrorCode::kInvalidFile, "id {} is not below {}", shown_value(value), kMaxId);
  return static_cast<int>(id);
}

// Runs `read`; an Error gets the place in front.
template <typename Read>
void at_place(std::string_view place, const Read& read) {
  try {
    read();
  } catch (Error& error) {
    throw std::move(error).in(place);
  }
}

class Loader {
 public:
  std::shared_ptr<const TokenizerTables> load(const json& file) {
    // "truncation" and "padding" are not read: they concern batches, and the caller decides on lengths.
    const json& model = need_member(file, "model");
    at_place("model", [&] { read_model(model); });
    at_place("normalizer", [&] { read_normalizer(find_member(file, "normalizer")); });
    if (const json* added = find_member(file, "added_tokens")) {
      need_array(*added);
      for (size_t i = 0; i < added->size(); ++i) {
        at_place(fmt::format("added_tokens[{}]", i), [&] { read_added_token((*added)[i]); });
      }
    }
    for (auto* lengths : {&tables_->added.lengths, &tables_->added_normalized.lengths}) {
      std::sort(lengths->rbegin(), lengths->rend());
      lengths->erase(std::unique(lengths->begin(), lengths->end()), lengths->end());
    }
    at_place("pre_tokenizer", [&] {
      read_pre_tokenizer(need_member(file, "pre_tokenizer"));
      if (!byte_level_)
        throw Error(ErrorCode::kUnsupported, "has no ByteLevel step, and only byte-level BPE is supported");
    });
    if (const json* post = find_member(file, "post_processor")) {
      at_place("post_processor", [&] { read_post_processor(*post); });
    }
    at_place("decoder", [&] {
      const std::string& type = type_of(need_member(file, "decoder"));
      if (type != "ByteLevel") throw unsupported_type(type, "ByteLevel");
    });
    return std::move(tables_);
  }

 private:
  static Error unsupported_type(const std::string& type, std::string_view supported) {
    return fail(ErrorCode::kUnsupported, "type {} is not supported, only {}", shown(type), supported);
  }

  void read_model(const json& model) {
    if (const std::string& type = type_of(model); type != "BPE") throw unsupported_type(type, "BPE");
    for (const char* key :
         {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
      const json* value = find_member(model, key);
      if (!value || *value == "" || *value == false || *value == 0) continue;
      throw fail(ErrorCode::kUnsupported,
                 "\"{}\" is {}: byte-level BPE has no use for it, and it is not supported", key,
                 shown_value(*value));
    }
    ignore_merges_ = flag(model, "ignore_merges", false);
    tables_->byte_ids.fill(-1);

    const json& vocab = need_member(model, "vocab");
    at_place("vocab", [&] {
      if (!vocab.is_object()) throw wrong_type(vocab, "an object");
      tables_->tokens.reserve(vocab.size());
      tables_->ids.reserve(vocab.size());
      for (const auto& [content, value] : vocab.items()) {
        try {
          const int id = read_id(value);
          add_token(content, id);
          note_piece(content, id);
        } catch (Error& error) {
          throw std::move(error).in(shown(content));
        }
      }
    });
    check_byte_ids();

    const json& merges = need_array(need_member(model, "merges"));
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
      const std::string_view text = need_string(merge);
      const size_t space = text.find(' ');
      if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
        throw wrong_type(merge, "two tokens with a space between them");
      }
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2) {
      left = need_string(merge[0]);
      right = need_string(merge[1]);
    } else {
      throw wrong_type(merge, "a string or an array of two strings");
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
    const std::string& type = type_of(*normalizer);
    if (type == "Sequence") {
      for (const json& part : need_array(need_member(*normalizer, "normalizers"))) read_normalizer(&part);
    } else if (type == "NFC") {
      tables_->nfc = true;
    } else {
      throw unsupported_type(type, "NFC");
    }
  }

  void read_added_token(const json& token) {
    const std::string& content = need_string(need_member(token, "content"));
    if (content.empty() || content.size() > kMaxAddedBytes) {
      throw fail(ErrorCode::kInvalidFile, "content has {} bytes and must have 1 to {}", content.size(),
                 kMaxAddedBytes);
    }
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      if (flag(token, key, false)) {
        throw fail(ErrorCode::kUnsupported, "\"{}\" of {} is set and is not supported", key, shown(content));
      }
    }
    const int id = read_id(need_member(token, "id"));
    const bool special = flag(token, "special", false);
    TokenizerTables::Token& known = add_token(content, id);
    known.special = known.special || special;
    // Ordinary text never becomes a special token.
    if (special) tables_->whole_pieces.erase(known.bytes);
    const bool normalized = flag(token, "normalized", !special);
    TokenizerTables::AddedTokens& added = normalized ? tables_->added_normalized : tables_->added;
    const std::string& searched = normalized && tables_->nfc ? normalize_nfc(content) : content;
    added.ids.insert_or_assign(searched, id);
    added.lengths.push_back(searched.size());
    added.first_bytes.set(static_cast<unsigned char>(searched[0]));
  }

  void read_pre_tokenizer(const json& step) {
    const std::string& type = type_of(step);
    if (type == "Sequence") {
      for (const json& part : need_array(need_member(step, "pretokenizers"))) read_pre_tokenizer(part);
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
    read.add_prefix_space = flag(step, "add_prefix_space", true);
    if (flag(step, "use_regex", true)) read.regex = std::make_unique<UnicodeRegex>(kByteLevelPattern);
  }

  static void read_split(const json& split, TokenizerTables::Step& step) {
    const json* pattern = find_member(need_member(split, "pattern"), "Regex");
    if (!pattern)
      throw Error(ErrorCode::kUnsupported,
                  "Split has a pattern that is not a \"Regex\", which is not supported");
    step.regex = std::make_unique<UnicodeRegex>(need_string(*pattern));
    if (const std::string& behavior = need_string(need_member(split, "behavior")); behavior != "Isolated") {
      throw fail(ErrorCode::kUnsupported, "Split has behavior {}, only Isolated is supported",
                 shown(behavior));
    }
  }

  void read_post_processor(const json& post) {
    const std::string& type = type_of(post);
    if (type == "ByteLevel") return;  // it moves offsets, and there are none here
    if (type == "Sequence") {
      for (const json& part : need_array(need_member(post, "processors"))) read_post_processor(part);
    } else if (type == "TemplateProcessing") {
      read_template(post);
    } else {
      throw unsupported_type(type, "ByteLevel, TemplateProcessing and Sequence");
    }
  }

  void read_template(const json& post) {
    std::vector<int> prefix, suffix;
    bool after_text = false;
    for (const json& part : need_array(need_member(post, "single"))) {
      if (find_member(part, "Sequence")) {
        if (after_text)
          throw Error(ErrorCode::kUnsupported, "\"single\" has the text twice, which is not supported");
        after_text = true;
        continue;
      }
      const std::string& name = need_string(need_member(need_member(part, "SpecialToken"), "id"));
      const json& special = need_member(need_member(post, "special_tokens"), name.c_str());
      for (const json& id : need_array(need_member(special, "ids"))) {
        (after_text ? suffix : prefix).push_back(read_id(id));
        if (!tables_->tokens.contains(read_id(id))) {
          throw fail(ErrorCode::kInvalidFile, "special token {} has id {}, which no token has", shown(name),
                     read_id(id));
        }
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
  const json file = read_json_file(path, kMaxFileBytes);
  std::shared_ptr<const TokenizerTables> tables;
  at_place(path.string(), [&] { tables = Loader().load(file); });
  return tables;
}

}  // namespace anyfp8
