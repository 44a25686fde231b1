// The one loader of all dialects: finds the scale a LayerSpec names, holds its shape against the group, and
// builds the canonical weight.
#include <cmath>
#include <cstring>

#include "anyfp8/base/log.h"
#include "anyfp8/base/text.h"
#include "anyfp8/scheme/format.h"
#include "anyfp8/scheme/load.h"

namespace anyfp8 {
namespace {

std::string list_text(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

std::vector<std::string> present(const Checkpoint& checkpoint, const std::vector<std::string>& names) {
  std::vector<std::string> found;
  for (const std::string& name : names) {
    if (checkpoint.has(name)) found.push_back(name);
  }
  return found;
}

// f32 as kernels want it, or e8m0 codes as they are. Scales are copied: they are small, and a file may lay
// them at any address.
HostTensor canonical_scale(const HostTensor& stored, const std::string& name, const LayerSpec& spec) {
  const bool codes =
      stored.dtype() == DType::kE8M0 || (stored.dtype() == DType::kU8 && spec.u8_scale_is_e8m0);
  if (codes) {
    HostTensor copy = HostTensor::allocate(DType::kE8M0, stored.shape());
    std::memcpy(copy.mutable_data(), stored.data(), stored.size_bytes());
    return copy;
  }
  if (!is_float16_or_32(stored.dtype())) {
    throw fail(ErrorCode::kUnsupported,
               "{}: a scale of dtype {}; F32, BF16, F16, F8_E8M0 (and U8 in MX checkpoints) are read", name,
               dtype_name(stored.dtype()));
  }
  return to_f32(stored);
}

}  // namespace

std::optional<Group> group_from_shape(const Shape& scale, int64_t n, int64_t k, bool may_be_blocks) {
  if (num_elements(scale) == 1 && scale.size() <= 2) return kPerTensor;
  if (scale == Shape{n} || scale == Shape{n, 1}) return kPerRow;
  const Grid blocks = scale_grid(kBlock128, n, k);
  if (may_be_blocks && scale == Shape{blocks.rows, blocks.cols}) return kBlock128;
  return std::nullopt;
}

bool shape_fits_group(const Shape& scale, Group group, int64_t n, int64_t k) {
  if (group == kPerTensor) return num_elements(scale) == 1 && scale.size() <= 2;
  const Grid grid = scale_grid(group, n, k);
  if (scale == Shape{grid.rows, grid.cols}) return true;
  if (group == kPerRow) return scale == Shape{n};
  // ModelOpt keeps the axes it reduced over: [n/128, 1, k/128, 1].
  return scale == Shape{grid.rows, 1, grid.cols, 1};
}

namespace {

void attach_scale(const Checkpoint& checkpoint, const std::string& weight_name, const LayerSpec& spec,
                  const LoadOptions& options, Fp8Weight& weight) {
  const int64_t n = weight.n(), k = weight.k();
  const std::vector<std::string> found = present(checkpoint, spec.weight_scale);
  if (found.size() > 1) {
    throw fail(ErrorCode::kInvalidFile, "{}: has {} scales, {}; exactly one is needed", weight_name,
               found.size(), list_text(found));
  }
  if (found.empty()) {
    if (!options.assume_unit_scale) {
      throw fail(ErrorCode::kInvalidFile,
                 "{}: is FP8 and has no scale; looked for {} (--assume-unit-scale loads a raw cast)",
                 weight_name, list_text(spec.weight_scale));
    }
    weight.scale = HostTensor::allocate(DType::kF32, {1, 1});
    const float one = 1.0f;
    std::memcpy(weight.scale.mutable_data(), &one, sizeof(one));
    return;
  }
  // The shape first, by the header alone: a scale of the wrong size is never converted.
  const std::string& name = found[0];
  const HostTensor stored = checkpoint.tensor(name);
  const std::optional<Group> group =
      spec.group ? spec.group : group_from_shape(stored.shape(), n, k, spec.may_be_blocks);
  if (!group || !shape_fits_group(stored.shape(), *group, n, k)) {
    const Grid grid = scale_grid(spec.group.value_or(kBlock128), n, k);
    const std::string needed =
        spec.group
            ? fmt::format("one scale per {} needs [{}, {}]", group_text(*spec.group), grid.rows, grid.cols)
            : fmt::format("one for the tensor is [], one a row [{}, 1]{}", n,
                          spec.may_be_blocks ? fmt::format(", 128x128 blocks [{}, {}]", grid.rows, grid.cols)
                                             : "; for blocks the config must name their size");
    throw fail(ErrorCode::kInvalidFile, "{}: is {} for a weight {}; {}", name, shape_text(stored.shape()),
               shape_text(weight.data.shape()), needed);
  }
  const HostTensor scale = canonical_scale(stored, name, spec);
  const Grid grid = scale_grid(*group, n, k);
  weight.scheme.weight.group = *group;
  weight.scheme.weight.scale_dtype = scale.dtype();
  weight.scale = scale.reshaped({grid.rows, grid.cols});
}

void attach_input_scale(const Checkpoint& checkpoint, const LayerSpec& spec, Fp8Weight& weight) {
  weight.scheme.activation = spec.activation;
  weight.input_scale_ub = spec.input_scale_ub;
  const std::vector<std::string> found = present(checkpoint, spec.input_scale);
  if (found.size() > 1) {
    throw fail(ErrorCode::kInvalidFile, "{} activation scales, {}; at most one is possible", found.size(),
               list_text(found));
  }
  if (found.empty()) {
    if (spec.activation && spec.activation->source == ScaleSource::kStored) {
      log_once(
          LogLevel::kWarning,
          "the config says activation scales are static and some layers have none; there they are dynamic");
      weight.scheme.activation->source = ScaleSource::kDynamic;
    }
    return;
  }
  const HostTensor stored = checkpoint.tensor(found[0]);
  if (stored.size() != 1 || !is_float16_or_32(stored.dtype())) {
    throw fail(ErrorCode::kInvalidFile, "{}: is {} {}; one F32, BF16 or F16 number is needed", found[0],
               dtype_name(stored.dtype()), shape_text(stored.shape()));
  }
  const float value = *to_f32(stored).as<float>();
  if (value == 0) {  // a layer that calibration never reached
    log_once(LogLevel::kWarning,
             "some static activation scales are 0; those activations are quantised dynamically");
    if (weight.scheme.activation) weight.scheme.activation->source = ScaleSource::kDynamic;
    return;
  }
  weight.input_scale = value;
}

}  // namespace

LayerSpec layer_spec(const Checkpoint& checkpoint, const Format* format, std::string_view module) {
  return format == nullptr ? LayerSpec{} : format->layer(checkpoint, module);
}

Fp8Weight load_weight(const Checkpoint& checkpoint, const Format* format, std::string_view module,
                      const LoadOptions& options) {
  const std::string name = std::string(module) + ".weight";
  Fp8Weight weight;
  weight.data = checkpoint.tensor(name);
  const DType dtype = weight.data.dtype();
  if (weight.data.shape().size() != 2 || weight.data.size() == 0) {
    throw fail(ErrorCode::kUnsupported,
               "{}: is {}; a linear layer's weight has two dimensions, [n, k], of 1 or more", name,
               shape_text(weight.data.shape()));
  }
  if (!is_float8(dtype) && !is_float16_or_32(dtype)) {
    throw fail(ErrorCode::kUnsupported, "{}: is {}; linear weights are e4m3, e5m2, bf16, f16 or f32", name,
               dtype_name(dtype));
  }
  weight.scheme.weight.dtype = dtype;
  if (weight.quantized()) {
    const LayerSpec spec = layer_spec(checkpoint, format, module);
    attach_scale(checkpoint, name, spec, options, weight);
    attach_input_scale(checkpoint, spec, weight);
  }
  const std::string bias = std::string(module) + ".bias";
  if (checkpoint.has(bias)) weight.bias = checkpoint.tensor(bias);
  try {
    check_scheme(weight);
  } catch (Error& error) {
    throw error.in(name);
  }
  return weight;
}

}  // namespace anyfp8
