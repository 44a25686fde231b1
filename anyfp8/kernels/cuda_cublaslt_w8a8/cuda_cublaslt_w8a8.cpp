#include "anyfp8/kernels/common/cuda_admission.h"
#include "anyfp8/kernels/kernel_list.h"

// FP8 tensor cores through cuBLASLt: x is quantised into scratch memory in the weight's own byte order, which
// is then invisible to the product. The operands map as A = weight (transposed), B = x, D = yᵀ, all of them
// with k or n contiguous, the only form FP8 has on Ada, Hopper and 12.x.
//
//   scale mode        weight x activation     compute capability
//   scalar            tensor  x tensor        8.9 and newer
//   outer vector      row     x token, tensor 9.0 alone
//   128-element       128x128 x 1x128         9.0 alone
//
// The 1x32 MX mode (10.0 and newer) is not here: k64_shuffled bytes mix the two 32-element groups of a chunk.
namespace anyfp8 {
namespace {

constexpr Group kGroups[] = {kPerTensor, kPerRow, kBlock128};
constexpr DType kF32Scales[] = {DType::kF32};

Verdict supports(const Device& device) {
  if (Verdict verdict = cublas_supports(device); !verdict) return verdict;
  ANYFP8_NEED(device.cc >= kAda, "FP8 tensor cores need compute capability 8.9, this is {}",
              capability_text(device.cc));
  return Verdict::yes();
}

Verdict check_scale_mode(const QuantKey& weight, const QuantKey& activation, const Device& device) {
  const bool dynamic = activation.source == ScaleSource::kDynamic;
  if (weight.group == kPerTensor && activation.group == kPerTensor) return Verdict::yes();
  const bool outer =
      weight.group == kPerRow && (activation.group == kPerTensor || (activation.group == kPerRow && dynamic));
  const bool block = weight.group == kBlock128 && activation.group == kGroup128 && dynamic;
  ANYFP8_NEED(outer || block,
              "cuBLASLt has no scale mode for weights by {} with {} activations by {}: it has tensor x "
              "tensor, row x token, "
              "row x tensor and 128x128 x 1x128",
              group_text(weight.group), dynamic ? "dynamic" : "static", group_text(activation.group));
  ANYFP8_NEED(device.cc == kHopper,
              "cuBLASLt's scale mode for weights by {} with activations by {} exists on compute capability "
              "9.0 alone, "
              "this is {}",
              group_text(weight.group), group_text(activation.group), capability_text(device.cc));
  return Verdict::yes();
}

Verdict check(const LinearConfig& config, const Device& device) {
  const QuantKey& weight = config.scheme.weight;
  const QuantKey& activation = *config.scheme.activation;
  ANYFP8_NEED(is_float8(activation.dtype), "activations by the checkpoint are {}, it takes e4m3 or e5m2",
              dtype_name(activation.dtype));
  ANYFP8_NEED(weight.dtype == DType::kE4M3 || activation.dtype == DType::kE4M3,
              "weights and activations are both e5m2, which cuBLASLt does not multiply");
  ANYFP8_NEED(activation.scale_dtype == DType::kF32, "activation scales are {}, it takes f32",
              dtype_name(activation.scale_dtype));
  if (Verdict verdict = check_scale_mode(weight, activation, device); !verdict) return verdict;
  // Operand rows are k bytes and start at multiples of 16. For n the documented rule (16-byte rows of a
  // 16-bit y) would allow multiples of 8; until those are measured the stricter reading holds: 16 of the FP8
  // dimension.
  ANYFP8_NEED(config.k % 16 == 0, "k = {} is not a multiple of 16", config.k);
  ANYFP8_NEED(config.n % 16 == 0, "n = {} is not a multiple of 16", config.n);
  return Verdict::yes();
}

// H200, us for the FP8 product + about 2.5 for quantising x, against the W8A16 time to beat:
//                  tensor                      row
//   4096 x 4096    m = 64  7.9 + 2.5 : 8.5     m = 128  14.2 + 2.5 : 11
//                  m = 128 8.7 + 2.5 : 11      m = 256  14.6 + 2.5 : 18
//   28672 x 4096   m = 64 36.7 + 2.5 : 37      m = 128  38.2 + 2.5 : 50
//                  m = 128 36.3 + 2.5 : 50     m = 256  57.6 + 2.5 : 92
//   4096 x 14336   m = 64 19.4 + 2.5 : 20      m = 128  37.8 + 2.5 : 27
//                  m = 128 22.2 + 2.5 : 27     m = 256  38.5 + 2.5 : 48
// The 128-element mode is taken to behave as row does.
TokenRange tokens(const LinearConfig& config, const Device&) {
  return {.begin = config.scheme.weight.group == kPerTensor ? 128 : 256};
}

size_t workspace_bytes(const LinearConfig& config, const Device&, int64_t m) {
  const auto aligned = [](int64_t bytes) { return (static_cast<size_t>(bytes) + 255) / 256 * 256; };
  const int64_t tokens = (m + 3) / 4 * 4;  // the 128-element mode wants multiples of 4
  const int64_t k_blocks = (config.k + 127) / 128;
  size_t bytes =
      kCublasBytes + aligned(tokens * config.k) + aligned(tokens * k_blocks * 4);  // x and its scales
  if (config.bias) bytes += aligned(config.n * 2);  // cuBLASLt wants it in y's dtype
  if (config.scheme.weight.group == kBlock128) {
    bytes += aligned((config.n + 127) / 128 * ((k_blocks + 3) / 4 * 4) * 4);  // weight scales at its stride
    bytes += aligned(4 * config.n * 2);                                       // the last tokens of y, padded
  }
  return bytes;
}

}  // namespace

constinit const Kernel cuda_cublaslt_w8a8{
    .name = "cuda_cublaslt_w8a8",
    .summary = "cuBLASLt FP8 tensor cores, quantises activations as the checkpoint asks; Ada and newer",
    .device = DeviceKind::kCuda,
    .layout = Layout::kK64Shuffled,
    .weight_dtypes = kFloat8Types,
    .weight_groups = kGroups,
    .scale_dtypes = kF32Scales,
    .in_dtypes = kHalfTypes,
    .out_dtypes = kHalfTypes,
    .activation = ActivationUse::kQuantized,
    .batch_invariant = false,
    .supports = supports,
    .check = check,
    .tokens = tokens,
    .workspace_bytes = workspace_bytes,
};

}  // namespace anyfp8
