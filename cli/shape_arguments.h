#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench_method.h"

namespace anyfp8::cli {

// --shape N x K, repeatable, and --shapes FILE; both append. `preset`: what the verb takes without them.
void add_shapes(CLI::App& verb, std::vector<MatrixShape>& shapes, const std::string& preset);

const std::vector<MatrixShape>& default_shapes();  // Llama-3-8B: o_proj, gate_proj, down_proj

// A value that is given twice is measured once, in the place of the first.
template <typename Value>
void drop_repeats(std::vector<Value>& values) {
  std::vector<Value> kept;
  for (Value& value : values) {
    if (std::find(kept.begin(), kept.end(), value) == kept.end()) kept.push_back(std::move(value));
  }
  values = std::move(kept);
}

}  // namespace anyfp8::cli
