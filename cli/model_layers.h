#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "anyfp8/base/error.h"
#include "anyfp8/kernels/kernel.h"
#include "anyfp8/scheme/format.h"

namespace anyfp8::cli {

// A linear layer of a checkpoint, as plan and verify go through them.
struct ModelLayer {
  std::string module;  // "model.layers.0.mlp.up_proj", "lm_head"
  std::string weight;  // the module whose tensors it uses: another one for a tied lm_head
  int64_t n = 0, k = 0;
  QuantScheme scheme;
  size_t bytes = 0;
  bool bias = false;
};

// "<tensor>: <text>", the tensor once.
std::string anomaly_text(const Anomaly& anomaly);

// Embeddings are looked up, not multiplied, and stay 16 bit.
bool is_embedding(std::string_view module);

// Every linear layer: without embeddings, with a tied lm_head; "layers.2" before "layers.10", lm_head last.
// Error(kInvalidFile) where one cannot be loaded, or there is none.
std::vector<ModelLayer> linear_layers(const Checkpoint& checkpoint, const Inspection& inspection);

// Less-than for module names: numbers by value.
bool module_before(std::string_view a, std::string_view b);

// Layers that are alike and whose names differ in numbers only, as indices into `modules`. alike(i): text
// that is equal for layers that may share a group. Groups come in the order of their first member.
std::vector<std::vector<size_t>> group_layers(std::span<const std::string_view> modules,
                                              const std::function<std::string(size_t)>& alike);

// "model.layers.{0..7}.mlp.up_proj"
std::string group_name(std::span<const std::string_view> modules, std::span<const size_t> members);

// A file may hold ten thousands of layers that are all different: a text shows this many groups, then how
// many are left.
inline constexpr size_t kMostGroupsShown = 200;
std::string more_groups_text(size_t groups);  // "... and 29800 more groups\n"; empty for up to 200 groups

// Runs f() and puts the path in front of an Error that does not name it.
template <typename Function>
auto naming(const std::filesystem::path& path, Function&& f) {
  try {
    return f();
  } catch (Error& error) {
    if (std::string_view(error.what()).find(path.string()) == std::string_view::npos) error.in(path.string());
    throw;
  }
}

}  // namespace anyfp8::cli
