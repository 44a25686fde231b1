#include "anyfp8/model/model_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/config_json.h"

namespace anyfp8 {
namespace {

using nlohmann::json;

// The bounds of sizes below lie far above any published model. They keep products of two sizes, and with the
// four bytes of an element, within 63 bits.
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxPositions = int64_t{1} << 26;

// A value as an error shows it: one line, not long.
std::string value_text(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  constexpr size_t kShown = 60;
  if (text.size() > kShown) text.replace(kShown, std::string::npos, "...");
  return text;
}

// Typed and range-checked access to a JSON object. A key that is null is as absent.
class Keys {
 public:
  Keys(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (object.is_object()) return;
    throw fail(ErrorCode::kInvalidFile, "{} is {}; it must be an object", where_, value_text(object));
  }

  const std::string& where() const { return where_; }

  const json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  int64_t integer(const char* key, int64_t low, int64_t high, std::optional<int64_t> absent = {}) const {
    // A number that only fits 64 unsigned bits turns negative here, and is refused.
    return bounded(key, low, high, absent, &json::is_number_integer, "an integer");
  }
  double number(const char* key, double low, double high, std::optional<double> absent = {}) const {
    return bounded(key, low, high, absent, &json::is_number, "a number");
  }
  bool boolean(const char* key, bool absent) const {
    return typed<bool>(key, absent, &json::is_boolean, "true or false");
  }
  std::string text(const char* key, std::string absent) const {
    return typed<std::string>(key, std::move(absent), &json::is_string, "a string");
  }

  [[noreturn]] void refuse(const char* key, const json& value, std::string_view need) const {
    throw fail(ErrorCode::kInvalidFile, "{}: {} is {}; it must be {}", where_, key, value_text(value), need);
  }

  [[noreturn]] void unsupported(const char* key, const json& value, std::string_view need) const {
    throw fail(ErrorCode::kUnsupported, "{}: {} is {}; the runner supports {}", where_, key,
               value_text(value), need);
  }

 private:
  using HasType = bool (json::*)() const noexcept;

  template <typename T>
  T typed(const char* key, T absent, HasType has_type, const char* need) const {
    const json* value = find(key);
    if (value == nullptr) return absent;
    if (!(value->*has_type)()) refuse(key, *value, need);
    return value->get<T>();
  }

  template <typename T>
  T bounded(const char* key, T low, T high, std::optional<T> absent, HasType has_type,
            const char* type) const {
    if (find(key) == nullptr && !absent) {
      throw fail(ErrorCode::kInvalidFile, "{} has no {}, which the model needs", where_, key);
    }
    const std::string need = fmt::format("{} from {} to {}", type, low, high);
    const T value = typed(key, absent.value_or(low), has_type, need.c_str());
    if (find(key) != nullptr && !(value >= low && value <= high)) refuse(key, *find(key), need);
    return value;
  }

