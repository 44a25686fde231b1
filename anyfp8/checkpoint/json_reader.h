#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>

namespace anyfp8 {

// Called for each member of an object of strings that is too large to keep.
using MemberSink = std::function<void(std::string_view key, std::string_view value)>;

// JSON from an untrusted file: valid UTF-8, at most max_values values (an object counts as five), nested at
// most 64 deep, no key twice in an object. Members of the root's object `streamed_key` go to `sink` and are
// not kept nor counted; duplicates among them are for the caller to find. Error(kInvalidFile) with the byte
// offset.
nlohmann::json read_json(std::string_view text, size_t max_values, std::string_view streamed_key = {},
                         const MemberSink& sink = {});

}  // namespace anyfp8
