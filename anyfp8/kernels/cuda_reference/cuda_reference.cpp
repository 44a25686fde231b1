#include "anyfp8/kernels/common/cuda_admission.h"
#include "anyfp8/kernels/kernel_list.h"

// One thread an output element: slow, and there for every scheme and shape the others refuse.
namespace anyfp8 {
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
};

}  // namespace anyfp8
