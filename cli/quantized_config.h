#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "anyfp8/checkpoint/writer.h"
#include "anyfp8/scheme/quantize.h"

namespace anyfp8::cli {

enum class Dialect { kFp8, kCompressedTensors };

// How a quantised checkpoint is spelled: the `quantization_config` of its config.json, and the names, shapes
// and dtypes of its scales.
//
//   dialect             scheme   quant_method        scale tensor      dtype         shape
//   fp8                 tensor   fp8                 weight_scale      F32           []
//   fp8                 block    fp8                 weight_scale_inv  F32           [ceil(n/128),
//   ceil(k/128)] fp8                 mxfp8    mxfp8               weight_scale_inv  U8 (e8m0)     [n, k/32]
//   compressed-tensors  tensor   compressed-tensors  weight_scale      the weight's  [1]
//   compressed-tensors  channel                      weight_scale      the weight's  [n, 1]
//   compressed-tensors  block                        weight_scale      the weight's  [ceil(n/128),
//   ceil(k/128)] compressed-tensors  mxfp8                        weight_scale      U8 (e8m0)     [n, k/32]
//
// The fp8 dialect has no form for channel scales: Error(kInvalidArgument).
void check_dialect(Dialect dialect, QuantizeScheme scheme);

// `unquantized`: the modules of linear layers that stay as they are.
nlohmann::ordered_json quantization_config_for(Dialect dialect, QuantizeScheme scheme,
                                               const std::vector<std::string>& unquantized);

// dtype that quantize() rounds the scales of such a weight to.
DType scale_dtype_for(Dialect dialect, QuantizeScheme scheme, DType weight);

// `<module>.weight` and its scale.
std::vector<NamedTensor> spelled(Dialect dialect, QuantizeScheme scheme, const std::string& module,
                                 const Fp8Weight& weight, DType scale_dtype);

}  // namespace anyfp8::cli
