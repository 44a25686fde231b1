#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "anyfp8/kernels/common/round_activations.h"
#include "anyfp8/model/model.h"
#include "anyfp8/parallel/parallel_linear.h"

namespace anyfp8 {

// Internal to the runner: what Model::load reads from a checkpoint.
struct LayerNorms {
  std::vector<float> attention, ffn;  // [hidden]
  std::vector<float> q, k;            // [head_dim], or empty
};

enum LinearIndex : size_t { kQ, kK, kV, kO, kGate, kUp, kDown, kLinearsPerLayer };

// A linear layer, or this rank's part of it.
struct ModelLinear {
  std::unique_ptr<ParallelLinear> layer;
  std::string stored_as;                    // its module in the checkpoint
  std::optional<ActivationQuant> emulated;  // how x is rounded; none: it is not
};

struct ModelWeights {
  HostTensor
      embedding;  // rows of this rank's ids, [ids, hidden] f32, bf16 or f16, where the checkpoint has them
  IndexRange ids{0, 0};
  std::vector<ModelLinear> linears;  // kLinearsPerLayer of each layer, then lm_head
  std::vector<LayerNorms> norms;     // of each layer
  std::vector<float> final_norm;     // [hidden]

  const ModelLinear& linear(size_t layer, LinearIndex index) const {
    return linears[layer * kLinearsPerLayer + index];
  }
  const ModelLinear& lm_head() const { return linears.back(); }
};

// Elements [first, first + out.size()) of an f32, bf16 or f16 tensor, which need not be aligned.
void widen(const HostTensor& tensor, int64_t first, std::span<float> out) noexcept;

// Error names the tensor, its dtype and shape as found, and what config.json asks for. `comm`: who shares
// them.
ModelWeights load_model_weights(const Checkpoint& checkpoint, const ModelConfig& config,
                                const ModelOptions& options, Comm& comm, const Model::Progress& progress);

}  // namespace anyfp8
