#include "anyfp8/kernels/common/cuda_admission.h"
#include "anyfp8/kernels/cuda_cublaslt_w8a8/w8a8_parts.h"
#include "anyfp8/kernels/kernel_list.h"

namespace anyfp8 {

// w8a8_launch_cuda.cpp
void prepare_cuda_cublaslt_w8a8(const PlacedWeight& placed);
void apply_cuda_cublaslt_w8a8(const PlacedWeight& placed, const TensorView& x, const TensorView& y,
                              Scratch scratch, Stream stream);

// FP8 tensor cores through cuBLASLt: x is quantised into scratch memory in the weight's own byte order, which
// is then invisible to the product. The operands map as A = weight (transposed), B = x, D = yᵀ, all of them
// with k or n contiguous, the only form FP8 has on Ada, Hopper and 12.x.
//
//   scale mode        weight x activation     compute capability
//   scalar            tensor  x tensor        8.9 and newer
//   outer vector      row     x token, tensor 9.0 alone
//   128-element       128x128 x 1x128         9.0 alone
//   32-element (MX)   1x32    x 1x32, e8m0    10.0 and newer; its products never ran: no such card was at
//   hand
//
// MX weights are copied to scratch memory slab by slab (mx_slab.h): k64_shuffled bytes mix the two groups of
// a chunk.
namespace {

constexpr Group kGroups[] = {kPerTensor, kPerRow, kBlock128, kMx32};
constexpr ComputeCapability kBlackwell{10, 0};

Verdict supports(const Device& device) {
  if (Verdict verdict = cublas_supports(device); !verdict) return verdict;
  ANYFP8_NEED(device.cc >= kAda, "FP8 tensor cores need compute capability 8.9, this is {}",
              capability_text(device.cc));
  return Verdict::yes();
}

Verdict check_scale_mode(const QuantKey& weight, const QuantKey& activation, const Device& device) {
  const bool dynamic = activation.source == ScaleSource::kDynamic;
  const bool tensor = weight.group == kPerTensor && activation.group == kPerTensor;
  const bool outer =
      weight.group == kPerRow && (activation.group == kPerTensor || (activation.group == kPerRow && dynamic));
  const bool block = weight.group == kBlock128 && activation.group == kGroup128 && dynamic;
  const bool mx = weight.group == kMx32 && activation.group == kMx32 && dynamic;
  ANYFP8_NEED(tensor || outer || block || mx,
              "cuBLASLt has no scale mode for weights by {} with {} activations by {}: it has tensor x "
              "tensor, row x token, row x tensor, 128x128 x 1x128 and 1x32 x 1x32",
              group_text(weight.group), dynamic ? "dynamic" : "static", group_text(activation.group));
  for (const QuantKey* key : {&weight, &activation}) {
    ANYFP8_NEED(key->scale_dtype == (mx ? DType::kE8M0 : DType::kF32), "{} scales by {} are {}, it takes {}",
                key == &weight ? "weight" : "activation", group_text(key->group),
                dtype_name(key->scale_dtype), mx ? "e8m0" : "f32");
  }
  const auto refusal = [&](std::string_view needed) {
    return Verdict::no(fmt::format(
        "cuBLASLt's scale mode for weights by {} with activations by {} exists on compute "
        "capability {}, this is {}",
        group_text(weight.group), group_text(activation.group), needed, capability_text(device.cc)));
  };
  if (mx && device.cc < kBlackwell) return refusal("10.0 and newer alone");
  if ((outer || block) && device.cc != kHopper) return refusal("9.0 alone");
  return Verdict::yes();
}

Verdict check(const LinearConfig& config, const Device& device) {
  const QuantKey& weight = config.scheme.weight;
  const QuantKey& activation = *config.scheme.activation;
  ANYFP8_NEED(is_float8(activation.dtype), "activations by the checkpoint are {}, it takes e4m3 or e5m2",
              dtype_name(activation.dtype));
  ANYFP8_NEED(weight.dtype == DType::kE4M3 || activation.dtype == DType::kE4M3,
              "weights and activations are both e5m2, which cuBLASLt does not multiply");
  if (Verdict verdict = check_scale_mode(weight, activation, device); !verdict) return verdict;
  // Asked of cuBLASLt 13.0 on an H200: rows of a 16-bit y are multiples of 16 bytes, in every scale mode. k
  // is any: rows of codes have zeros up to a multiple of 64.
  ANYFP8_NEED(config.n % 8 == 0, "n = {} is not a multiple of 8", config.n);
  ANYFP8_NEED(weight.group != kMx32 || w8a8::mx_slab_rows(config.n, config.k) > 0,
              "k = {}: {} rows of codes do not fit its {} MiB of scratch", config.k, kSlabGranule,
              kSlabBytes >> 20);
  return Verdict::yes();
}

// H200, us with quantising x : the W8A16 kernel for the same layer, `bench --kernel all`.
//                  tensor, static         row x token            128x128 x 1x128
//   4096 x 4096    m = 64  10.0 : 10.4    m = 192 17.2 : 15.1    m = 192 17.8 : 16.8
//                  m = 65  10.2 : 11.9    m = 193 17.2 : 19.2    m = 193 19.7 : 20.0
//   28672 x 4096   m = 64  36.3 : 34.6    m = 80  42.8 : 41.3    m = 64  40.3 : 41.9
//                  m = 65  37.9 : 40.1    m = 96  41.5 : 41.9    m = 65  41.4 : 48.1
//                                         m = 127 40.4 : 49.0
//   4096 x 14336   m = 64  23.6 : 23.4    m = 192 45.4 : 39.5    m = 64  28.1 : 25.9
//                  m = 65  25.6 : 27.9    m = 193 44.3 : 50.5    m = 65  30.3 : 31.0
// Behind 64, 96, 128 and 192 tokens larger W8A16 tiles begin, or more of them.
// MX on Blackwell is an estimate, not measured: with B200's rates (FP8 4500 TFLOP/s, 8 TB/s) and mma.sync at
// half of bf16's 2250, copying slabs has paid from m = 184.
TokenRange tokens(const LinearConfig& config, const Device&) {
  constexpr int64_t kManyOutputs = 16384, kSmallLayer = int64_t{1} << 24;  // bytes
  if (w8a8::is_mx(config)) return {.begin = 256};
  const Group group = config.scheme.weight.group;
  if (group == kPerRow) return {.begin = config.n >= kManyOutputs ? 97 : 193};
  return {.begin = group == kBlock128 && config.n * config.k <= kSmallLayer ? 193 : 65};
}

size_t workspace_bytes(const LinearConfig& config, const Device&, int64_t m) {
  return config.scheme.activation ? w8a8::scratchpad(config, m).bytes : 0;
}

}  // namespace

constinit const Kernel cuda_cublaslt_w8a8{
    .name = "cuda_cublaslt_w8a8",
    .summary = "cuBLASLt FP8 tensor cores, quantises activations as the checkpoint asks; Ada and newer",
    .device = DeviceKind::kCuda,
    .layout = Layout::kK64Shuffled,
    .weight_dtypes = kFloat8Types,
    .weight_groups = kGroups,
    .scale_dtypes = kScaleTypes,
    .in_dtypes = kHalfTypes,
    .out_dtypes = kHalfTypes,
    .activation = ActivationUse::kQuantized,
    .batch_invariant = false,
    .supports = supports,
    .check = check,
    .tokens = tokens,
    .workspace_bytes = workspace_bytes,
    .prepare = ANYFP8_LAUNCH(prepare_cuda_cublaslt_w8a8),
    .apply = ANYFP8_LAUNCH(apply_cuda_cublaslt_w8a8),
};

}  // namespace anyfp8
