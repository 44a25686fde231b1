#include "anyfp8/kernels/common/cuda_admission.h"
#include "anyfp8/kernels/kernel_list.h"

namespace anyfp8 {

void apply_cuda_reference(const PlacedWeight& placed, const TensorView& x, const TensorView& y, Scratch,
                          Stream stream);  // cuda_reference.cu

// A warp for a few rows and tokens, plain loads: slow, and there for every scheme and shape the others
// refuse.
namespace {

constexpr DType kWeightTypes[] = {DType::kE4M3, DType::kE5M2, DType::kBF16, DType::kF16, DType::kF32};
constexpr Group kGroups[] = {{kAnyExtent, kAnyExtent}};
constexpr DType kFloatTypes[] = {DType::kBF16, DType::kF16, DType::kF32};

TokenRange tokens(const LinearConfig&, const Device&) { return {}; }

}  // namespace

constinit const Kernel cuda_reference{
    .name = "cuda_reference",
    .summary = "CUDA cores, fp32, every scheme and shape; slow",
    .device = DeviceKind::kCuda,
    .layout = Layout::kK64Shuffled,
    .weight_dtypes = kWeightTypes,
    .weight_groups = kGroups,
    .scale_dtypes = kScaleTypes,
    .in_dtypes = kFloatTypes,
    .out_dtypes = kFloatTypes,
    .activation = ActivationUse::kAsGiven,
    .batch_invariant = true,
    .supports = cuda_supports,
    .tokens = tokens,
    .apply = ANYFP8_LAUNCH(apply_cuda_reference),
};

}  // namespace anyfp8
