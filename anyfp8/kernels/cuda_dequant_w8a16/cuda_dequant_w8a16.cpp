#include "anyfp8/kernels/common/cuda_admission.h"
#include "anyfp8/kernels/cuda_dequant_w8a16/slab_split.h"
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

constexpr int64_t kMostWithBias = int64_t{kCublasBytes} / 4;  // leaves cuBLASLt half of its part

// No m: the fused kernel is never behind.
constexpr TokenRange kNever{0, 0};

Verdict check(const LinearConfig& config, const Device& device) {
  const DType weight = config.scheme.weight.dtype;
  if (Verdict verdict = tensor_core_takes(config.in, device); !verdict) return verdict;
  ANYFP8_NEED(config.in == config.out, "x is {} and y is {}: cuBLASLt writes the dtype it reads here",
              dtype_name(config.in), dtype_name(config.out));
  ANYFP8_NEED(is_float8(weight) || weight == config.in, "weights are {} and x is {}: both must be the same",
              dtype_name(weight), dtype_name(config.in));
  // Rows of x, y and the slab start at multiples of 16 bytes, which cuBLASLt's fast kernels need.
  ANYFP8_NEED(config.k % 8 == 0, "k = {} is not a multiple of 8: 16-bit rows of x need 16-byte alignment",
              config.k);
  ANYFP8_NEED(config.n % 8 == 0, "n = {} is not a multiple of 8: 16-bit rows of y need 16-byte alignment",
              config.n);
  ANYFP8_NEED(!is_float8(weight) || slab_rows(config.n, config.k) > 0,
              "k = {}: {} dequantised rows do not fit its {} MiB of scratch", config.k, kSlabGranule,
              kSlabBytes >> 20);
  ANYFP8_NEED(!is_float8(weight) || !config.bias || config.n <= kMostWithBias,
              "n = {}: a bias has room for {} outputs in its scratch", config.n, kMostWithBias);
  return Verdict::yes();
}

// Break-even m = 1.5 P / (B (r - 1)): P the rate of cuBLAS, B the bandwidth, r = time of the fused kernel
// over cuBLAS's at large m; the weight's dequantisation moves 3 bytes an element.
TokenRange tokens(const LinearConfig& config, const Device& device) {
  if (!is_float8(config.scheme.weight.dtype)) return {};
  // A100: P = 255 TFLOP/s, B = 1.7 TB/s, measured r between 1.06 and 1.22: 3700 .. 1000, r = 1.10 gives 2250.
  if (device.cc == kAmpere) return {.begin = 2048};
  // H200 against mma.sync: equal at m = 230 (4096 x 4096) to 270 (28672 x 4096). wgmma stands before, up to
  // 1024.
  if (device.cc == kHopper) return {.begin = 256};
  // B200, B300 (tcgen05): mma.sync reaches at most half of cuBLAS; P = 2250, B = 8, r = 2 gives 422.
  // An estimate: not measured.
  if (device.cc.major == 10) return {.begin = 384};
  // Ada: mma.sync with fp32 sums has half the fp16 rate, fused is measured at 0.93 to 1.0 of cuBLAS's time.
  // GA10x and consumer Blackwell have the same half rate. Turing and Orin: not measured.
  return kNever;
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
    .check = check,
    .tokens = tokens,
    .workspace_bytes = workspace_bytes,
    .apply = ANYFP8_LAUNCH(apply_cuda_dequant_w8a16),
};

}  // namespace anyfp8
