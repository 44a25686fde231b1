#include "anyfp8/kernels/common/cuda_admission.h"
#include "anyfp8/kernels/common/tile_launch.h"
#include "anyfp8/kernels/kernel_list.h"

// mma.sync, weights as operand A: the portable fused kernel. Its PTX is in every build, so a card newer
// than the build gets a correct answer at some cost in speed.
namespace anyfp8 {
namespace {

// The kernels before it in the list have the crossovers; what they leave is served here.
TokenRange tokens(const LinearConfig&, const Device&) { return {}; }

size_t workspace_bytes(const LinearConfig&, const Device& device, int64_t) {
  return tile::most_scratch_bytes(tile::mma_card(device));
}

[[maybe_unused]] void prepare(const PlacedWeight& weight) {
  tile::prepare(tile::mma_card(*weight.device), weight.config);
}
[[maybe_unused]] void apply(const PlacedWeight& weight, const TensorView& x, const TensorView& y,
                            Scratch scratch, Stream stream) {
  tile::apply(tile::mma_card(*weight.device), weight, x, y, scratch, stream);
}

}  // namespace

constinit const Kernel cuda_mma_w8a16{
    .name = "cuda_mma_w8a16",
    .summary = "mma.sync, weights dequantised in registers, 16-bit activations; Turing and newer",
    .device = DeviceKind::kCuda,
    .layout = Layout::kK64Shuffled,
    .weight_dtypes = kFloat8Types,
    .weight_groups = kFusedGroups,
    .scale_dtypes = kScaleTypes,
    .in_dtypes = kHalfTypes,
    .out_dtypes = kHalfTypes,
    .activation = ActivationUse::kAsGiven,
    .batch_invariant = true,  // then k is split by n and k alone
    .supports = cuda_supports,
    .check = check_fused_w8a16,
    .tokens = tokens,
    .workspace_bytes = workspace_bytes,
    .prepare = ANYFP8_LAUNCH(prepare),
    .apply = ANYFP8_LAUNCH(apply),
};

}  // namespace anyfp8
