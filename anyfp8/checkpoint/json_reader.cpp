#include "anyfp8/checkpoint/json_reader.h"

#include <string>
#include <utility>
#include <vector>

#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/untrusted_text.h"

namespace anyfp8 {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;
// An object takes as much memory as some five other values: a map of its own and the nodes in it.
constexpr size_t kObjectValues = 5;
// The parser gathers the characters since the begin of the last string or number, twice. Bounded here, that
// costs a few MB; the largest strings of real files (chat templates, tokenizer tables) have 0.3 MB.
constexpr size_t kMaxTokenBytes = size_t{1} << 20;

void check_token_lengths(std::string_view text) {
  size_t token = 0;  // where the last string or number began
  bool in_string = false, in_number = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (i - token > kMaxTokenBytes) {
      throw fail(ErrorCode::kInvalidFile, "byte {}: more than {} bytes in one string, number or gap", token,
                 kMaxTokenBytes);
    }
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else {
      const bool number = (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
      in_string = c == '"';
      if (in_string || (number && !in_number && c != 'e' && c != 'E')) token = i;
      in_number = number;
    }
  }
}

class JsonBuilder final : public nlohmann::json_sax<json> {
 public:
  JsonBuilder(size_t max_values, std::string_view streamed_key, const MemberSink& sink)
      : values_left_(max_values), streamed_key_(streamed_key), sink_(sink) {}

  json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool binary(binary_t&) override { return false; }  // not in JSON text

  bool string(string_t& value) override {
    if (!streaming_) return add(std::move(value));
    sink_(key_, value);
    return true;
  }

  bool start_object(size_t) override { return open(json::object()); }
  bool start_array(size_t) override { return open(json::array()); }

  bool key(string_t& value) override {
    key_ = std::move(value);
    if (!streaming_ && open_.back()->contains(key_)) {
      throw fail(ErrorCode::kInvalidFile, "the key {} is there twice in one object", shown(key_));
    }
    return true;
  }

  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    // "[json.exception...] parse error at line 1, column 2: syntax error ...; last read: '...'; ..."
    std::string_view reason = error.what();
    reason.remove_prefix(std::min(reason.size(), reason.find("] ") + 2));
    if (reason.starts_with("parse error at line")) reason.remove_prefix(reason.find(": ") + 2);
    reason = reason.substr(0, std::min(reason.find("; last read"), size_t{200}));
    throw fail(ErrorCode::kInvalidFile, "byte {}: not valid JSON, {}", position, reason);
  }

 private:
  bool add(json value) {
    place(std::move(value));
    return true;
  }

  json& place(json value) {
    if (streaming_) {
      throw fail(ErrorCode::kInvalidFile, "{} of {} must be a string, found {}", shown(key_), streamed_key_,
                 value.type_name());
    }
    const size_t count = value.is_object() ? kObjectValues : 1;
    if (values_left_ < count)
      throw fail(ErrorCode::kInvalidFile, "more values than a file of this kind can need");
    values_left_ -= count;
    if (open_.empty()) return root_ = std::move(value);
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return parent.back();
    }
    return parent[key_] = std::move(value);
  }

  bool open(json container) {
    if (open_.size() == kMaxDepth) throw fail(ErrorCode::kInvalidFile, "nested more than {} deep", kMaxDepth);
    const bool streamed = !streamed_key_.empty() && open_.size() == 1 && open_[0]->is_object() &&
                          key_ == streamed_key_ && container.is_object() && !streaming_;
    open_.push_back(&place(std::move(container)));
    streaming_ = streamed;
    return true;
  }

  bool close() {
    open_.pop_back();
    streaming_ = false;
    return true;
  }

  json root_;
  std::vector<json*> open_;  // a container moves only while its parent is the last one
  std::string key_;
  size_t values_left_;
  std::string_view streamed_key_;
  const MemberSink& sink_;
  bool streaming_ = false;
};

}  // namespace

json read_json(std::string_view text, size_t max_values, std::string_view streamed_key,
               const MemberSink& sink) {
  check_token_lengths(text);
  JsonBuilder builder(max_values, streamed_key, sink);
  json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace anyfp8
