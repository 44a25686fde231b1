#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/linear/linear.h"
#include "anyfp8/model/kv_cache.h"
#include "anyfp8/model/model_config.h"
#include "anyfp8/parallel/comm.h"
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/quantize.h"

namespace anyfp8 {

struct ModelOptions {
  Device device = cpu_device();       // CPUs only
  DType activations = DType::kF32;    // of x at the linear layers: f32, bf16 or f16; all else is f32
  std::optional<Policy> policy = {};  // absent: default_policy() of each layer
  SelectOptions select = SelectOptions::from_environment();
  LoadOptions load;
  // Where the checkpoint asks for quantised activations and the policy allows them: x rounded as a W8A8
  // kernel quantises it, before a product in f32. Slow; to see what W8A8 does to a model where no kernel has
  // it.
  bool emulate_w8a8 = false;
  std::optional<QuantizeScheme> quantize_at_load;  // for the 16- and 32-bit linear layers, lm_head excepted
  // Who shares the model: attention by heads, the MLP by its inner size, embedding and lm_head by the
  // vocabulary. Outlives the model. Null: this process has it alone. The ranks make every call together, with
  // the same tokens.
  Comm* comm = nullptr;
};

// A dense decoder (Llama 3, Qwen2.5, Qwen3) on a CPU. Weights are used where the checkpoint's mapping has
// them; the model keeps the mapping alive. forward() uses buffers of the model: one call at a time.
class Model {
 public:
  // Called after each of `total` linear layers was made ready.
  using Progress = std::function<void(int64_t done, int64_t total)>;

  // Error(kUnsupported) for an architecture or device the runner does not have, before any weight is read;
  // Error(kInvalidFile / kNotFound) names the tensor, what was found and what was needed.
  static Model load(const Checkpoint& checkpoint, const ModelOptions& options, const Progress& progress = {});

  const ModelConfig& config() const noexcept;  // heads, kv_heads and ffn are this rank's

  // Appends tokens to the cache, and writes the logits that follow the last one, [vocab], or every one,
  // [tokens, vocab]. Allocates nothing once as many tokens have gone through in one call, up to 512.
  // Error(kInvalidArgument) for ids outside the vocabulary, a full cache, or a span of another size.
  void forward(std::span<const int> tokens, KvCache& cache, std::span<float> logits, bool all_logits = false);

  struct LayerInfo {
    std::string module;  // "model.layers.0.mlp.up_proj"
    std::string
        stored_as;  // whose weight it is in the checkpoint: module, or for a tied lm_head the embedding
    const Linear* linear;  // lives as long as the model; of this rank's part
  };
  std::vector<LayerInfo> linears() const;  // in the order they run; lm_head last

  int64_t linear_parameters() const noexcept;  // n * k of linears(), lm_head included
  size_t linear_bytes() const noexcept;        // their weights, scales and biases
  size_t other_bytes() const noexcept;  // norms, and the embedding where lm_head is not the same memory

  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

 private:
  struct State;
  explicit Model(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace anyfp8
