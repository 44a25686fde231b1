#pragma once

#include <optional>

#include "anyfp8/base/export.h"
#include "anyfp8/base/tensor.h"
#include "anyfp8/base/verdict.h"
#include "anyfp8/scheme/fp8_weight.h"
#include "anyfp8/scheme/quant_scheme.h"

// Activations quantised on the CPU, by the rules of activation_scale.h: the truth for the GPU's quantisers,
// and W8A8 emulated exactly. What an FP8 product sees of x is code * scale, so W8A8 is round_activations()
// and then any W8A16 product with f32 activations; the two differ in the order of fp32 sums alone.
namespace anyfp8 {

// How one layer's activations are quantised.
struct ActivationQuant {
  QuantKey key;
  std::optional<float> stored_scale;  // with ScaleSource::kStored
  std::optional<float> upper_bound;   // of a dynamic amax
};

// What the checkpoint asks for; none where it asks for nothing.
ANYFP8_API std::optional<ActivationQuant> activation_quant(const Fp8Weight& weight);

// No: activation_scale.h does not say what it means.
ANYFP8_API Verdict can_quantize(const ActivationQuant& quant);

struct QuantizedActivations {
  HostTensor codes;   // [m, k] key.dtype
  HostTensor scales;  // [grid.rows, grid.cols] f32 whatever key.scale_dtype, of scale_grid(key.group, m, k)
};

// x: [m, k] bf16, f16 or f32, host memory, rows may be strided. Error(kUnsupported) with can_quantize()'s
// reason.
ANYFP8_API QuantizedActivations quantize_activations(const TensorView& x, const ActivationQuant& quant);

// code * scale, rounded to fp32: y is [m, k] without gaps. x may be y.
ANYFP8_API void round_activations(const TensorView& x, const ActivationQuant& quant, float* y);

}  // namespace anyfp8
