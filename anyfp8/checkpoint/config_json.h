#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "anyfp8/checkpoint/checkpoint.h"

namespace anyfp8 {

// Internal (kept out of checkpoint.h so that users of the library need no JSON header).

// config.json of a model directory; an empty object for a single file or where there is none.
const nlohmann::json& config_json(const Checkpoint& checkpoint);

// Another JSON file beside it (generation_config.json, hf_quant_config.json), parsed once and kept as long as
// the checkpoint; null where there is none. Safe to call from several threads.
const nlohmann::json& sibling_json(const Checkpoint& checkpoint, const char* file_name);

// Parses a JSON file of at most max_bytes, nested at most 64 deep, without duplicate keys.
// Error(kInvalidFile) with the path and the byte offset.
nlohmann::json read_json_file(const std::filesystem::path& path, size_t max_bytes);

}  // namespace anyfp8
