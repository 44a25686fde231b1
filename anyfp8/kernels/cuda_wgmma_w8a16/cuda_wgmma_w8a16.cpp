#include "anyfp8/kernels/common/cuda_admission.h"
#include "anyfp8/kernels/cuda_dequant_w8a16/dequant_rules.h"
#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_launch.h"
#include "anyfp8/kernels/kernel_list.h"

// Hopper: weights dequantised into the register operand of wgmma, so the product is computed transposed: 128
// or 256 weight rows x 16 to 128 tokens.
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
  if (Verdict verdict = check_fused_w8a16(config, device); !verdict) return verdict;
  const QuantKey& weight = config.scheme.weight;
  if (weight.group.cols != 32) return Verdict::yes();
  // Sums of each 32 k would have to be taken out of wgmma and multiplied, which was slower than mma.sync.
  ANYFP8_NEED(weight.scale_dtype == DType::kE8M0,
              "scales by {} are {}, it takes e8m0 ones of 32 k, which go into the codes",
              group_text(weight.group), dtype_name(weight.scale_dtype));
  ANYFP8_NEED(config.in == DType::kBF16,
              "x is {}, whose exponents are too few for scales by {} to go into the codes: it takes bf16",
              dtype_name(config.in), group_text(weight.group));
  return Verdict::yes();
}

// H200, us: this kernel : the neighbour in the list that would take over. Of an older run are the rows' with
// dequantising and all of m = 16.
//                        m = 16 (mma.sync)   m = 1024 (dequantising)   m = 2048     m = 4096
//   row    4096 x 4096     8.5 : 6.3           47 : 61                   95 : 105    188 : 192
//          28672 x 4096   32.5 : 32.1         322 : 432                 649 : 727   1310 : 1366
//          4096 x 14336   18.8 : 16.7         157 : 241                 307 : 358    622 : 652
//   128    4096 x 4096     9.1 : 6.7           55 : 60                  109 : 107    218 : 201
//   x 128  28672 x 4096   32.6 : 32.3         380 : 429                 757 : 750   1509 : 1410
//          4096 x 14336   19.1 : 17.6         179 : 243                 366 : 376    729 : 678
//   1      4096 x 4096                         61 : 63                  140 : 106
//   x 128  28672 x 4096                       421 : 443                 978 : 748
//          4096 x 14336                       204 : 248                 450 : 362
//   MX     4096 x 4096     9.8 : 7.7           56 : 65                  111 : 110    226 : 207
//          28672 x 4096   35.9 : 34.5         391 : 462                 773 : 776   1553 : 1465
//          4096 x 14336   22.2 : 18.3         182 : 258                 370 : 388    759 : 696
// Invariant layers have one kernel for every m. What the dequantising kernel refuses stays here: behind it is
// mma.sync alone.
TokenRange tokens(const LinearConfig& config, const Device& device) {
  if (config.policy == Policy::kInvariant) return {};
  if (!check_dequant_w8a16(config, device)) return {.begin = 17};
  const QuantKey& weight = config.scheme.weight;
  if (weight.dtype == DType::kE5M2) return {.begin = 17, .end = kFirstOfE5M2};
  if (weight.group.cols == 0) return {.begin = 17};
  // Of 128 k only those of blocks leave room for the largest tiles (wgmma_plan.h).
  const bool smaller_tiles =
      weight.group.cols == 128 && (config.in != DType::kBF16 || weight.group.rows % 128 != 0);
  return {.begin = 17, .end = smaller_tiles ? 1025 : 2049};
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
    .check = check,
    .tokens = tokens,
    .prepare = ANYFP8_LAUNCH(wgmma::prepare),
    .apply = ANYFP8_LAUNCH(wgmma::apply),
};

}  // namespace anyfp8
