#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "anyfp8/base/verdict.h"
#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/scheme/quant_scheme.h"

namespace anyfp8 {

// Internal to the dialects: config.json's quantization_config, read with errors that name the key.

// The object, or an empty object where config.json has none. Error(kInvalidFile) when it is no object.
const nlohmann::json& quantization_config(const Checkpoint& checkpoint);

// quantization_config.quant_method == method, as a Verdict with both in it.
Verdict has_quant_method(const Checkpoint& checkpoint, std::string_view method);

// config[key] as a string, or `fallback` where it is absent or null. Error(kInvalidFile) for another type.
std::string config_string(const nlohmann::json& config, std::string_view key, std::string_view fallback = "");

// config[key] as a list of strings, of the first key whose list is not empty; empty where there is none.
std::vector<std::string> config_strings(const nlohmann::json& config,
                                        std::initializer_list<std::string_view> keys);

// config[key] as a positive number; absent where it is absent or null.
std::optional<float> config_number(const nlohmann::json& config, std::string_view key);

// [rows, cols], or "128x128"; Error(kInvalidFile) unless both are from 1 to 2^20.
Group block_from_json(const nlohmann::json& value, std::string_view key);

// "re:" patterns of checkpoint configs, matched at the start, in bounded time. Error(kInvalidFile) for a
// pattern std::regex cannot read, with counted repetitions, or of over 1,000 characters; text over 512 bytes
// never matches.
bool regex_matches_start(std::string_view pattern, std::string_view text);

// {module + suffix, ...}
std::vector<std::string> with_suffixes(std::string_view module,
                                       std::initializer_list<std::string_view> suffixes);

}  // namespace anyfp8
