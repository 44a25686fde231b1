#include "anyfp8/model/model_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <type_traits>

#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/checkpoint/json_fields.h"
#include "anyfp8/kernels/common/vector_ops.h"

namespace anyfp8 {
namespace {

using nlohmann::json;

// The bounds of sizes below lie far above any published model. They keep products of two sizes, and with the
// four bytes of an element, within 63 bits.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeadDim = AttentionTile::kMaxHeadDim;
constexpr int64_t kMaxPositions = int64_t{1} << 26;
// Memory for activations and keys grows with heads * head_dim, the file's with that times hidden: a bound on
// the ratio keeps a small file from asking for much. Published models: 2 (Qwen3-0.6B, 16 * 128 of 1024).
constexpr int64_t kMaxHeadsPerHidden = 16;

template <typename T>
T bounded(const json& object, const char* key, T low, T high, std::optional<T> absent) {
  constexpr bool kInteger = std::is_integral_v<T>;
  if (!absent) need_member(object, key);
  const json* value = find_member(object, key);
  if (value == nullptr) return *absent;
  // An integer that only fits 64 unsigned bits turns negative here, and is refused.
  const bool has_type = kInteger ? value->is_number_integer() : value->is_number();
  if (has_type && value->get<T>() >= low && value->get<T>() <= high) return value->get<T>();
  throw wrong_value(key, *value,
                    fmt::format("{} from {} to {}", kInteger ? "an integer" : "a number", low, high));
}

int64_t integer(const json& object, const char* key, int64_t low, int64_t high,
                std::optional<int64_t> absent = {}) {
  return bounded(object, key, low, high, absent);
}

double number(const json& object, const char* key, double low, double high,
              std::optional<double> absent = {}) {
  return bounded(object, key, low, high, absent);
}

std::string text_member(const json& object, const char* key, const std::string& absent) {
  const json* found = find_member(object, key);
  if (found != nullptr && !found->is_string()) throw wrong_value(key, *found, "a string");
  return found == nullptr ? absent : found->get<std::string>();
}

Error unsupported(std::string_view key, const json& value, std::string_view supported) {
  return fail(ErrorCode::kUnsupported, "{} is {}; the runner supports {}", key, value_text(value), supported);
}

std::string read_architecture(const json& config) {
  constexpr std::string_view kKnown = "LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM";
  const json* list = find_member(config, "architectures");
  if (list == nullptr || !list->is_array() || list->empty() || !list->front().is_string()) {
    throw fail(ErrorCode::kInvalidFile, "names no architecture; the runner needs one of {}", kKnown);
  }
  const auto name = list->front().get<std::string>();
  if (name != "LlamaForCausalLM" && name != "Qwen2ForCausalLM" && name != "Qwen3ForCausalLM") {
    throw fail(ErrorCode::kUnsupported, "architecture {} is not supported by the runner; {} are",
               value_text(list->front()), kKnown);
  }
  return name;
}

// What would make the same architecture compute something else than the runner does.
void refuse_other_models(const json& config, bool llama, int64_t layers) {
  const std::string activation = text_member(config, "hidden_act", "silu");
  if (activation != "silu" && activation != "swish") throw unsupported("hidden_act", activation, "silu");
  for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    const json* experts = find_member(config, key);
    if (experts != nullptr && *experts != 0) throw unsupported(key, *experts, "dense models alone");
  }
  if (const json* types = find_member(config, "layer_types")) {
    if (!types->is_array() || types->size() != static_cast<size_t>(layers)) {
      throw wrong_value("layer_types", *types, fmt::format("a list of num_hidden_layers {} entries", layers));
    }
    for (const json& type : *types) {
      if (type != "full_attention") throw unsupported("layer_types", type, "full_attention in every layer");
    }
    return;
  }
  // Without layer_types: Qwen uses the window from layer max_window_layers on, and only where
  // use_sliding_window says so; for Llama the key alone means a window.
  const json* window = find_member(config, "sliding_window");
  if (window == nullptr) return;
  const bool used = llama ? bool_member(config, "use_sliding_window", true)
                          : bool_member(config, "use_sliding_window", false) &&
                                integer(config, "max_window_layers", 0, kMaxLayers, 28) < layers;
  if (used) throw unsupported("sliding_window", *window, "full attention alone");
}

double yarn_attention_factor(const json& scaling, double factor) {
  if (find_member(scaling, "attention_factor") != nullptr)
    return number(scaling, "attention_factor", 1e-3, 1e3);
  const auto magnitude = [factor](double mscale) {
    return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
  };
  const double mscale = number(scaling, "mscale", 0, 1e3, 0),
               all_dim = number(scaling, "mscale_all_dim", 0, 1e3, 0);
  return mscale != 0 && all_dim != 0 ? magnitude(mscale) / magnitude(all_dim) : magnitude(1.0);
}

// The keys of one rope_scaling (transformers 4) or rope_parameters (5) object.
RopeConfig read_rope_object(const json& keys, double theta, int64_t max_positions) {
  const std::string type = text_member(keys, "rope_type", text_member(keys, "type", "default"));
  RopeConfig rope;
  rope.theta = number(keys, "rope_theta", 1.0 + 1e-6, 1e15, theta);
  if (type == "linear") {
    rope.type = RopeType::kLinear;
    rope.factor = number(keys, "factor", 1, 1e6);
  } else if (type == "llama3") {
    rope.type = RopeType::kLlama3;
    rope.factor = number(keys, "factor", 1, 1e6);
    rope.original_positions =
        static_cast<double>(integer(keys, "original_max_position_embeddings", 1, kMaxPositions));
    rope.low_freq_factor = number(keys, "low_freq_factor", 1e-3, 1e3);
    rope.high_freq_factor = number(keys, "high_freq_factor", 1e-3, 1e3);
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      throw wrong_value("high_freq_factor", rope.high_freq_factor,
                        fmt::format("above low_freq_factor {}", rope.low_freq_factor));
    }
  } else if (type == "yarn") {
    rope.type = RopeType::kYarn;
    const int64_t original =
        integer(keys, "original_max_position_embeddings", 1, kMaxPositions, max_positions);
    rope.original_positions = static_cast<double>(original);
    rope.factor =
        number(keys, "factor", 1, 1e6, static_cast<double>(max_positions) / rope.original_positions);
    rope.beta_fast = number(keys, "beta_fast", 1e-3, 1e6, rope.beta_fast);
    rope.beta_slow = number(keys, "beta_slow", 1e-3, 1e6, rope.beta_slow);
    rope.truncate = bool_member(keys, "truncate", true);
    rope.attention_factor = yarn_attention_factor(keys, rope.factor);
  } else if (type != "default") {
    throw unsupported("rope_type", type, "default, linear, llama3 and yarn");
  }
  return rope;
}

