#include "cli/quantized_config.h"

#include "anyfp8/base/float8.h"
#include "anyfp8/base/text.h"

namespace anyfp8::cli {
namespace {

using Json = nlohmann::ordered_json;

// One side of a compressed-tensors group, with every key that its writer puts there.
Json quantization_args(const char* strategy, bool dynamic, int group_size, bool block, bool mx) {
  Json args = {{"num_bits", 8},
               {"type", "float"},
               {"symmetric", true},
               {"strategy", strategy},
               {"dynamic", dynamic},
               {"group_size", group_size == 0 ? Json() : Json(group_size)},
               {"block_structure", block ? Json({128, 128}) : Json()},
               {"observer", dynamic ? Json() : Json("minmax")},
               {"observer_kwargs", Json::object()},
               {"actorder", nullptr}};
  if (mx) args["scale_dtype"] = "torch.uint8";
  return args;
}

Json compressed_tensors_config(QuantizeScheme scheme, const std::vector<std::string>& unquantized) {
  Json weights, activations;
  switch (scheme) {
    case QuantizeScheme::kTensor:
      weights = quantization_args("tensor", false, 0, false, false);
      activations = quantization_args("token", true, 0, false, false);
      break;
    case QuantizeScheme::kChannel:
      weights = quantization_args("channel", false, 0, false, false);
      activations = quantization_args("token", true, 0, false, false);
      break;
    case QuantizeScheme::kBlock:
      weights = quantization_args("block", false, 0, true, false);
      activations = quantization_args("group", true, 128, false, false);
      break;
    case QuantizeScheme::kMxfp8:
      weights = quantization_args("group", false, 32, false, true);
      activations = quantization_args("group", true, 32, false, true);
      break;
  }
  const char* format = scheme == QuantizeScheme::kMxfp8 ? "mxfp8-quantized" : "float-quantized";
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"quantization_status", "compressed"},
          {"global_compression_ratio", nullptr},
          {"ignore", unquantized},
          {"kv_cache_scheme", nullptr},
          {"config_groups",
           {{"group_0",
             {{"targets", Json::array({"Linear"})},
              {"weights", weights},
              {"input_activations", activations},
              {"output_activations", nullptr}}}}}};
}

// The same values as another dtype; they were rounded to it before.
HostTensor as_dtype(const HostTensor& scale, DType dtype) {
  if (dtype == scale.dtype()) return scale;
  HostTensor narrow = HostTensor::allocate(dtype, scale.shape());
  auto* codes = reinterpret_cast<uint16_t*>(narrow.mutable_data());
  for (int64_t i = 0; i < scale.size(); ++i) codes[i] = f32_to_bf16(scale.as<float>()[i]);
  return narrow;
}

}  // namespace

void check_dialect(Dialect dialect, QuantizeScheme scheme) {
  if (dialect == Dialect::kFp8 && scheme == QuantizeScheme::kChannel) {
    throw fail(ErrorCode::kInvalidArgument,
               "the fp8 dialect has no channel scales; take --dialect compressed-tensors, or --scheme tensor "
               "or block");
  }
}

Json quantization_config_for(Dialect dialect, QuantizeScheme scheme,
                             const std::vector<std::string>& unquantized) {
  check_dialect(dialect, scheme);
  if (dialect == Dialect::kCompressedTensors) return compressed_tensors_config(scheme, unquantized);
  if (scheme == QuantizeScheme::kMxfp8) return {{"quant_method", "mxfp8"}, {"ignored_layers", unquantized}};
  Json config = {{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"activation_scheme", "dynamic"}};
  if (scheme == QuantizeScheme::kBlock) config["weight_block_size"] = {128, 128};
  config["modules_to_not_convert"] = unquantized;
  return config;
}

DType scale_dtype_for(Dialect dialect, QuantizeScheme scheme, DType weight) {
  // fp16 cannot hold the scales of small weights, so those stay fp32.
  const bool as_weight = dialect == Dialect::kCompressedTensors && scheme != QuantizeScheme::kMxfp8;
  return as_weight && weight == DType::kBF16 ? DType::kBF16 : DType::kF32;
}

std::vector<NamedTensor> spelled(Dialect dialect, QuantizeScheme scheme, const std::string& module,
                                 const Fp8Weight& weight, DType scale_dtype) {
  const bool inverse_name =
      dialect == Dialect::kFp8 && (scheme == QuantizeScheme::kBlock || scheme == QuantizeScheme::kMxfp8);
  HostTensor scale = weight.scale;
  if (scheme == QuantizeScheme::kMxfp8) {
    scale = scale.with_dtype(DType::kU8);
  } else {
    scale = as_dtype(scale, scale_dtype);
  }
  if (scheme == QuantizeScheme::kTensor)
    scale = scale.reshaped(dialect == Dialect::kFp8 ? Shape{} : Shape{1});
  return {{module + ".weight", weight.data},
          {module + (inverse_name ? ".weight_scale_inv" : ".weight_scale"), scale}};
}

}  // namespace anyfp8::cli
