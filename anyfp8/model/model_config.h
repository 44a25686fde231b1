#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/model/rope.h"

namespace anyfp8 {

// What the runner needs to know of a dense decoder. Every size is checked to be positive and sane, and the
// sizes to fit together, so that products of two of them cannot overflow.
struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM", "Qwen2ForCausalLM" or "Qwen3ForCausalLM"
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t ffn = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;  // even; not always hidden / heads
  int64_t vocab = 0;
  int64_t max_positions = 0;  // the context, as extended by rope scaling
  float norm_eps = 0;
  RopeConfig rope;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;  // RMSNorm over head_dim of q and k, before rope
  bool tied = false;     // lm_head is embed_tokens
  std::string assumed;   // for errors: "; head_dim is absent there and taken as 128", or empty
  std::vector<int> eos;  // config.json and generation_config.json together, ascending, without repeats

  int64_t q_size() const { return heads * head_dim; }
  int64_t kv_size() const { return kv_heads * head_dim; }
};

// From config.json (of either generation: rope_theta and rope_scaling, or rope_parameters) and
// generation_config.json. Reads no weight. Error(kUnsupported) names an architecture or feature that the
// runner does not have; Error(kInvalidFile) names the key, its value and what is needed.
ModelConfig read_model_config(const Checkpoint& checkpoint);

}  // namespace anyfp8
