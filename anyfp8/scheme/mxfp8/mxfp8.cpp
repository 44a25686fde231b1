// quant_method "mxfp8": e4m3 with one e8m0 scale for 32 elements of a row, stored as U8 [n, k/32] codes,
// plain row-major. A U8 scale is 2^(code - 127), never a number to multiply by.
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/quantization_config.h"

namespace anyfp8 {
namespace {

Verdict recognises(const Checkpoint& checkpoint) { return has_quant_method(checkpoint, "mxfp8"); }

LayerSpec layer(const Checkpoint&, std::string_view module) {
  LayerSpec spec;
  spec.weight_scale = with_suffixes(module, {".weight_scale_inv", ".weight_scale"});
  spec.group = kMx32;
  spec.u8_scale_is_e8m0 = true;
  spec.activation = QuantKey{DType::kE4M3, kMx32, ScaleSource::kDynamic, DType::kE8M0};
  return spec;
}

std::vector<std::string> skipped(const Checkpoint& checkpoint) {
  return config_strings(quantization_config(checkpoint), {"ignored_layers", "modules_to_not_convert"});
}

}  // namespace

extern const Format format_mxfp8;
const Format format_mxfp8 = {
    .name = "mxfp8",
    .summary = "quant_method mxfp8: one power-of-two scale for 32 elements (MiniMax)",
    .recognises = recognises,
    .layer = layer,
    .skipped = skipped,
};

}  // namespace anyfp8
