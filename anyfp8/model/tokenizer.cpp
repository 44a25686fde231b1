#include "anyfp8/model/tokenizer.h"

#include <algorithm>
#include <limits>

#include "anyfp8/base/text.h"
#include "anyfp8/model/text_stream.h"
#include "anyfp8/model/tokenizer_tables.h"

namespace anyfp8 {
namespace {

// Normalisation makes text at most three times as long; ICU counts in int32.
constexpr size_t kMaxTextBytes = size_t{256} << 20;

// One call of encode: the text goes down through the stages, ids come out at the bottom.
class Encoder {
 public:
  Encoder(const TokenizerTables& tables, bool parse_special, std::vector<int>& ids)
      : tables_(tables), parse_special_(parse_special), ids_(ids) {}

  void encode(std::string_view text) {
    cut_added(tables_.added, text, [&](std::string_view given) {
      const std::string normal = tables_.nfc ? normalize_nfc(given) : std::string(given);
      cut_added(tables_.added_normalized, normal, [&](std::string_view part) { encode_part(part, 0); });
    });
  }

 private:
  // Emits the leftmost-longest added tokens of `text` and hands on the parts between them.
  template <typename Visit>
  void cut_added(const TokenizerTables::AddedTokens& added, std::string_view text, const Visit& visit) {
    size_t done = 0;
    for (size_t at = 0; at < text.size();) {
      const auto* found = longest_added(added, text.substr(at));
      if (found == nullptr) {
        ++at;
        continue;
      }
      const auto& [content, id, prefix] = *found;
      if (parse_special_ || !tables_.tokens.at(id).special) {
        if (at > done) visit(text.substr(done, at - done));
        ids_.push_back(id);
        done = at + content.size();
      }
      at += content.size();
    }
    if (done < text.size()) visit(text.substr(done));
  }

  // Whatever the text begins with is the greatest token that is not above the text, or begins that one too.
  static const TokenizerTables::AddedToken* longest_added(const TokenizerTables::AddedTokens& added,
                                                          std::string_view text) {
    if (!added.first_bytes[static_cast<unsigned char>(text[0])]) return nullptr;
    const auto& tokens = added.tokens;
    const auto above = std::ranges::upper_bound(tokens, text, {}, &TokenizerTables::AddedToken::content);
    ptrdiff_t at = above - tokens.begin() - 1;
    while (at >= 0 && !text.starts_with(tokens[static_cast<size_t>(at)].content)) at = tokens[at].prefix;
    return at < 0 ? nullptr : &tokens[static_cast<size_t>(at)];
  }

  void encode_part(std::string_view part, size_t step_index) {
    if (step_index == tables_.steps.size()) return encode_piece(part);
    const TokenizerTables::Step& step = tables_.steps[step_index];
    std::string spaced;
    if (step.add_prefix_space && part[0] != ' ') {
      spaced = " ";
      part = spaced += part;
    }
    if (!step.regex) return encode_part(part, step_index + 1);
    step.regex->split(part, [&](std::string_view piece) { encode_part(piece, step_index + 1); });
  }

  // Byte pair encoding: of all neighbours that may merge, the pair of lowest rank merges first, the leftmost
  // of equals.
  void encode_piece(std::string_view piece) {
    const auto whole = tables_.whole_pieces.find(piece);
    if (whole != tables_.whole_pieces.end()) return ids_.push_back(whole->second);
    symbols_.clear();
    candidates_.clear();
    for (const char byte : piece) {
      const uint32_t at = static_cast<uint32_t>(symbols_.size());
      symbols_.push_back({tables_.byte_ids[static_cast<unsigned char>(byte)], at - 1, at + 1});
    }
    symbols_.front().previous = kNone;
    symbols_.back().next = kNone;
    for (uint32_t at = 0; at + 1 < symbols_.size(); ++at) add_candidate(at);
    std::make_heap(candidates_.begin(), candidates_.end(), later);

    while (!candidates_.empty()) {
      std::pop_heap(candidates_.begin(), candidates_.end(), later);
      const Candidate candidate = candidates_.back();
      candidates_.pop_back();
      Symbol& left = symbols_[candidate.at];
      // Either half may have merged with another neighbour since.
      if (left.id != candidate.left || left.next == kNone || symbols_[left.next].id != candidate.right)
        continue;
      Symbol& right = symbols_[left.next];
      left.id = candidate.merged;
      left.next = right.next;
      right.id = kMergedAway;
      if (left.next != kNone) symbols_[left.next].previous = candidate.at;
      if (left.previous != kNone) push_candidate(left.previous);
      push_candidate(candidate.at);
    }
    for (uint32_t at = 0; at != kNone; at = symbols_[at].next) ids_.push_back(symbols_[at].id);
  }

