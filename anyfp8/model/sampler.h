#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "anyfp8/kernels/common/vector_ops.h"

namespace anyfp8 {

// Applied in the order temperature, top_k, top_p, each to what the one before left, as transformers does.
struct SamplerOptions {
  double temperature = 0;  // 0: greedy, the largest logit (the lowest id of equal ones)
  int64_t top_k = 0;       // keep the k most likely tokens; 0: all
  double top_p = 1;        // keep the fewest tokens whose probabilities reach p
  uint64_t seed = 0;
};

// Chooses tokens from logits. The same seed and logits give the same tokens on every platform.
class Sampler {
 public:
  // allowed[id] false, or id beyond its end: never chosen (ids without a token, as vocabularies are padded
  // with). Empty: every id may be chosen. Error(kInvalidArgument) names the option out of range.
  explicit Sampler(const SamplerOptions& options, std::vector<bool> allowed = {});

  // Logits that are not finite are never chosen; Error(kInvalidArgument) when none is left.
  int sample(std::span<const float> logits);

 private:
  int greedy(std::span<const float> logits) const;
  void find_candidates(std::span<const float> logits);
  bool may_choose(std::span<const float> logits, size_t id) const;

  SamplerOptions options_;
  std::vector<bool> allowed_;
  std::mt19937_64 random_;
  const VectorOps& ops_;
  std::vector<std::pair<double, int>> candidates_;  // (logit, then e^((logit - largest) / temperature), id)
};

}  // namespace anyfp8
