// quant_method "compressed-tensors" (llm-compressor; RedHatAI models). config_groups say which modules are
// quantised how:
//   strategy tensor    weight_scale [1]           strategy block   weight_scale [ceil(n/bn), ceil(k/bk)]
//   strategy channel   weight_scale [n, 1]        strategy group   weight_scale [n, k/group_size] (mxfp8: U8
//   e8m0)
// Scales have the dtype of the original weight, so bf16 is common. `input_activations: null` is weight-only,
// under the format names naive-quantized and float-quantized alike.
#include <algorithm>

#include "anyfp8/base/text.h"
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/quantization_config.h"

namespace anyfp8 {
namespace {

using nlohmann::json;

Verdict recognises(const Checkpoint& checkpoint) {
  return has_quant_method(checkpoint, "compressed-tensors");
}

void check_format(const std::string& format) {
  constexpr std::string_view kKnown[] = {"float-quantized", "naive-quantized", "mxfp8-quantized",
                                         "mixed-precision", "dense"};
  if (std::find(std::begin(kKnown), std::end(kKnown), format) == std::end(kKnown)) {
    throw fail(ErrorCode::kUnsupported, "compressed-tensors format \"{}\" is not supported; {} are", format,
               fmt::join(kKnown, ", "));
  }
}

// Sparsity and rotations change the product itself.
void refuse_transforms(const json& config) {
  for (const char* key : {"sparsity_config", "transform_config"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null() || found->empty()) continue;
    if (found->is_object() && config_string(*found, "format") == "dense") continue;
    throw fail(ErrorCode::kUnsupported, "quantization_config: a {} is not supported", key);
  }
}

// Exact names go before patterns, patterns before the class name; every module here is a Linear.
int target_rank(const std::string& target, std::string_view module) {
  if (target == module) return 3;
  if (target.starts_with("re:"))
    return regex_matches_start(std::string_view(target).substr(3), module) ? 2 : 0;
  return target == "Linear" ? 1 : 0;
}

// The preset names that may stand in place of a group's object.
json preset(const std::string& name) {
  const auto args = [](const char* strategy, const json& more) {
    json object = {{"num_bits", 8}, {"type", "float"}, {"strategy", strategy}, {"symmetric", true}};
    object.update(more);
    return object;
  };
  const json dynamic = {{"dynamic", true}};
  if (name == "FP8")
    return {{"weights", args("tensor", json::object())},
            {"input_activations", args("tensor", {{"dynamic", false}})}};
  if (name == "FP8_DYNAMIC")
    return {{"weights", args("channel", json::object())}, {"input_activations", args("token", dynamic)}};
  if (name == "FP8_BLOCK") {
    return {{"weights", args("block", {{"block_structure", {128, 128}}})},
            {"input_activations", args("group", {{"group_size", 128}, {"dynamic", true}})}};
  }
  if (name == "MXFP8" || name == "MXFP8A16") {
    json group = {{"weights", args("group", {{"group_size", 32}, {"scale_dtype", "uint8"}})}};
    if (name == "MXFP8") group["input_activations"] = args("group", {{"group_size", 32}, {"dynamic", true}});
    return group;
  }
  throw fail(ErrorCode::kUnsupported, "quantization_config: the preset \"{}\" is not one of the FP8 presets",
             name);
}

// The config group that quantises the module; null when none does.
json find_group(const json& config, std::string_view module) {
  const auto groups = config.find("config_groups");
  if (groups == config.end() || !groups->is_object()) {
    throw fail(ErrorCode::kInvalidFile,
               "quantization_config: compressed-tensors needs an object config_groups");
  }
  const json* best = nullptr;
  std::string best_name;
  int best_rank = 0;
  for (const auto& [name, value] : groups->items()) {
    if (!value.is_array() && !value.is_object()) {
      throw fail(ErrorCode::kInvalidFile,
                 "quantization_config: config_groups.{} is neither an object nor a list", name);
    }
    // An object names its targets; a list of targets stands for the preset that the group is named after.
    static const json kNoTargets = json::array();
    const auto found = value.is_object() ? value.find("targets") : value.end();
    const json& targets = value.is_array() ? value : found != value.end() ? *found : kNoTargets;
    for (const json& target : targets) {
      if (!target.is_string()) {
        throw fail(ErrorCode::kInvalidFile, "quantization_config: a target of config_groups.{} is no string",
                   name);
      }
      const int rank = target_rank(target.get_ref<const std::string&>(), module);
      if (rank <= best_rank) continue;
      best_rank = rank;
      best = &value;
      best_name = name;
    }
  }
  if (best == nullptr) return json();
  return best->is_array() ? preset(best_name) : *best;
}

// What `weights` and `input_activations` have in common.
void check_arguments(const json& args, const char* where) {
  if (!args.is_object())
    throw fail(ErrorCode::kInvalidFile, "quantization_config: {} is not an object", where);
  const auto found = args.find("num_bits");
  const int64_t bits = found == args.end() ? 8 : found->is_number_integer() ? found->get<int64_t>() : -1;
  const std::string type = config_string(args, "type", "int");
  if (bits != 8 || type != "float") {
    throw fail(ErrorCode::kUnsupported,
               "quantization_config: {} are {} with {} bits; float with 8 bits is supported", where, type,
               bits);
  }
  const auto symmetric = args.find("symmetric");
  if (symmetric != args.end() && symmetric->is_boolean() && !symmetric->get<bool>()) {
    throw fail(ErrorCode::kUnsupported,
               "quantization_config: {} with a zero point (symmetric: false) are not supported", where);
  }
}

int32_t group_size(const json& args) {
  const auto found = args.find("group_size");
  const int64_t size = found != args.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
  if (size < 1 || size > (1 << 20)) {
    throw fail(ErrorCode::kInvalidFile,
               "quantization_config: strategy group needs a group_size from 1 to 1048576");
  }
  return static_cast<int32_t>(size);
}

Group weight_group(const json& args) {
  const std::string strategy = config_string(args, "strategy", "tensor");
  if (strategy == "tensor") return kPerTensor;
  if (strategy == "channel") return kPerRow;
  if (strategy == "group") return {1, group_size(args)};
  if (strategy == "block") return block_from_json(args.value("block_structure", json()), "block_structure");
  throw fail(ErrorCode::kUnsupported,
             "quantization_config: weight strategy \"{}\" is not one of tensor, channel, block, group",
             strategy);
}

QuantKey activation_key(const json& args) {
  check_arguments(args, "input_activations");
  const std::string strategy = config_string(args, "strategy", "tensor");
  const auto dynamic = args.find("dynamic");
  const bool is_static = dynamic == args.end() || (dynamic->is_boolean() && !dynamic->get<bool>());
  QuantKey key{DType::kE4M3, kPerTensor, is_static ? ScaleSource::kStored : ScaleSource::kDynamic};
  if (strategy == "token") {
    key.group = kPerRow;
  } else if (strategy == "group") {
    key.group = {1, group_size(args)};
  } else if (strategy != "tensor") {
    throw fail(ErrorCode::kUnsupported,
               "quantization_config: activation strategy \"{}\" is not one of tensor, token, group",
               strategy);
  }
  if (key.group == kMx32) key.scale_dtype = DType::kE8M0;
  return key;
}

LayerSpec layer(const Checkpoint& checkpoint, std::string_view module) {
  const json& config = quantization_config(checkpoint);
  check_format(config_string(config, "format", "float-quantized"));
  refuse_transforms(config);
  LayerSpec spec;
  spec.weight_scale = with_suffixes(module, {".weight_scale"});
  spec.input_scale = with_suffixes(module, {".input_scale"});

  const json group = find_group(config, module);
  if (group.is_null()) return spec;  // the disk decides; without a group the scale's shape says what it is
  check_format(config_string(group, "format", "float-quantized"));
  const json weights = group.value("weights", json());
  check_arguments(weights, "weights");
  spec.group = weight_group(weights);
  spec.u8_scale_is_e8m0 = spec.group == kMx32;
  const json inputs = group.value("input_activations", json());
  if (!inputs.is_null()) spec.activation = activation_key(inputs);
  return spec;
}

std::vector<std::string> skipped(const Checkpoint& checkpoint) {
  return config_strings(quantization_config(checkpoint), {"ignore"});
}

}  // namespace

extern const Format format_compressed_tensors;
const Format format_compressed_tensors = {
    .name = "compressed_tensors",
    .summary =
        "quant_method compressed-tensors: per tensor, channel, block or MX group (llm-compressor, RedHatAI)",
    .recognises = recognises,
    .layer = layer,
    .skipped = skipped,
};

}  // namespace anyfp8
