#include <gtest/gtest.h>

#include <algorithm>

#include "tests/selection_layers.h"

// The rules of the CUDA kernels, on machines without a card.
namespace anyfp8 {
namespace {

TEST(CublasLtW8A8, ScaleModesByCapability) {
  const auto says = [](const QuantScheme& scheme, int major, int minor) {
    return reason("cuda_cublaslt_w8a8", layer(scheme, Policy::kSpeed), cuda(major, minor));
  };
  for (const ScaleSource source : {ScaleSource::kStored, ScaleSource::kDynamic}) {
    const QuantScheme tensor = quantized(kPerTensor, kPerTensor, source);
    expect_in(says(tensor, 8, 6), "need compute capability 8.9, this is 8.6");
    EXPECT_EQ(says(tensor, 8, 9) + says(tensor, 9, 0) + says(tensor, 10, 3) + says(tensor, 12, 1), "");
    expect_in(says(tensor, 99, 9), "up to 12.1, this is 99.9");
  }
  for (const QuantScheme& scheme : {quantized(kPerRow, kPerRow), quantized(kBlock128, kGroup128)}) {
    EXPECT_EQ(says(scheme, 9, 0), "");
    expect_in(says(scheme, 8, 9), "9.0 alone, this is 8.9");
    expect_in(says(scheme, 10, 0), "9.0 alone, this is 10.0");
  }
  expect_in(says(quantized(kBlock128, kPerTensor), 9, 0), "no scale mode for weights by 128x128");
  expect_in(says(quantized(kPerRow, kPerRow, ScaleSource::kStored), 9, 0), "static activations by row");
  QuantScheme mx = quantized(kMx32, kMx32);
  expect_in(says(mx, 10, 0), "weight scales by 1x32 are f32, it takes e8m0");
  mx.weight.scale_dtype = DType::kE8M0;
  expect_in(says(mx, 10, 0), "activation scales by 1x32 are f32, it takes e8m0");
  mx.activation->scale_dtype = DType::kE8M0;
  EXPECT_EQ(says(mx, 10, 0) + says(mx, 10, 3) + says(mx, 12, 0), "");
  expect_in(says(mx, 9, 0), "exists on compute capability 10.0 and newer alone, this is 9.0");
  mx.activation = quantized(kPerRow, kPerRow).activation;
  expect_in(says(mx, 10, 0), "no scale mode for weights by 1x32 with dynamic activations by row");
  QuantScheme block = quantized(kBlock128, kGroup128);
  block.weight.scale_dtype = DType::kE8M0;
  expect_in(says(block, 9, 0), "weight scales by 128x128 are e8m0, it takes f32");
}

TEST(CublasLtW8A8, AlignmentAndDtypes) {
  const auto says = [](LinearConfig config) { return reason("cuda_cublaslt_w8a8", config, cuda(9, 0)); };
  const QuantScheme tensor = quantized(kPerTensor, kPerTensor);
  EXPECT_EQ(says(layer(tensor, Policy::kSpeed, 16, 16)), "");
  EXPECT_EQ(says(layer(tensor, Policy::kSpeed, 16, 131)), "") << "any k";
  EXPECT_EQ(says(layer(tensor, Policy::kSpeed, 24, 16)), "");
  expect_in(says(layer(tensor, Policy::kSpeed, 20, 16)), "n = 20 is not a multiple of 8");
  QuantScheme mixed = tensor;
  mixed.weight.dtype = DType::kE5M2;
  EXPECT_EQ(says(layer(mixed, Policy::kSpeed)), "");
  mixed.activation->dtype = DType::kE5M2;
  expect_in(says(layer(mixed, Policy::kSpeed)), "both e5m2");
}

TEST(CublasLtW8A8, TakesLargeMAlone) {
  const LinearConfig config = layer(quantized(kPerTensor, kPerTensor), Policy::kSpeed);
  EXPECT_EQ(plan(cuda(9, 0), config, 1), "cuda_mma_w8a16");
  EXPECT_EQ(plan(cuda(9, 0), config, 64), "cuda_wgmma_w8a16");
  EXPECT_EQ(plan(cuda(9, 0), config, 65), "cuda_cublaslt_w8a8");
  EXPECT_EQ(plan(cuda(8, 9), config, 1), "cuda_mma_w8a16");
  EXPECT_EQ(plan(cuda(8, 9), config, 4096), "cuda_cublaslt_w8a8");
  QuantScheme mx = quantized(kMx32, kMx32);
  mx.weight.scale_dtype = mx.activation->scale_dtype = DType::kE8M0;
  EXPECT_EQ(plan(cuda(10, 0), layer(mx, Policy::kSpeed), 255), "cuda_mma_w8a16");
  EXPECT_EQ(plan(cuda(10, 0), layer(mx, Policy::kSpeed), 256), "cuda_cublaslt_w8a8");
  EXPECT_EQ(plan(cuda(9, 0), layer(mx, Policy::kSpeed), 256), "cuda_wgmma_w8a16");
}

// Rows of codes are copied: a slab of 128 has to fit.
TEST(CublasLtW8A8, MxRowsTooLongForASlab) {
  QuantScheme mx = quantized(kMx32, kMx32);
  mx.weight.scale_dtype = mx.activation->scale_dtype = DType::kE8M0;
  const auto says = [&](int64_t n, int64_t k) {
    return reason("cuda_cublaslt_w8a8", layer(mx, Policy::kSpeed, n, k), cuda(10, 0));
  };
  EXPECT_EQ(says(256, 262144), "");
  expect_in(says(256, 262144 + 64), "128 rows of codes do not fit its 32 MiB of scratch");
}

TEST(WgmmaW8A16, IsHopperAlone) {
  for (const auto& device : {cuda(8, 9), cuda(10, 0), cuda(12, 0)}) {
    expect_in(reason("cuda_wgmma_w8a16", layer(weight_only(kPerRow)), device), "9.0 alone, this is");
  }
  EXPECT_EQ(reason("cuda_wgmma_w8a16", layer(weight_only(kPerRow)), cuda(9, 0)), "");
}

TEST(FusedW8A16, GroupsShapesAndDtypes) {
  for (const char* kernel : {"cuda_wgmma_w8a16", "cuda_mma_w8a16"}) {
    const auto says = [&](const LinearConfig& config) { return reason(kernel, config, cuda(9, 0)); };
    for (const Group group : {kPerTensor, kPerRow, kBlock128, kGroup128, Group{64, 128}, Group{0, 128}}) {
      EXPECT_EQ(says(layer(weight_only(group))), "") << group_text(group);
    }
    EXPECT_EQ(says(layer(weight_only(kMx32, DType::kE5M2, DType::kE8M0))), "");
    expect_in(says(layer(weight_only({128, 64}))), "by 128x64, it takes tensor, row, anyx128, 1x32");
    EXPECT_EQ(says(layer(weight_only(kPerRow), Policy::kAccuracy, 57, 128)), "") << "any n";
    LinearConfig mixed = layer(weight_only(kPerRow));
    mixed.out = DType::kF16;
    expect_in(says(mixed), "x is bf16 and y is f16");
  }
}

TEST(FusedW8A16, TakesAnyK) {
  for (const char* kernel : {"cuda_wgmma_w8a16", "cuda_mma_w8a16"}) {
    EXPECT_EQ(reason(kernel, layer(weight_only(kPerRow), Policy::kAccuracy, 57, 131), cuda(9, 0)), "");
  }
}

// Which would have to be added group by group: mma.sync is better at that.
TEST(WgmmaW8A16, LeavesScalesThatDoNotGoIntoTheCodesToMma) {
  const LinearConfig f32_scales = layer(weight_only(kMx32));
  expect_in(reason("cuda_wgmma_w8a16", f32_scales, cuda(9, 0)), "scales by 1x32 are f32, it takes e8m0");
  EXPECT_EQ(reason("cuda_mma_w8a16", f32_scales, cuda(9, 0)), "");
  LinearConfig fp16 = layer(weight_only(kMx32, DType::kE4M3, DType::kE8M0));
  EXPECT_EQ(reason("cuda_wgmma_w8a16", fp16, cuda(9, 0)), "");
  fp16.in = fp16.out = DType::kF16;
  expect_in(reason("cuda_wgmma_w8a16", fp16, cuda(9, 0)), "x is f16");
  EXPECT_EQ(reason("cuda_mma_w8a16", fp16, cuda(9, 0)), "");
}

TEST(WgmmaW8A16, LeavesFewTokensToMmaButForInvariantLayers) {
  const LinearConfig config = layer(weight_only(kPerRow));
  EXPECT_EQ(plan(cuda(9, 0), config, 16), "cuda_mma_w8a16");
  EXPECT_EQ(plan(cuda(9, 0), config, 17), "cuda_wgmma_w8a16");
  const LinearConfig invariant = layer(weight_only(kPerRow), Policy::kInvariant);
  EXPECT_EQ(plan(cuda(9, 0), invariant, 1), plan(cuda(9, 0), invariant, 4096));
}

TEST(WgmmaW8A16, KeepsLargeMThatNothingBehindItIsBetterAt) {
  const QuantScheme row = weight_only(kPerRow);
  const auto config = [&](int64_t n, int64_t k) { return layer(row, Policy::kAccuracy, n, k); };
  EXPECT_EQ(plan(cuda(9, 0), config(4096, 4096), 1 << 20), "cuda_wgmma_w8a16") << "one scale a row, e4m3";
  LinearConfig block = config(4096, 4096);
  block.scheme = weight_only(kBlock128);
  EXPECT_EQ(plan(cuda(9, 0), block, 2048), "cuda_wgmma_w8a16");
  EXPECT_EQ(plan(cuda(9, 0), block, 2049), "cuda_dequant_w8a16");
  for (const Group group : {kBlock128, kGroup128}) {  // which end at smaller tiles
    LinearConfig smaller = config(4096, 4096);
    smaller.scheme = weight_only(group);
    if (group == kBlock128) smaller.in = smaller.out = DType::kF16;
    EXPECT_EQ(plan(cuda(9, 0), smaller, 1024), "cuda_wgmma_w8a16");
    EXPECT_EQ(plan(cuda(9, 0), smaller, 1025), "cuda_dequant_w8a16");
  }
  block.n = 4100;
  EXPECT_EQ(plan(cuda(9, 0), block, 1 << 20), "cuda_wgmma_w8a16") << "n is no multiple of 8";
  LinearConfig mx = config(4096, 4096);
  mx.scheme = weight_only(kMx32, DType::kE4M3, DType::kE8M0);
  EXPECT_EQ(plan(cuda(9, 0), mx, 2048), "cuda_wgmma_w8a16");
  EXPECT_EQ(plan(cuda(9, 0), mx, 2049), "cuda_dequant_w8a16");
}

TEST(DequantW8A16, TakesE5M2FromFewerTokensWhereItTakesE4M3) {
  const LinearConfig bf16 = layer(weight_only(kPerRow, DType::kE5M2));
  for (const auto& device : {cuda(8, 0), cuda(9, 0), cuda(10, 0)}) {
    EXPECT_NE(plan(device, bf16, 128), "cuda_dequant_w8a16");
    EXPECT_EQ(plan(device, bf16, 129), "cuda_dequant_w8a16");
  }
  EXPECT_EQ(plan(cuda(8, 9), bf16, 8192), "cuda_mma_w8a16");
  LinearConfig fp16 = bf16;
  fp16.in = fp16.out = DType::kF16;
  EXPECT_EQ(plan(cuda(7, 5), fp16, 129), "cuda_dequant_w8a16");
}

TEST(Turing, RunsFp16AndSaysWhyNotBf16) {
  LinearConfig config = layer(weight_only(kPerRow));
  expect_in(reason("cuda_mma_w8a16", config, cuda(7, 5)), "bf16 tensor cores need compute capability 8.0");
  EXPECT_EQ(plan(cuda(7, 5), config, 1), "cuda_reference");
  config.in = config.out = DType::kF16;
  EXPECT_EQ(plan(cuda(7, 5), config, 1), "cuda_mma_w8a16");
  EXPECT_EQ(plan(cuda(7, 5), config, 8192), "cuda_dequant_w8a16");
}

TEST(NewerHardware, GetsThePortableKernel) {
  for (const auto& device : {cuda(12, 1), cuda(99, 9)}) {
    EXPECT_EQ(plan(device, layer(weight_only(kPerRow)), 1), "cuda_mma_w8a16");
    EXPECT_EQ(plan(device, layer(weight_only(kPerRow)), 8192), "cuda_mma_w8a16");
  }
}

TEST(DequantW8A16, ScratchIsBoundedAndGrowsNeverDown) {
  const Kernel& kernel = named("cuda_dequant_w8a16");
  for (const int64_t k : {8, 4096, 28672, 131072}) {
    const LinearConfig config = layer(weight_only(kBlock128), Policy::kAccuracy, 28672, k);
    ASSERT_EQ(reason(kernel.name, config, cuda(8, 0)), "");
    EXPECT_LE(kernel.workspace_bytes(config, cuda(8, 0), 1 << 20), size_t{64} << 20) << k;
    EXPECT_GE(kernel.workspace_bytes(config, cuda(8, 0), 1),
              static_cast<size_t>(std::min<int64_t>(28672, 128) * k * 2));
  }
  const LinearConfig wide = layer(weight_only(kPerRow), Policy::kAccuracy, 128, 131080);
  expect_in(reason(kernel.name, wide, cuda(8, 0)), "do not fit its 32 MiB");
}

TEST(Workspace, NeverShrinksWithM) {
  for (const Kernel* kernel : all_kernels()) {
    if (kernel->workspace_bytes == nullptr) continue;
    for (const Group group : {kPerTensor, kPerRow, kBlock128}) {
      const LinearConfig config = layer(weight_only(group), Policy::kSpeed, 4096, 4096);
      size_t previous = 0;
      for (int64_t m = 0; m < 200; ++m) {
        const size_t bytes = kernel->workspace_bytes(config, cuda(9, 0), m);
        EXPECT_GE(bytes, previous) << kernel->name << " m = " << m;
        previous = bytes;
      }
    }
  }
}

}  // namespace
}  // namespace anyfp8
