#include "anyfp8/kernels/common/cuda_admission.h"
#include "anyfp8/kernels/kernel_list.h"

// Hopper: weights dequantised into the register operand of wgmma, so the product is computed transposed
// (64 weight rows x 8..256 tokens) and no token of a small batch is padding beyond 8.
namespace anyfp8 {
namespace {

Verdict supports(const Device& device) {
  if (Verdict verdict = cuda_supports(device); !verdict) return verdict;
  // sm_90a code runs on 9.0 alone: the instruction is in no other family, newer or older.
  ANYFP8_NEED(device.cc == kHopper, "wgmma exists on compute capability 9.0 alone, this is {}",
              capability_text(device.cc));
  return Verdict::yes();
}

Verdict check(const LinearConfig& config, const Device& device) {
  const QuantKey& weight = config.scheme.weight;
  ANYFP8_NEED(config.k % 64 == 0, "k = {} is not a multiple of 64, the chunk it loads", config.k);
  ANYFP8_NEED(weight.group != kMx32 || weight.scale_dtype == DType::kE8M0,
              "scales of 1x32 groups are {}: only e8m0 ones multiply 16-bit fragments exactly",
              dtype_name(weight.scale_dtype));
  return check_fused_w8a16(config, device);
}

// Kernels of this kind were measured at 0.96x the time of cuBLAS bf16 at m = 4096 and 0.90x at 8192
// (H200, 8192 x 8192), and lead at every smaller m: no upper bound.
TokenRange tokens(const LinearConfig&, const Device&) { return {}; }

}  // namespace

constinit const Kernel cuda_wgmma_w8a16{
    .name = "cuda_wgmma_w8a16",
    .summary = "Hopper wgmma, weights dequantised in registers, 16-bit activations",
    .device = DeviceKind::kCuda,
    .layout = Layout::kK64Shuffled,
    .weight_dtypes = kFloat8Types,
    .weight_groups = kFusedGroups,
    .scale_dtypes = kScaleTypes,
    .in_dtypes = kHalfTypes,
    .out_dtypes = kHalfTypes,
    .activation = ActivationUse::kAsGiven,
    .batch_invariant = true,  // the split of k is a function of (n, k), never of m
    .supports = supports,
    .check = check,
    .tokens = tokens,
};

}  // namespace anyfp8
