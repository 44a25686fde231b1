// NVIDIA ModelOpt: quantization_config with quant_method "modelopt", or hf_quant_config.json beside
// config.json. The first looks like compressed-tensors, so quant_method decides.
//   FP8                         weight_scale [] or [1]; input_scale [] when static
//   FP8_PER_CHANNEL_PER_TOKEN   weight_scale [n]
//   FP8_PB_WO                   weight_scale [n/128, 1, k/128, 1], weight-only
//   MXFP8                       weight_scale U8 [n, k/32]
//   MIXED_PRECISION             quantized_layers: {module: {quant_algo}}
#include <algorithm>
#include <cctype>

#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/quantization_config.h"

namespace anyfp8 {
namespace {

using nlohmann::json;

// The object that holds quant_algo, from either carrier; null where neither is ModelOpt's.
const json& modelopt_config(const Checkpoint& checkpoint) {
  static const json kNone;
  const json& config = quantization_config(checkpoint);
  if (!config.empty()) return config_string(config, "quant_method") == "modelopt" ? config : kNone;
  const json& beside = sibling_json(checkpoint, "hf_quant_config.json");
  const auto found = beside.is_object() ? beside.find("quantization") : beside.end();
  return found != beside.end() && found->is_object() ? *found : kNone;
}

Verdict recognises(const Checkpoint& checkpoint) {
  if (!modelopt_config(checkpoint).is_null()) return Verdict::yes();
  if (!quantization_config(checkpoint).empty()) return has_quant_method(checkpoint, "modelopt");
  return Verdict::no("there is neither a quantization_config nor a hf_quant_config.json");
}

std::string upper_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

// quant_algo of the module in upper case ("fp8_pb_wo" is written in lower); empty for one that is not
// quantised.
std::string algorithm_of(const json& config, std::string_view module) {
  const json* holder = &config;
  if (upper_case(config_string(config, "quant_algo")) == "MIXED_PRECISION") {
    const auto layers = config.find("quantized_layers");
    if (layers == config.end() || !layers->is_object()) {
      throw fail(ErrorCode::kInvalidFile, "quant_algo MIXED_PRECISION needs an object quantized_layers");
    }
    static const json kNotQuantized = json::object();
    const auto found = layers->find(std::string(module));
    holder = found != layers->end() && found->is_object() ? &*found : &kNotQuantized;
  }
  return upper_case(config_string(*holder, "quant_algo"));
}

LayerSpec layer(const Checkpoint& checkpoint, std::string_view module) {
  const json& config = modelopt_config(checkpoint);
  const std::string pre_scale = std::string(module) + ".pre_quant_scale";
  if (checkpoint.has(pre_scale)) {
    throw fail(ErrorCode::kUnsupported,
               "{}: activations scaled before quantisation (AWQ style) are not supported", pre_scale);
  }
  LayerSpec spec;
  spec.weight_scale = with_suffixes(module, {".weight_scale"});
  const std::string algorithm = algorithm_of(config, module);
  if (algorithm == "FP8") {
    spec.group = kPerTensor;
    spec.input_scale = with_suffixes(module, {".input_scale"});
    const bool is_static = checkpoint.has(spec.input_scale[0]);
    spec.activation =
        QuantKey{DType::kE4M3, kPerTensor, is_static ? ScaleSource::kStored : ScaleSource::kDynamic};
  } else if (algorithm == "FP8_PER_CHANNEL_PER_TOKEN") {
    spec.group = kPerRow;
    spec.activation = QuantKey{DType::kE4M3, kPerRow, ScaleSource::kDynamic};
  } else if (algorithm == "FP8_PB_WO") {
    spec.group = kBlock128;
  } else if (algorithm == "MXFP8") {
    spec.group = kMx32;
    spec.u8_scale_is_e8m0 = true;
    spec.activation = QuantKey{DType::kE4M3, kMx32, ScaleSource::kDynamic, DType::kE8M0};
  } else if (!algorithm.empty() || checkpoint.info(std::string(module) + ".weight_scale")) {
    throw fail(ErrorCode::kUnsupported,
               "quant_algo \"{}\" is not supported; FP8, FP8_PER_CHANNEL_PER_TOKEN, FP8_PB_WO and MXFP8 are",
               algorithm);
  }
  return spec;
}

std::vector<std::string> skipped(const Checkpoint& checkpoint) {
  return config_strings(modelopt_config(checkpoint), {"exclude_modules", "ignore"});
}

}  // namespace

extern const Format format_modelopt;
const Format format_modelopt = {
    .name = "modelopt",
    .summary = "NVIDIA ModelOpt: FP8, FP8_PER_CHANNEL_PER_TOKEN, FP8_PB_WO, MXFP8",
    .recognises = recognises,
    .layer = layer,
    .skipped = skipped,
};

}  // namespace anyfp8
