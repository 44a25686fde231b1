#include "anyfp8/kernels/common/cuda_admission.h"
#include "anyfp8/kernels/common/tile_launch.h"
#include "anyfp8/kernels/cuda_dequant_w8a16/dequant_rules.h"
#include "anyfp8/kernels/kernel_list.h"

// Hopper: weights dequantised into the register operand of wgmma, so the product is computed transposed: 64
// weight rows x 16 to 128 tokens.
namespace anyfp8 {
namespace {

Verdict supports(const Device& device) {
  if (Verdict verdict = cuda_supports(device); !verdict) return verdict;
  // sm_90a code runs on 9.0 alone: the instruction is in no other family, newer or older.
  ANYFP8_NEED(device.cc == kHopper, "wgmma exists on compute capability 9.0 alone, this is {}",
              capability_text(device.cc));
  return Verdict::yes();
}

// H200, us, scales by row: this kernel : the neighbour in the list that would take over.
//                  m = 16 (mma.sync)   m = 512 (dequantising)   m = 1024        m = 2048
//   4096 x 4096      10.1 : 8.0          41 : 39                66 : 60         134 : 102
//   28672 x 4096     34.1 : 33.4         269 : 281              476 : 439       944 : 725
//   4096 x 14336     20.9 : 18.7         116 : 167              213 : 239       426 : 354
// Invariant layers have one kernel for every m. What the dequantising kernel refuses stays here: behind it is
// mma.sync alone.
TokenRange tokens(const LinearConfig& config, const Device& device) {
  if (config.policy == Policy::kInvariant) return {};
  if (!check_dequant_w8a16(config, device)) return {.begin = 17};
  return {.begin = 17, .end = config.scheme.weight.dtype == DType::kE5M2 ? kFirstOfE5M2 : 1025};
}

[[maybe_unused]] void prepare(const PlacedWeight& weight) {
  tile::prepare(tile::wgmma_card(*weight.device), weight.config);
}
[[maybe_unused]] void apply(const PlacedWeight& weight, const TensorView& x, const TensorView& y,
                            Scratch scratch, Stream stream) {
  tile::apply(tile::wgmma_card(*weight.device), weight, x, y, scratch, stream);
}

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
    .batch_invariant = true,  // then k is split by n and k alone
    .supports = supports,
    .check = check_fused_w8a16,
    .tokens = tokens,
    .prepare = ANYFP8_LAUNCH(prepare),
    .apply = ANYFP8_LAUNCH(apply),
};

}  // namespace anyfp8
