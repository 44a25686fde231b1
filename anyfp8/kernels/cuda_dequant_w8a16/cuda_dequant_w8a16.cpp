#include "anyfp8/kernels/cuda_dequant_w8a16/dequant_rules.h"
#include "anyfp8/kernels/kernel_list.h"

namespace anyfp8 {

void apply_cuda_dequant_w8a16(const PlacedWeight& placed, const TensorView& x, const TensorView& y,
                              Scratch scratch, Stream stream);  // cuda_dequant_w8a16.cu

// Prefill where a fused kernel trails cuBLAS: a slab of weight rows is dequantised into scratch memory and
// multiplied by cuBLASLt in 16 bit, slab after slab.
//
//   weight [n, k]   slab 0 | slab 1 | ...   ->  scratch [slab_rows, k] 16 bit  ->  y[:, slab]
//
// A slab's value is code * scale rounded once to 16 bit, times a power of two in fp16 (slab_power.h). The
// bias is added to the fp32 sum in y's dtype, the only one that cuBLASLt takes: exact where the checkpoint
// stores it so, else rounded as the weights are.
//
// 16-bit weights (lm_head) need no slab: cuBLASLt reads them where they are, at every m. What has no rounding
// but that of y shall keep to it: with a bias, seldom there, sums go to scratch in fp32 and the bias is added
// to these.
namespace {

constexpr DType kWeightTypes[] = {DType::kE4M3, DType::kE5M2, DType::kBF16, DType::kF16};
constexpr Group kGroups[] = {{kAnyExtent, kAnyExtent}};

// No m: on no card like this is the fused kernel known to trail by what the dequantisation costs.
constexpr TokenRange kNever{0, 0};

// Break-even m = 1.5 P / (B (r - 1)): P the rate of cuBLAS, B the bandwidth, r = time of the fused kernel
// over cuBLAS's at large m; the weight's dequantisation moves 3 bytes an element.
TokenRange from_e4m3(const Device& device) {
  // T4, whose fp16 with fp32 sums has the full rate: P = 65, B = 0.32; fused tiles have 32 tokens and no
  // cp.async, r = 2 gives 305. An estimate: not measured.
  if (device.cc == kTuring) return {.begin = 288};
  // A100: P = 255 TFLOP/s, B = 1.7 TB/s, measured r between 1.06 and 1.22: 3700 .. 1000, r = 1.10 gives 2250.
  if (device.cc == kAmpere) return {.begin = 2048};
  // H200 against mma.sync: equal at m = 230 (4096 x 4096) to 270 (28672 x 4096). wgmma stands before, up to
  // 1024.
  if (device.cc == kHopper) return {.begin = 256};
  // B200, B300 (tcgen05): mma.sync reaches at most half of cuBLAS; P = 2250, B = 8, r = 2 gives 422.
  // An estimate: not measured.
  if (device.cc.major == 10) return {.begin = 384};
  // Ada: mma.sync with fp32 sums has half the fp16 rate, fused is measured at 0.93 to 1.0 of cuBLAS's time.
  // GA10x, Orin and consumer Blackwell, not measured, are taken to be like it.
  return kNever;
}

TokenRange tokens(const LinearConfig& config, const Device& device) {
  const DType weight = config.scheme.weight.dtype;
  if (!is_float8(weight)) return {};
  TokenRange range = from_e4m3(device);
  if (weight == DType::kE5M2 && !range.empty()) range.begin = kFirstOfE5M2;
  return range;
}

size_t workspace_bytes(const LinearConfig& config, const Device&, int64_t) {
  if (!is_float8(config.scheme.weight.dtype)) return kCublasBytes + (config.bias ? kSlabBytes : 0);
  return kCublasBytes + static_cast<size_t>(slab_rows(config.n, config.k) * config.k * 2);
}

}  // namespace

constinit const Kernel cuda_dequant_w8a16{
    .name = "cuda_dequant_w8a16",
    .summary = "dequantises slabs into scratch for cuBLASLt, for large m; 16-bit weights directly",
    .device = DeviceKind::kCuda,
    .layout = Layout::kK64Shuffled,
    .weight_dtypes = kWeightTypes,
    .weight_groups = kGroups,
    .scale_dtypes = kScaleTypes,
    .in_dtypes = kHalfTypes,
    .out_dtypes = kHalfTypes,
    .activation = ActivationUse::kAsGiven,
    .batch_invariant = false,  // cuBLASLt picks its tiles by m
    .supports = cublas_supports,
    .check = check_dequant_w8a16,
    .tokens = tokens,
    .workspace_bytes = workspace_bytes,
    .apply = ANYFP8_LAUNCH(apply_cuda_dequant_w8a16),
};

}  // namespace anyfp8
