// ComfyUI's scaled files: one .safetensors without a config. Older ones carry a tensor `scaled_fp8` and per
// layer scale_weight, scale_input; newer ones a metadata entry _quantization_metadata or per layer
// comfy_quant, with weight_scale, input_scale. All per tensor. An input scale of 1 means "not calibrated".
#include "anyfp8/base/text.h"
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/quantization_config.h"

namespace anyfp8 {
namespace {

Verdict recognises(const Checkpoint& checkpoint) {
  ANYFP8_NEED(quantization_config(checkpoint).empty(), "config.json has a quantization_config");
  if (checkpoint.has("scaled_fp8") || checkpoint.metadata("_quantization_metadata")) return Verdict::yes();
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (tensor.name.ends_with(".scaled_fp8") || tensor.name.ends_with(".scale_weight") ||
        tensor.name.ends_with(".comfy_quant")) {
      return Verdict::yes();
    }
  }
  return Verdict::no("there is no scaled_fp8, scale_weight or comfy_quant tensor");
}

LayerSpec layer(const Checkpoint& checkpoint, std::string_view module) {
  for (const std::string& name :
       with_suffixes(module, {".weight_scale_2", ".pre_quant_scale", ".weight_scalar"})) {
    if (checkpoint.has(name))
      throw fail(ErrorCode::kUnsupported, "{}: two-level scales are not supported", name);
  }
  LayerSpec spec;
  spec.weight_scale = with_suffixes(module, {".scale_weight", ".weight_scale"});
  spec.input_scale = with_suffixes(module, {".scale_input", ".input_scale"});
  spec.group = kPerTensor;
  return spec;
}

}  // namespace

extern const Format format_comfyui;
const Format format_comfyui = {
    .name = "comfyui",
    .summary = "ComfyUI scaled FP8 files: scale_weight per tensor, weight-only",
    .recognises = recognises,
    .layer = layer,
};

}  // namespace anyfp8
