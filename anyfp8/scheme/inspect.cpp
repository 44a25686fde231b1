
#include "anyfp8/base/text.h"
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/load.h"
#include "anyfp8/scheme/skip_list.h"

namespace anyfp8 {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kScaleSuffixes[] = {".weight_scale_inv", ".weight_scale", ".scale_weight",
                                               ".qscale_weight"};
constexpr std::string_view kKvScaleSuffixes[] = {".k_scale", ".v_scale", ".kv_scale", ".output_scale",
                                                 ".q_scale"};

template <typename Suffixes>
std::string_view matching_suffix(std::string_view name, const Suffixes& suffixes) {
  for (std::string_view suffix : suffixes) {
    if (name.ends_with(suffix)) return suffix;
  }
  return {};
}

// A scale whose weight is missing or not FP8: the file and its scale disagree.
void note_orphan_scale(const Checkpoint& checkpoint, const TensorInfo& tensor, Inspection& result) {
  const std::string_view suffix = matching_suffix(tensor.name, kScaleSuffixes);
  if (suffix.empty()) return;
  const std::string weight =
      std::string(tensor.name.substr(0, tensor.name.size() - suffix.size())) + ".weight";
  const std::optional<TensorInfo> info = checkpoint.info(weight);
  if (!info) {
    result.anomalies.push_back({std::string(tensor.name), "is a scale without a weight"});
  } else if (info->dtype && !is_float8(*info->dtype)) {
    result.anomalies.push_back({std::string(tensor.name),
                                fmt::format("is a scale of a {} weight and is not used", info->dtype_name)});
  }
}

void note_skip_list(bool listed, const LayerReport& layer, Inspection& result) {
  const bool quantized = is_float8(layer.scheme.weight.dtype);
  if (quantized && listed) {
    result.anomalies.push_back(
        {layer.module + ".weight", "is FP8 although the config lists it as not quantised; the file decides"});
  }
  if (!quantized && !listed && layer.module.ends_with("_proj")) {
    result.anomalies.push_back(
        {layer.module + ".weight",
         fmt::format("is {} although the config does not list it as skipped; the file decides",
                     dtype_name(layer.scheme.weight.dtype))});
  }
}

// The dialect promises a static activation scale and the file has none, or 0; load_weight() made it dynamic.
void note_missing_input_scale(const Checkpoint& checkpoint, const Fp8Weight& weight, Inspection& result) {
  const std::string& module = result.layers.back().module;
  if (!weight.quantized() || weight.input_scale || !weight.scheme.activation) return;
  const LayerSpec spec = layer_spec(checkpoint, result.format, module);
  if (spec.activation && spec.activation->source == ScaleSource::kStored) {
    result.anomalies.push_back(
        {module + ".weight", "has no static activation scale although the config promises one"});
  }
}

void report_layer(const Checkpoint& checkpoint, const TensorInfo& tensor, const SkipList* skipped,
                  Inspection& result) {
  const std::string module(tensor.name.substr(0, tensor.name.size() - kWeight.size()));
  try {
    const Fp8Weight weight = load_weight(checkpoint, result.format, module);
    result.layers.push_back({module, weight.n(), weight.k(), weight.scheme, weight.resident_bytes()});
    if (weight.quantized()) result.quantized_parameters += static_cast<size_t>(weight.data.size());
    if (skipped != nullptr) note_skip_list(skipped->names(module), result.layers.back(), result);
    note_missing_input_scale(checkpoint, weight, result);
  } catch (const Error& error) {
    result.errors.push_back({std::string(tensor.name), error.what()});
  }
}

}  // namespace

Inspection inspect(const Checkpoint& checkpoint) {
  Inspection result;
  result.format = find_format(checkpoint);
  std::optional<SkipList> skipped;
  if (result.format != nullptr && result.format->skipped != nullptr) {
    skipped.emplace(result.format->skipped(checkpoint));
    for (const std::string& entry : skipped->unreadable()) {
      result.anomalies.push_back(
          {"config.json", fmt::format("lists \"{}\" as skipped, which cannot be read", entry)});
    }
  }
  size_t kv_scales = 0;
  std::string kv_example;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    result.tensor_bytes += tensor.bytes;
    const std::string name(tensor.name);
    if (!tensor.dtype) {
      result.anomalies.push_back(
          {name, fmt::format("has dtype {}, which this library cannot read", tensor.dtype_name)});
    } else if (name.ends_with(kWeight) && tensor.shape.size() == 2) {
      if (tensor.bytes == 0) {
        result.anomalies.push_back({name, fmt::format("is empty, {}", shape_text(tensor.shape))});
      } else {
        report_layer(checkpoint, tensor, skipped ? &*skipped : nullptr, result);
      }
    } else if (is_float8(*tensor.dtype)) {
      result.anomalies.push_back({name, fmt::format("is {} {}, not a linear layer's weight",
                                                    tensor.dtype_name, shape_text(tensor.shape))});
    }
    note_orphan_scale(checkpoint, tensor, result);
    if (!matching_suffix(tensor.name, kKvScaleSuffixes).empty() && kv_scales++ == 0) kv_example = name;
  }
  if (kv_scales != 0) {
    result.anomalies.push_back(
        {kv_example, fmt::format("and {} more scales of an FP8 KV cache are not used", kv_scales - 1)});
  }
  return result;
}

}  // namespace anyfp8
