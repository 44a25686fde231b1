#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace anyfp8 {

enum class RopeType : uint8_t { kDefault, kLinear, kLlama3, kYarn };

// Rotary position embedding as config.json describes it. Fields a type does not use keep their values here.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;            // linear, llama3, yarn: how much longer the context became
  double original_positions = 0;  // llama3, yarn: the context before
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  bool truncate = true;           // yarn: the ramp begins and ends at whole dimensions
  double attention_factor = 1.0;  // yarn: multiplies cos and sin
  bool operator==(const RopeConfig&) const = default;
};

// Angle per position of each pair of dimensions, [head_dim / 2].
std::vector<float> rope_frequencies(const RopeConfig& rope, int64_t head_dim);

// cos and sin of positions [begin, begin + count), times the attention factor.
struct RopeTable {
  std::vector<float> cos, sin;  // [count, head_dim / 2]
};
void fill_rope_table(const RopeConfig& rope, std::span<const float> frequencies, int64_t begin, int64_t count,
                     RopeTable& table);

}  // namespace anyfp8