void refuse_partial_rotary(const json& keys) {
  const json* partial = find_member(keys, "partial_rotary_factor");
  if (partial != nullptr && *partial != 1) throw unsupported("partial_rotary_factor", *partial, "1 alone");
}

// Of rope_scaling or rope_parameters; nothing where it is absent.
std::optional<RopeConfig> read_rope_member(const json& config, const char* key, const ModelConfig& model) {
  const json* rope = find_member(config, key);
  if (rope == nullptr) return {};
  if (!rope->is_object()) throw wrong_value(key, *rope, "an object");
  return at_place(key, [&] {
    for (const char* kind : {"full_attention", "sliding_attention"}) {
      if (const json* own = find_member(*rope, kind))
        throw unsupported(kind, *own, "one rope for all layers");
    }
    refuse_partial_rotary(*rope);
    return read_rope_object(*rope, model.rope.theta, model.max_positions);
  });
}

void read_rope(const json& config, ModelConfig& model) {
  refuse_partial_rotary(config);
  model.rope.theta = number(config, "rope_theta", 1.0 + 1e-6, 1e15, 10000.0);
  const auto parameters = read_rope_member(config, "rope_parameters", model);
  if (parameters) model.rope = *parameters;
  const auto scaling = read_rope_member(config, "rope_scaling", model);
  if (parameters && scaling && *parameters != *scaling) {
    throw fail(ErrorCode::kInvalidFile,
               "rope_parameters {} and rope_scaling {} say different things; remove the one that is wrong",
               value_text(config["rope_parameters"]), value_text(config["rope_scaling"]));
  }
  if (scaling) model.rope = *scaling;
  // Qwen's way to write yarn: max_position_embeddings keeps the context before the extension.
  if (model.rope.type == RopeType::kYarn) {
    const double extended =
        std::min(model.rope.original_positions * model.rope.factor, double{kMaxPositions});
    model.max_positions = std::max(model.max_positions, static_cast<int64_t>(extended));
  }
}

