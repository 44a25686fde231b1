// quant_method "fbgemm_fp8" (Meta's Llama 3.1 405B FP8): per channel, weight_scale F32 [n, 1]; activations
// are quantised per token with amax limited to activation_scale_ub. Some files repeat the bound as a tensor
// `input_scale_ub`, which says nothing new.
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/quantization_config.h"

namespace anyfp8 {
namespace {

Verdict recognises(const Checkpoint& checkpoint) { return has_quant_method(checkpoint, "fbgemm_fp8"); }

LayerSpec layer(const Checkpoint& checkpoint, std::string_view module) {
  const nlohmann::json& config = quantization_config(checkpoint);
  LayerSpec spec;
  spec.weight_scale = with_suffixes(module, {".weight_scale"});
  spec.group = kPerRow;
  spec.activation = QuantKey{DType::kE4M3, kPerRow, ScaleSource::kDynamic};
  spec.input_scale_ub = config_number(config, "activation_scale_ub");
  return spec;
}

std::vector<std::string> skipped(const Checkpoint& checkpoint) {
  return config_strings(quantization_config(checkpoint), {"modules_to_not_convert"});
}

}  // namespace

extern const Format format_fbgemm;
const Format format_fbgemm = {
    .name = "fbgemm",
    .summary = "quant_method fbgemm_fp8: per channel, bounded dynamic activations (Llama 3.1 405B FP8)",
    .recognises = recognises,
    .layer = layer,
    .skipped = skipped,
};

}  // namespace anyfp8
