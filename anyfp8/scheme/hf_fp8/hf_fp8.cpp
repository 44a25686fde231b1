// quant_method "fp8". One name, three ways to write it:
//   per tensor, vLLM and AutoFP8   weight_scale, input_scale
//   per tensor, transformers 5     weight_scale_inv (a scalar), activation_scale
//   blocks, DeepSeek and Qwen      weight_scale_inv [ceil(n/128), ceil(k/128)] in F32, BF16, F16 or F8_E8M0
// "inv" or not, the scale multiplies. Newer DeepSeek files call it `scale`, Mistral's own `qscale_weight`.
#include "anyfp8/base/text.h"
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/quantization_config.h"

namespace anyfp8 {
namespace {

Verdict recognises(const Checkpoint& checkpoint) { return has_quant_method(checkpoint, "fp8"); }

LayerSpec layer(const Checkpoint& checkpoint, std::string_view module) {
  const nlohmann::json& config = quantization_config(checkpoint);
  const std::string fmt = config_string(config, "fmt", "e4m3");
  if (fmt != "e4m3" && fmt != "float8_e4m3fn" && fmt != "e5m2") {
    throw fail(ErrorCode::kUnsupported, "quantization_config: fmt \"{}\" is not known; e4m3 and e5m2 are",
               fmt);
  }
  const std::string activations = config_string(config, "activation_scheme", "dynamic");
  if (activations != "static" && activations != "dynamic") {
    throw fail(ErrorCode::kUnsupported,
               "quantization_config: activation_scheme \"{}\" is not known; static and dynamic are",
               activations);
  }
  LayerSpec spec;
  spec.weight_scale =
      with_suffixes(module, {".weight_scale_inv", ".weight_scale", ".scale", ".qscale_weight"});
  spec.input_scale = with_suffixes(module, {".input_scale", ".activation_scale", ".qscale_act"});
  const auto block = config.find("weight_block_size");
  if (block != config.end() && !block->is_null()) {
    // The block's size comes from here alone: n / rows of the scale would be wrong for ragged weights.
    spec.group = block_from_json(*block, "weight_block_size");
    spec.activation = QuantKey{DType::kE4M3, {1, spec.group->cols}, ScaleSource::kDynamic};
  } else {
    spec.activation = QuantKey{DType::kE4M3, kPerTensor,
                               activations == "static" ? ScaleSource::kStored : ScaleSource::kDynamic};
  }
  return spec;
}

std::vector<std::string> skipped(const Checkpoint& checkpoint) {
  return config_strings(quantization_config(checkpoint), {"modules_to_not_convert", "ignored_layers"});
}

}  // namespace

extern const Format format_hf_fp8;
const Format format_hf_fp8 = {
    .name = "hf_fp8",
    .summary = "quant_method fp8: per tensor or in blocks (DeepSeek, Qwen, Mistral, AutoFP8, transformers)",
    .recognises = recognises,
    .layer = layer,
    .skipped = skipped,
};

}  // namespace anyfp8