void add_eos(const json& config, int64_t vocab, std::vector<int>& eos) {
  const json* value = find_member(config, "eos_token_id");
  if (value == nullptr) return;
  for (const json& id : value->is_array() ? *value : json::array({*value})) {
    const bool fits = id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() < vocab;
    if (!fits) throw wrong_value("eos_token_id", *value, fmt::format("ids from 0 to {}", vocab - 1));
    eos.push_back(id.get<int>());
  }
  std::sort(eos.begin(), eos.end());
  eos.erase(std::unique(eos.begin(), eos.end()), eos.end());
}

void read_sizes(const json& config, bool qwen3, ModelConfig& model) {
  model.layers = integer(config, "num_hidden_layers", 1, kMaxLayers);
  model.hidden = integer(config, "hidden_size", 1, int64_t{1} << 20);
  model.ffn = integer(config, "intermediate_size", 1, int64_t{1} << 22);
  model.heads = integer(config, "num_attention_heads", 1, 4096);
  model.kv_heads = integer(config, "num_key_value_heads", 1, 4096, model.heads);
  model.vocab = integer(config, "vocab_size", 1, int64_t{1} << 24);
  model.max_positions = integer(config, "max_position_embeddings", 1, kMaxPositions);
  if (model.heads % model.kv_heads != 0) {
    throw wrong_value("num_attention_heads", model.heads,
                      fmt::format("a multiple of num_key_value_heads {}", model.kv_heads));
  }
  if (find_member(config, "num_key_value_heads") == nullptr) {
    model.assumed += fmt::format("; num_key_value_heads is absent there and taken as {}", model.kv_heads);
  }
  // 128: Qwen3's, whatever its hidden size. The others divide as transformers does, dropping a remainder.
  model.head_dim = integer(config, "head_dim", 1, kMaxHeadDim, qwen3 ? 128 : model.hidden / model.heads);
  if (find_member(config, "head_dim") == nullptr) {
    model.assumed += fmt::format("; head_dim is absent there and taken as {}", model.head_dim);
  }
  if (model.head_dim < 2 || model.head_dim % 2 != 0 || model.head_dim > kMaxHeadDim) {
    const std::string need = fmt::format("an even number from 2 to {}{}", kMaxHeadDim, model.assumed);
    throw wrong_value("head_dim", model.head_dim, need);
  }
  if (model.q_size() > kMaxHeadsPerHidden * model.hidden) {
    throw wrong_value("num_attention_heads * head_dim", model.q_size(),
                      fmt::format("at most {} * hidden_size{}", kMaxHeadsPerHidden, model.assumed));
  }
}

}  // namespace

ModelConfig read_model_config(const Checkpoint& checkpoint) {
  const json& config = config_json(checkpoint);
  if (config.empty()) {
    throw fail(ErrorCode::kNotFound,
               "{} has no config.json; to run a model its directory with config.json is needed",
               checkpoint.path().string());
  }
  ModelConfig model;
  at_place((checkpoint.path() / "config.json").string(), [&] {
    model.architecture = read_architecture(config);
    const bool llama = model.architecture == "LlamaForCausalLM";
    const bool qwen2 = model.architecture == "Qwen2ForCausalLM", qwen3 = !llama && !qwen2;
    read_sizes(config, qwen3, model);
    refuse_other_models(config, llama, model.layers);
    read_rope(config, model);
    model.norm_eps = static_cast<float>(number(config, "rms_norm_eps", 0, 0.1, 1e-6));
    const bool attention_bias = bool_member(config, "attention_bias", false);
    model.qkv_bias = qwen2 || attention_bias;
    model.o_bias = !qwen2 && attention_bias;
    model.mlp_bias = llama && bool_member(config, "mlp_bias", false);
    model.qk_norm = qwen3;
    model.tied = bool_member(config, "tie_word_embeddings", false);
    add_eos(config, model.vocab, model.eos);
  });
  const json& generation = sibling_json(checkpoint, "generation_config.json");
  if (!generation.is_null()) {
    at_place((checkpoint.path() / "generation_config.json").string(),
             [&] { add_eos(generation, model.vocab, model.eos); });
  }
  return model;
}

}  // namespace anyfp8
