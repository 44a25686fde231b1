#include "anyfp8/scheme/quantization_config.h"

#include <charconv>
#include <cmath>
#include <regex>

#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/config_json.h"

namespace anyfp8 {
namespace {

using nlohmann::json;

// Patterns come from untrusted files. libstdc++'s usual executor backtracks, without bound in time and with a
// stack frame for each character; its breadth-first one takes at most pattern x subject steps, and counted
// repetitions, which would multiply the pattern, are refused.
constexpr size_t kLongestPattern = 1000, kLongestSubject = 512;
#if defined(__GLIBCXX__)
constexpr auto kRegexFlags = std::regex::ECMAScript | std::regex_constants::__polynomial;
#else
constexpr auto kRegexFlags = std::regex::ECMAScript;
#endif

Error wrong_type(std::string_view key, const json& value, std::string_view need) {
  return fail(ErrorCode::kInvalidFile, "quantization_config: \"{}\" is {}; it must be {}", key,
              value.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 80), need);
}

}  // namespace

const json& quantization_config(const Checkpoint& checkpoint) {
  static const json kNone = json::object();
  const json& config = config_json(checkpoint);
  for (const char* key : {"quantization_config", "compression_config"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    if (!found->is_object()) throw wrong_type(key, *found, "an object");
    return *found;
  }
  return kNone;
}

Verdict has_quant_method(const Checkpoint& checkpoint, std::string_view method) {
  const json& config = quantization_config(checkpoint);
  ANYFP8_NEED(!config.empty(), "config.json has no quantization_config");
  const std::string found = config_string(config, "quant_method");
  ANYFP8_NEED(found == method, "quant_method is \"{}\", not \"{}\"", found, method);
  return Verdict::yes();
}

std::string config_string(const json& config, std::string_view key, std::string_view fallback) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return std::string(fallback);
  if (!found->is_string()) throw wrong_type(key, *found, "a string");
  return found->get<std::string>();
}

std::vector<std::string> config_strings(const json& config, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null() || found->empty()) continue;
    if (!found->is_array()) throw wrong_type(key, *found, "a list of strings");
    std::vector<std::string> list;
    for (const json& item : *found) {
      if (!item.is_string()) throw wrong_type(key, item, "a list of strings");
      list.push_back(item.get<std::string>());
    }
    return list;
  }
  return {};
}

std::optional<float> config_number(const json& config, std::string_view key) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return std::nullopt;
  const float value = found->is_number() ? found->get<float>() : 0;
  if (!std::isfinite(value) || value <= 0) throw wrong_type(key, *found, "a finite number above 0");
  return value;
}

Group block_from_json(const json& value, std::string_view key) {
  const auto extent = [&](int64_t number) {
    if (number < 1 || number > (1 << 20))
      throw wrong_type(key, value, "a block from 1 to 1048576 on each side");
    return static_cast<int32_t>(number);
  };
  if (value.is_array() && value.size() == 2 && value[0].is_number_integer() && value[1].is_number_integer()) {
    return {extent(value[0].get<int64_t>()), extent(value[1].get<int64_t>())};
  }
  if (value.is_string()) {
    const std::string text = value.get<std::string>();
    int64_t rows = 0, cols = 0;
    const char* end = text.data() + text.size();
    const auto first = std::from_chars(text.data(), end, rows);
    if (first.ec == std::errc{} && first.ptr != end && *first.ptr == 'x') {
      const auto second = std::from_chars(first.ptr + 1, end, cols);
      if (second.ec == std::errc{} && second.ptr == end) return {extent(rows), extent(cols)};
    }
  }
  throw wrong_type(key, value, "two integers, [rows, cols]");
}

bool regex_matches_start(std::string_view pattern, std::string_view text) {
  const auto refuse = [&](std::string_view why) {
    return fail(ErrorCode::kInvalidFile,
                "quantization_config: \"re:{}\" is no regular expression this library reads: {}",
                pattern.substr(0, 80), why);
  };
  if (pattern.size() > kLongestPattern)
    throw refuse(fmt::format("it is longer than {} characters", kLongestPattern));
  if (pattern.find('{') != std::string_view::npos) throw refuse("counted repetitions are not");
  if (text.size() > kLongestSubject) return false;
  try {
    const std::regex expression(pattern.begin(), pattern.end(), kRegexFlags);
    return std::regex_search(text.begin(), text.end(), expression, std::regex_constants::match_continuous);
  } catch (const std::regex_error& error) {
    throw refuse(error.what());
  }
}

std::vector<std::string> with_suffixes(std::string_view module,
                                       std::initializer_list<std::string_view> suffixes) {
  std::vector<std::string> names;
  for (std::string_view suffix : suffixes) names.push_back(std::string(module).append(suffix));
  return names;
}

}  // namespace anyfp8
