#include "anyfp8/model/model_weights.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "anyfp8/base/element.h"
#include "anyfp8/base/log.h"
#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/untrusted_text.h"

namespace anyfp8 {
namespace {

struct Loader {
  const Checkpoint& checkpoint;
  const ModelConfig& config;
  const ModelOptions& options;
  Comm& comm;
  const Model::Progress& progress;
  const Format* format;
  std::set<std::string_view> used;  // tensors, as the checkpoint holds their names
  ModelWeights weights;

  // Found under its name and in the shape that config.json asks for.
  void expect(const std::string& name, const Shape& shape) {
    const auto info = checkpoint.info(name);
    if (!info) {
      throw fail(ErrorCode::kNotFound, "tensor {} is missing; config.json asks for it with shape {}{}", name,
                 shape_text(shape), config.assumed);
    }
    if (info->shape != shape) {
      throw fail(ErrorCode::kInvalidFile, "tensor {} has shape {}; config.json asks for {}{}", name,
                 shape_text(info->shape), shape_text(shape), config.assumed);
    }
    used.insert(info->name);
  }

  HostTensor tensor(const std::string& name, const Shape& shape) {
    expect(name, shape);
    HostTensor found = checkpoint.tensor(name);
    if (is_float16_or_32(found.dtype())) return found;
    throw fail(ErrorCode::kUnsupported, "tensor {} is {}; the runner takes f32, bf16 or f16 there", name,
               dtype_name(found.dtype()));
  }

  std::vector<float> norm(const std::string& module, int64_t size) {
    std::vector<float> values(static_cast<size_t>(size));
    widen(tensor(module + ".weight", {size}), 0, values);
    return values;
  }

  // own: the outputs (kColumn) or inputs (kRow) of this rank.
  void add_linear(const std::string& module, int64_t n, int64_t k, bool bias, Split split, IndexRange own,
                  bool head = false) {
    comm.check();
    expect(module + ".weight", {n, k});
    if (bias) {
      expect(module + ".bias", {n});
    } else if (checkpoint.has(module + ".bias")) {
      throw fail(ErrorCode::kInvalidFile, "tensor {}.bias exists; by config.json {} has no bias there",
                 module, config.architecture);
    }
    try {
      Fp8Weight weight = slice(load_weight(checkpoint, format, module, options.load), split, own);
      if (!head && options.quantize_at_load && !weight.quantized()) {
        HostTensor kept_bias = weight.bias;
        weight = quantize(weight.data, *options.quantize_at_load);
        weight.bias = std::move(kept_bias);
      }
      ParallelOptions parallel{.linear = {options.activations, DType::kF32, options.policy}};
      parallel.gather_output = head;
      ModelLinear& added = weights.linears.emplace_back();
      added.stored_as = module;
      added.emulated = emulation(weight);
      if (added.emulated) parallel.linear.in = DType::kF32;
      if (split == Split::kColumn) {
        added.layer = std::make_unique<ColumnParallelLinear>(
            ColumnParallelLinear::create(comm, std::move(weight), parallel, options.select));
      } else {
        added.layer = std::make_unique<RowParallelLinear>(
            RowParallelLinear::create(comm, std::move(weight), parallel, options.select));
      }
    } catch (Error& error) {
      // load_weight names the tensor; quantize and Linear::create do not know it.
      if (std::string_view(error.what()).find(module) == std::string_view::npos) error.in(module);
      throw;
    }
    const auto total = static_cast<size_t>(config.layers) * kLinearsPerLayer + 1;
    if (progress) progress(static_cast<int64_t>(weights.linears.size()), static_cast<int64_t>(total));
  }

  std::optional<ActivationQuant> emulation(const Fp8Weight& weight) const {
    const Policy policy = options.policy.value_or(default_policy(weight.scheme));
    if (!options.emulate_w8a8 || policy != Policy::kSpeed) return std::nullopt;
    std::optional<ActivationQuant> quant = activation_quant(weight);
    if (!quant) return std::nullopt;
    if (const Verdict verdict = can_quantize(*quant); !verdict)
      throw fail(ErrorCode::kUnsupported, "W8A8 cannot be emulated: {}", verdict.reason());
    return quant;
  }

