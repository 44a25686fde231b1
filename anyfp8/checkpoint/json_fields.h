#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "anyfp8/base/text.h"

namespace anyfp8 {

// Internal: typed access to JSON objects of untrusted files. A member that is null is as absent.

// One line, not long, broken UTF-8 and control characters escaped.
inline std::string value_text(const nlohmann::json& value) {
  constexpr size_t kShown = 60;
  if (value.is_structured() && value.size() > 8) return value.type_name();
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kShown) text.replace(kShown, std::string::npos, "...");
  return text;
}

inline Error wrong_value(std::string_view name, const nlohmann::json& value, std::string_view need,
                         ErrorCode code = ErrorCode::kInvalidFile) {
  return fail(code, "{} is {}; it must be {}", name, value_text(value), need);
}

inline const nlohmann::json* find_member(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) throw wrong_value("it", object, fmt::format("an object with {}", key));
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

inline const nlohmann::json& need_member(const nlohmann::json& object, const char* key) {
  if (const nlohmann::json* found = find_member(object, key)) return *found;
  throw fail(ErrorCode::kInvalidFile, "has no {}, which is needed", key);
}

inline bool bool_member(const nlohmann::json& object, const char* key, bool absent) {
  const nlohmann::json* found = find_member(object, key);
  if (found != nullptr && !found->is_boolean()) throw wrong_value(key, *found, "true or false");
  return found == nullptr ? absent : found->get<bool>();
}

// Runs `read`; an Error gets the place in front.
auto at_place(std::string_view place, const auto& read) {
  try {
    return read();
  } catch (Error& error) {
    throw std::move(error).in(place);
  }
}

}  // namespace anyfp8