  const json& object_;
  std::string where_;
};

std::string read_architecture(const Keys& config) {
  constexpr std::string_view kKnown = "LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM";
  const json* list = config.find("architectures");
  if (list == nullptr || !list->is_array() || list->empty() || !list->front().is_string()) {
    throw fail(ErrorCode::kInvalidFile, "{} names no architecture; the runner needs one of {}",
               config.where(), kKnown);
  }
  const auto name = list->front().get<std::string>();
  if (name != "LlamaForCausalLM" && name != "Qwen2ForCausalLM" && name != "Qwen3ForCausalLM") {
    throw fail(ErrorCode::kUnsupported, "architecture {} is not supported by the runner; {} are",
               value_text(list->front()), kKnown);
  }
  return name;
}

// What would make the same architecture compute something else than the runner does.
void refuse_other_models(const Keys& config, bool llama, int64_t layers) {
  const std::string activation = config.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") config.unsupported("hidden_act", activation, "silu");
  for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    const json* experts = config.find(key);
    if (experts != nullptr && *experts != 0) config.unsupported(key, *experts, "dense models alone");
  }
  if (const json* types = config.find("layer_types")) {
    if (!types->is_array()) config.refuse("layer_types", *types, "a list");
    for (const json& type : *types) {
      if (type != "full_attention") config.unsupported("layer_types", type, "full_attention in every layer");
    }
    return;
  }
  // Without layer_types: Qwen uses the window from layer max_window_layers on, and only where
  // use_sliding_window says so; for Llama the key alone means a window.
  const json* window = config.find("sliding_window");
  if (window == nullptr) return;
  const bool used = llama ? config.boolean("use_sliding_window", true)
                          : config.boolean("use_sliding_window", false) &&
                                config.integer("max_window_layers", 0, kMaxLayers, 28) < layers;
  if (used) config.unsupported("sliding_window", *window, "full attention alone");
}

double yarn_attention_factor(const Keys& scaling, double factor) {
  if (scaling.find("attention_factor") != nullptr) return scaling.number("attention_factor", 1e-3, 1e3);
  const auto magnitude = [factor](double mscale) {
    return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
  };
  const double mscale = scaling.number("mscale", 0, 1e3, 0),
               all_dim = scaling.number("mscale_all_dim", 0, 1e3, 0);
  return mscale != 0 && all_dim != 0 ? magnitude(mscale) / magnitude(all_dim) : magnitude(1.0);
}

// The keys of one rope_scaling (transformers 4) or rope_parameters (5) object.
RopeConfig read_rope_object(const Keys& keys, double theta, int64_t max_positions) {
  const std::string type = keys.text("rope_type", keys.text("type", "default"));
  RopeConfig rope;
  rope.theta = keys.number("rope_theta", 1.0 + 1e-6, 1e15, theta);
  if (type == "linear") {
    rope.type = RopeType::kLinear;
    rope.factor = keys.number("factor", 1, 1e6);
  } else if (type == "llama3") {
    rope.type = RopeType::kLlama3;
    rope.factor = keys.number("factor", 1, 1e6);
    rope.original_positions =
        static_cast<double>(keys.integer("original_max_position_embeddings", 1, kMaxPositions));
    rope.low_freq_factor = keys.number("low_freq_factor", 1e-3, 1e3);
    rope.high_freq_factor = keys.number("high_freq_factor", 1e-3, 1e3);
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      keys.refuse("high_freq_factor", rope.high_freq_factor,
                  fmt::format("above low_freq_factor {}", rope.low_freq_factor));
    }
  } else if (type == "yarn") {
    rope.type = RopeType::kYarn;
    const int64_t original =
        keys.integer("original_max_position_embeddings", 1, kMaxPositions, max_positions);
    rope.original_positions = static_cast<double>(original);
    rope.factor = keys.number("factor", 1, 1e6, static_cast<double>(max_positions) / rope.original_positions);
    rope.beta_fast = keys.number("beta_fast", 1e-3, 1e6, rope.beta_fast);
    rope.beta_slow = keys.number("beta_slow", 1e-3, 1e6, rope.beta_slow);
    rope.truncate = keys.boolean("truncate", true);
    rope.attention_factor = yarn_attention_factor(keys, rope.factor);
  } else if (type != "default") {
    keys.unsupported("rope_type", type, "default, linear, llama3 and yarn");
  }
  return rope;
}

void refuse_partial_rotary(const Keys& keys) {
  const json* partial = keys.find("partial_rotary_factor");
  if (partial != nullptr && *partial != 1) keys.unsupported("partial_rotary_factor", *partial, "1 alone");
}

void read_rope(const Keys& config, ModelConfig& model) {
  refuse_partial_rotary(config);
  const double theta = config.number("rope_theta", 1.0 + 1e-6, 1e15, 10000.0);
  const char* key = config.find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  const json* object = config.find(key);
  if (object == nullptr) {
    model.rope.theta = theta;
    return;
  }
  const Keys keys(*object, fmt::format("{}: {}", config.where(), key));
  for (const char* kind : {"full_attention", "sliding_attention"}) {
    if (const json* own = keys.find(kind)) keys.unsupported(kind, *own, "one rope for all layers");
  }
  refuse_partial_rotary(keys);
  model.rope = read_rope_object(keys, theta, model.max_positions);
  // Qwen's way to write yarn: max_position_embeddings keeps the context before the extension.
  if (model.rope.type == RopeType::kYarn) {
    const double extended =
        std::min(model.rope.original_positions * model.rope.factor, double{kMaxPositions});
    model.max_positions = std::max(model.max_positions, static_cast<int64_t>(extended));
  }
}