  void add_layer(const std::string& path) {
    const ModelConfig& c = config;
    const std::string attention = path + "self_attn.", mlp = path + "mlp.";
    const HeadShard heads = shard_heads(c.heads, c.kv_heads, comm.rank(), comm.size());
    const IndexRange q{heads.q.begin * c.head_dim, heads.q.end * c.head_dim};
    const IndexRange kv{heads.kv.begin * c.head_dim, heads.kv.end * c.head_dim};
    const IndexRange ffn = shard_range(c.ffn, comm.rank(), comm.size());
    add_linear(attention + "q_proj", c.q_size(), c.hidden, c.qkv_bias, Split::kColumn, q);
    add_linear(attention + "k_proj", c.kv_size(), c.hidden, c.qkv_bias, Split::kColumn, kv);
    add_linear(attention + "v_proj", c.kv_size(), c.hidden, c.qkv_bias, Split::kColumn, kv);
    add_linear(attention + "o_proj", c.hidden, c.q_size(), c.o_bias, Split::kRow, q);
    add_linear(mlp + "gate_proj", c.ffn, c.hidden, c.mlp_bias, Split::kColumn, ffn);
    add_linear(mlp + "up_proj", c.ffn, c.hidden, c.mlp_bias, Split::kColumn, ffn);
    add_linear(mlp + "down_proj", c.hidden, c.ffn, c.mlp_bias, Split::kRow, ffn);
    LayerNorms& norms = weights.norms.emplace_back();
    norms.attention = norm(path + "input_layernorm", c.hidden);
    norms.ffn = norm(path + "post_attention_layernorm", c.hidden);
    if (c.qk_norm) norms.q = norm(attention + "q_norm", c.head_dim);
    if (c.qk_norm) norms.k = norm(attention + "k_norm", c.head_dim);
  }

  void add_lm_head() {
    // A tied model may have an lm_head.weight all the same, left over from training; it is not used.
    const std::string module = config.tied ? "model.embed_tokens" : "lm_head";
    if (!checkpoint.has(module + ".weight")) {
      throw fail(ErrorCode::kNotFound,
                 "tensor {}.weight is missing; if the model shares it with the embedding, set "
                 "tie_word_embeddings to true in config.json",
                 module);
    }
    add_linear(module, config.vocab, config.hidden, false, Split::kColumn, weights.ids, true);
  }

  // Scales and notes of a used linear layer or of the attention around it (KV cache scales), and tables that
  // the runner computes for itself.
  bool may_be_left(std::string_view name) const {
    if (name.ends_with(".rotary_emb.inv_freq")) return true;
    const std::string_view module = name.substr(0, name.rfind('.') + 1), leaf = name.substr(module.size());
    if (leaf.find("scale") == std::string_view::npos && leaf != "comfy_quant") return false;
    const auto inside = used.lower_bound(module);
    return inside != used.end() && inside->starts_with(module);
  }

  // A tensor of the model that nothing uses means that config.json is of another model: its text would be
  // fluent and wrong.
  void refuse_unused() const {
    std::string_view first, first_outside;
    size_t unused = 0, outside = 0;
    for (const TensorInfo& tensor : checkpoint.tensors()) {
      const bool head = tensor.name.starts_with("lm_head.");
      if (used.contains(tensor.name) || (head && config.tied)) continue;
      if (!head && !tensor.name.starts_with("model.")) {
        if (outside++ == 0) first_outside = tensor.name;
      } else if (!may_be_left(tensor.name)) {
        if (unused++ == 0) first = tensor.name;
      }
    }
    if (unused != 0) {
      throw fail(ErrorCode::kInvalidFile,
                 "tensor {} and {} more have no place in {} of {} layers; config.json is of another model",
                 shown(first), unused - 1, config.architecture, config.layers);
    }
    if (outside == 0) return;
    log_once(LogLevel::kWarning, fmt::format("{}: tensor {} and {} more are not of the model and are ignored",
                                             checkpoint.path().string(), shown(first_outside), outside - 1));
  }
};

}  // namespace

void widen(const HostTensor& tensor, int64_t first, std::span<float> out) noexcept {
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = load_element(tensor.data(), tensor.dtype(), first + static_cast<int64_t>(i));
  }
}

ModelWeights load_model_weights(const Checkpoint& checkpoint, const ModelConfig& config,
                                const ModelOptions& options, Comm& comm, const Model::Progress& progress) {
  if (options.device.kind != DeviceKind::kCpu) {
    throw fail(ErrorCode::kUnsupported, "the runner computes on a CPU; {} is not one", options.device.name);
  }
  if (!is_float16_or_32(options.activations)) {
    throw fail(ErrorCode::kInvalidArgument, "activations are f32, bf16 or f16, not {}",
               dtype_name(options.activations));
  }
  Loader loader{checkpoint, config, options, comm, progress, find_format(checkpoint), {}, {}};
  const IndexRange ids = loader.weights.ids = shard_range(config.vocab, comm.rank(), comm.size());
  loader.weights.embedding =
      loader.tensor("model.embed_tokens.weight", {config.vocab, config.hidden}).slice(ids.begin, ids.end);
  for (int64_t i = 0; i < config.layers; ++i) loader.add_layer(fmt::format("model.layers.{}.", i));
  loader.weights.final_norm = loader.norm("model.norm", config.hidden);
  loader.add_lm_head();
  loader.refuse_unused();
  const auto& linears = loader.weights.linears;
  if (options.emulate_w8a8 &&
      std::none_of(linears.begin(), linears.end(), [](const auto& l) { return l.emulated.has_value(); })) {
    throw fail(
        ErrorCode::kUnsupported,
        "W8A8 was to be emulated, and no layer has it: the checkpoint asks for no quantised activations, or "
        "the policy is not speed");
  }
  return std::move(loader.weights);
}

}  // namespace anyfp8