  static constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  static constexpr int kMergedAway = -1;

  struct Symbol {
    int id;
    uint32_t previous, next;  // indices
  };
  struct Candidate {
    uint32_t rank, at;
    int left, right, merged;
  };
  static bool later(const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  }

  // The symbol at `at` with its next one, if they may merge.
  bool add_candidate(uint32_t at) {
    const Symbol& left = symbols_[at];
    if (left.next == kNone) return false;
    const int right = symbols_[left.next].id;
    const auto merge = tables_.merges.find(merge_key(left.id, right));
    if (merge == tables_.merges.end()) return false;
    candidates_.push_back({merge->second.rank, at, left.id, right, merge->second.merged});
    return true;
  }

  void push_candidate(uint32_t at) {
    if (add_candidate(at)) std::push_heap(candidates_.begin(), candidates_.end(), later);
  }

  const TokenizerTables& tables_;
  const bool parse_special_;
  std::vector<int>& ids_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> candidates_;
};

const TokenizerTables::Token* find_token(const TokenizerTables& tables, int id) {
  const auto found = tables.tokens.find(id);
  return found == tables.tokens.end() ? nullptr : &found->second;
}

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const TokenizerTables> tables) : tables_(std::move(tables)) {}

Tokenizer Tokenizer::open(const std::filesystem::path& model_dir) {
  need_unicode();
  return Tokenizer(load_tokenizer_tables(model_dir / "tokenizer.json"));
}

std::vector<int> Tokenizer::encode(std::string_view utf8, bool add_special, bool parse_special) const {
  if (utf8.size() > kMaxTextBytes) {
    throw fail(ErrorCode::kInvalidArgument,
               "the text has {} bytes and at most {} are encoded at once: cut it into parts", utf8.size(),
               kMaxTextBytes);
  }
  TextStream stream;
  std::string text = stream.push(utf8);
  text += stream.finish();

  std::vector<int> ids;
  if (add_special) ids = tables_->prefix;
  Encoder(*tables_, parse_special, ids).encode(text);
  if (add_special) ids.insert(ids.end(), tables_->suffix.begin(), tables_->suffix.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int> ids, bool skip_special) const {
  TextStream stream;
  std::string text;
  for (const int id : ids) {
    const TokenizerTables::Token* token = find_token(*tables_, id);
    if (token && !(token->special && skip_special)) text += stream.push(token->bytes);
  }
  return text += stream.finish();
}

std::string Tokenizer::token_bytes(int id) const {
  const TokenizerTables::Token* token = find_token(*tables_, id);
  return token && !token->special ? token->bytes : std::string();
}

int Tokenizer::vocab_size() const { return tables_->vocab_size; }

bool Tokenizer::has_token(int id) const { return find_token(*tables_, id) != nullptr; }

bool Tokenizer::is_special(int id) const {
  const TokenizerTables::Token* token = find_token(*tables_, id);
  return token && token->special;
}

std::optional<int> Tokenizer::token_id(std::string_view content) const {
  const auto found = tables_->ids.find(content);
  return found == tables_->ids.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace anyfp8
