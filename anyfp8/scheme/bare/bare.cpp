// FP8 tensors in files without a config: a shard opened by itself, a diffusers raw cast. A scale beside the
// weight is used under any of its names, as tensor, row or 128 x 128 block, whichever its shape fits; weights
// without one are refused unless the caller vouches for a scale of 1 (LoadOptions::assume_unit_scale).
#include <algorithm>

#include "anyfp8/base/text.h"
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/quantization_config.h"

namespace anyfp8 {
namespace {

Verdict recognises(const Checkpoint& checkpoint) {
  ANYFP8_NEED(quantization_config(checkpoint).empty(), "config.json has a quantization_config");
  const std::vector<TensorInfo> tensors = checkpoint.tensors();
  const bool any = std::any_of(tensors.begin(), tensors.end(),
                               [](const TensorInfo& t) { return t.dtype && is_float8(*t.dtype); });
  ANYFP8_NEED(any, "no tensor is F8_E4M3 or F8_E5M2");
  return Verdict::yes();
}

LayerSpec layer(const Checkpoint&, std::string_view module) {
  LayerSpec spec;
  spec.weight_scale =
      with_suffixes(module, {".weight_scale_inv", ".weight_scale", ".scale", ".qscale_weight"});
  spec.input_scale = with_suffixes(module, {".input_scale", ".activation_scale", ".qscale_act"});
  spec.may_be_blocks = true;
  return spec;
}

}  // namespace

extern const Format format_bare;
const Format format_bare = {
    .name = "bare",
    .summary = "FP8 tensors without a config; scales by name and shape",
    .recognises = recognises,
    .layer = layer,
};

}  // namespace anyfp8