void add_eos(const Keys& config, int64_t vocab, std::vector<int>& eos) {
  const json* value = config.find("eos_token_id");
  if (value == nullptr) return;
  const auto add = [&](const json& id) {
    const bool fits = id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() < vocab;
    if (!fits) config.refuse("eos_token_id", *value, fmt::format("ids from 0 to {}", vocab - 1));
    eos.push_back(id.get<int>());
  };
  if (value->is_array()) {
    for (const json& id : *value) add(id);
  } else {
    add(*value);
  }
  std::sort(eos.begin(), eos.end());
  eos.erase(std::unique(eos.begin(), eos.end()), eos.end());
}

void read_sizes(const Keys& config, bool qwen3, ModelConfig& model) {
  model.layers = config.integer("num_hidden_layers", 1, kMaxLayers);
  model.hidden = config.integer("hidden_size", 1, int64_t{1} << 20);
  model.ffn = config.integer("intermediate_size", 1, int64_t{1} << 22);
  model.heads = config.integer("num_attention_heads", 1, 4096);
  model.kv_heads = config.integer("num_key_value_heads", 1, 4096, model.heads);
  model.vocab = config.integer("vocab_size", 1, int64_t{1} << 24);
  model.max_positions = config.integer("max_position_embeddings", 1, kMaxPositions);
  if (model.heads % model.kv_heads != 0) {
    config.refuse("num_attention_heads", model.heads,
                  fmt::format("a multiple of num_key_value_heads {}", model.kv_heads));
  }
  if (config.find("head_dim") != nullptr || qwen3) {
    model.head_dim =
        config.integer("head_dim", 2, kMaxHeadDim, 128);  // 128: Qwen3's, whatever its hidden size
  } else if (model.hidden % model.heads != 0) {
    config.refuse("hidden_size", model.hidden,
                  fmt::format("a multiple of num_attention_heads {} where head_dim is absent", model.heads));
  } else {
    model.head_dim = model.hidden / model.heads;
  }
  if (model.head_dim % 2 != 0 || model.head_dim > kMaxHeadDim) {
    config.refuse("head_dim", model.head_dim, fmt::format("an even number up to {}", kMaxHeadDim));
  }
}

}  // namespace

ModelConfig read_model_config(const Checkpoint& checkpoint) {
  const json& root = config_json(checkpoint);
  if (root.empty()) {
    throw fail(ErrorCode::kNotFound,
               "{} has no config.json; to run a model its directory with config.json is needed",
               checkpoint.path().string());
  }
  const Keys config(root, "config.json");
  ModelConfig model;
  model.architecture = read_architecture(config);
  const bool llama = model.architecture == "LlamaForCausalLM",
             qwen2 = model.architecture == "Qwen2ForCausalLM";
  const bool qwen3 = !llama && !qwen2;
  read_sizes(config, qwen3, model);
  refuse_other_models(config, llama, model.layers);
  read_rope(config, model);
  model.norm_eps = static_cast<float>(config.number("rms_norm_eps", 0, 0.1, 1e-6));
  const bool attention_bias = config.boolean("attention_bias", false);
  model.qkv_bias = qwen2 || attention_bias;
  model.o_bias = !qwen2 && attention_bias;
  model.mlp_bias = llama && config.boolean("mlp_bias", false);
  model.qk_norm = qwen3;
  model.tied = config.boolean("tie_word_embeddings", false);
  add_eos(config, model.vocab, model.eos);
  const json generation = read_sibling_json(checkpoint, "generation_config.json");
  if (!generation.is_null()) add_eos(Keys(generation, "generation_config.json"), model.vocab, model.eos);
  return model;
}

}  // namespace anyfp8
