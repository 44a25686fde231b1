#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "tests/selection_layers.h"

namespace anyfp8 {
namespace {

TEST(KernelList, TablesAreCompleteAndNamedAsTheirFolders) {
  std::set<std::string_view> names;
  for (const Kernel* kernel : all_kernels()) {
    EXPECT_TRUE(names.insert(kernel->name).second) << kernel->name << " is there twice";
    EXPECT_TRUE(kernel->supports != nullptr && kernel->tokens != nullptr) << kernel->name;
    EXPECT_FALSE(kernel->summary.empty()) << kernel->name;
    EXPECT_FALSE(kernel->weight_dtypes.empty() || kernel->in_dtypes.empty() || kernel->out_dtypes.empty());
    const std::string file = std::string(kernel->name) + "/" + std::string(kernel->name) + ".cpp";
    EXPECT_TRUE(std::filesystem::exists(std::string(ANYFP8_SOURCE_DIR) + "/anyfp8/kernels/" + file)) << file;
  }
  EXPECT_EQ(find_kernel("no_such_kernel"), nullptr);
}

TEST(Select, RangesOfSeveralKernelsAreMergedInListOrder) {
  const Kernel prefill = made_up<256>("prefill"), decode = made_up<1, 16>("decode"), rest = made_up("rest");
  const Selection s = select_from({&prefill, &decode, &rest}, layer(weight_only(kPerRow)));
  ASSERT_EQ(s.ranges.size(), 4u);
  const std::pair<TokenRange, std::string> expected[] = {
      {{0, 1}, "rest"}, {{1, 16}, "decode"}, {{16, 256}, "rest"}, {{256, kInfinity}, "prefill"}};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(s.ranges[i].tokens, expected[i].first);
    EXPECT_EQ(s.ranges[i].kernel->name, expected[i].second);
  }
  EXPECT_TRUE(s.rejected.empty());
  EXPECT_EQ(chosen(s, 15), "decode");
  EXPECT_EQ(chosen(s, 16), "rest");
  EXPECT_EQ(chosen(s, kInfinity - 1), "prefill");
  expect_in(error_of(ErrorCode::kInvalidArgument, [&] { (void)s.kernel_for(-1); }), "m = -1");
}

TEST(Select, AdjacentRangesOfOneKernelAreOneRange) {
  const Kernel a = made_up("a"), b = made_up<8, 64>("b");
  const Selection s = select_from({&a, &b}, layer(weight_only(kPerRow)));
  ASSERT_EQ(s.ranges.size(), 1u);
  EXPECT_EQ(s.ranges[0].tokens, TokenRange{});
  EXPECT_EQ(rejection(s, "b"), "able: able for 8 <= m < 64, behind a");
}

TEST(Select, KernelsOfALayerReadOneLayout) {
  const Kernel shuffled = made_up<64>("shuffled", Layout::kK64Shuffled);
  const Kernel row_major = made_up("row_major", Layout::kRowMajor);
  // The shuffled one leaves m < 64 without a kernel, so the layer lies row-major, for all m.
  const Selection s = select_from({&shuffled, &row_major}, layer(weight_only(kPerRow)));
  ASSERT_EQ(s.ranges.size(), 1u);
  EXPECT_EQ(s.ranges[0].kernel, &row_major);
  expect_in(rejection(s, "shuffled"), "able: able, but reads k64_shuffled weights");
  // With a second shuffled kernel to fill the gap the first in the list decides.
  const Kernel other = made_up("other", Layout::kK64Shuffled);
  const Selection both = select_from({&shuffled, &row_major, &other}, layer(weight_only(kPerRow)));
  EXPECT_EQ(chosen(both, 1), "other");
  EXPECT_EQ(chosen(both, 64), "shuffled");
  // 16-bit weights have no layout to disagree on.
  const Selection wide = select_from({&shuffled, &row_major}, layer(weight_only(kPerRow, DType::kBF16)));
  EXPECT_EQ(chosen(wide, 1), "row_major");
  EXPECT_EQ(chosen(wide, 64), "shuffled");
}

TEST(Select, InvariantPolicyUsesOneKernelForEveryM) {
  const Kernel prefill = made_up<256>("prefill"), decode = made_up<1, 16>("decode"), rest = made_up("rest");
  const Selection s =
      select_from({&prefill, &decode, &rest}, layer(weight_only(kPerRow), Policy::kInvariant));
  ASSERT_EQ(s.ranges.size(), 1u);
  EXPECT_EQ(s.ranges[0].kernel, &decode);
  EXPECT_EQ(s.ranges[0].tokens, TokenRange{});
  expect_in(rejection(s, "rest"), "same bits at every m");
  Kernel varying = made_up("varying");
  varying.batch_invariant = false;
  const auto text = error_of(ErrorCode::kUnsupported, [&] {
    (void)select_from({&varying, &prefill}, layer(weight_only(kPerRow), Policy::kInvariant));
  });
  expect_in(text, "varying: a row's bits depend on m");
}

TEST(Select, AGapIsAnErrorThatNamesTheM) {
  const Kernel decode = made_up<0, 16>("decode"), prefill = made_up<64>("prefill");
  const auto text = error_of(ErrorCode::kUnsupported, [&] {
    (void)select_from({&decode, &prefill}, layer(weight_only(kPerRow), Policy::kSpeed, 48, 80));
  });
  expect_in(text, "no kernel for m = 16 of a layer of n = 48, k = 80, weights e4m3 row");
  expect_in(text, "bf16 in, bf16 out, policy speed on cpu (scalar):");
  expect_in(text, "\n  decode: able, but not meant for this m");
  expect_in(text, "\n  prefill: ");
}

TEST(Select, AnErrorListsEveryKernelWithItsReason) {
  const auto text = error_of(ErrorCode::kUnsupported, [] {
    (void)select_kernel(cuda(7, 0), layer(weight_only(kPerRow)), {.ignore_build = true});
  });
  expect_in(text, "on sm_70:");
  for (const Kernel* kernel : all_kernels()) expect_in(text, "\n  " + std::string(kernel->name) + ": ");
  expect_in(text, "CUDA 13 builds for compute capability 7.5 and newer, this is 7.0");
}

TEST(Force, UsesThatKernelForEveryMOrSaysWhyNot) {
  const SelectOptions force{.force = "cuda_dequant_w8a16", .ignore_build = true};
  const Selection s = select_kernel(cuda(8, 0), layer(weight_only(kPerRow)), force);
  ASSERT_EQ(s.ranges.size(), 1u);
  EXPECT_EQ(s.ranges[0].kernel->name, "cuda_dequant_w8a16");
  EXPECT_EQ(s.ranges[0].tokens, TokenRange{});
  EXPECT_EQ(rejection(s, "cuda_mma_w8a16"), "able: able, but cuda_dequant_w8a16 is forced");
  const auto text = error_of(ErrorCode::kUnsupported, [&] {
    (void)select_kernel(cuda(8, 0), layer(weight_only(kPerRow), Policy::kAccuracy, 57, 131), force);
  });
  expect_in(text, "cuda_dequant_w8a16 is forced and cannot run a layer of n = 57, k = 131");
  expect_in(text, "k = 131 is not a multiple of 8");
}

TEST(ForceAndDisable, UnknownNamesAndContradictionsAreErrors) {
  const LinearConfig config = layer(weight_only(kPerRow));
  const auto select = [&](const SelectOptions& options) { (void)select_kernel(Device{}, config, options); };
  auto text = error_of(ErrorCode::kNotFound, [&] { select({.force = "cpu_nowhere"}); });
  expect_in(text, "'cpu_nowhere' is to be forced");
  expect_in(text, "cpu_reference");
  expect_in(error_of(ErrorCode::kNotFound, [&] { select({.disable = {"cpu_nowhere"}}); }), "to be disabled");
  const SelectOptions both{.force = "cpu_reference", .disable = {"cpu_reference"}};
  expect_in(error_of(ErrorCode::kInvalidArgument, [&] { select(both); }), "both forced and disabled");
}

TEST(Disable, TakesAKernelOut) {
  const LinearConfig config = layer(weight_only(kPerRow));
  const SelectOptions options{.disable = {"cuda_wgmma_w8a16"}, .ignore_build = true};
  const Selection s = select_kernel(cuda(9, 0), config, options);
  EXPECT_EQ(chosen(s, 1), "cuda_mma_w8a16");
  EXPECT_EQ(chosen(s, 384), "cuda_dequant_w8a16");  // measured for mma.sync on H200
  expect_in(rejection(s, "cuda_wgmma_w8a16"), "disabled by ANYFP8_DISABLE");
}

TEST(Environment, BlanksAndEmptyNamesAreDropped) {
  setenv("ANYFP8_KERNEL", "  cpu_reference\n", 1);
  setenv("ANYFP8_DISABLE", " cuda_reference , ,cuda_mma_w8a16,", 1);
  const SelectOptions options = SelectOptions::from_environment();
  EXPECT_EQ(options.force, "cpu_reference");
  EXPECT_EQ(options.disable, (std::vector<std::string>{"cuda_reference", "cuda_mma_w8a16"}));
  const Selection s = init_fp8_linear_kernel(layer(weight_only(kPerRow)), Device{});
  EXPECT_EQ(chosen(s, 1), "cpu_reference");
  setenv("ANYFP8_KERNEL", " ", 1);
  setenv("ANYFP8_DISABLE", "", 1);
  EXPECT_TRUE(SelectOptions::from_environment().force.empty());
  EXPECT_TRUE(SelectOptions::from_environment().disable.empty());
  unsetenv("ANYFP8_KERNEL");
  unsetenv("ANYFP8_DISABLE");
  EXPECT_TRUE(SelectOptions::from_environment().force.empty());
}

TEST(Explain, IsOneAlignedLineForEachRangeAndEachKernelNotUsed) {
  const Kernel a = made_up<64>("a"), longer = made_up("longer_name"), none = made_up("none");
  const Selection s = select_from({&a, &longer, &none}, layer(weight_only(kPerRow)));
  EXPECT_EQ(s.explain(),
            "m < 64    longer_name  made up\n"
            "m >= 64   a            made up\n"
            "not used  none         able for every m, behind longer_name and a\n");
}

TEST(CanImplement, EachListAndEachPolicyRefusesInWords) {
  const Device device;
  Kernel kernel = made_up("k");
  const auto no = [&](const LinearConfig& config) { return can_implement(kernel, config, device).reason(); };
  const LinearConfig good = layer(weight_only(kPerRow));
  EXPECT_EQ(no(good), "");
  LinearConfig config = good;
  config.n = 0;
  EXPECT_EQ(no(config), "n = 0 and k = 4096: both must be at least 1");
  EXPECT_EQ(no(layer(weight_only(kPerRow, DType::kE5M2))), "weights are e5m2, it takes e4m3, bf16");
  EXPECT_EQ(no(layer(weight_only(kBlock128))), "weight scales are by 128x128, it takes row, tensor");
  EXPECT_EQ(no(layer(weight_only(kPerRow, DType::kE4M3, DType::kE8M0))),
            "weight scales are e8m0, it takes f32");
  expect_in(no(layer(weight_only({-1, 0}))), "-1x0: an extent cannot be negative");
  EXPECT_EQ(no(layer(weight_only(kBlock128, DType::kBF16))), "") << "16-bit weights have no scales";
  config = good;
  config.in = DType::kF32;
  EXPECT_EQ(no(config), "x is f32, it takes e4m3, bf16");
  config = good;
  config.out = DType::kF32;
  EXPECT_EQ(no(config), "y is f32, it writes e4m3, bf16");
  EXPECT_EQ(can_implement(kernel, good, cuda(9, 0)).reason(), "runs on CPUs");

  kernel.activation = ActivationUse::kQuantized;
  const QuantScheme w8a8 = quantized(kPerRow, kPerRow);
  EXPECT_EQ(no(layer(w8a8, Policy::kSpeed)), "");
  expect_in(no(layer(w8a8, Policy::kAccuracy)), "policy accuracy does not allow");
  expect_in(no(layer(w8a8, Policy::kInvariant)), "policy invariant does not allow");
  expect_in(no(layer(weight_only(kPerRow), Policy::kSpeed)), "weight-only");
  kernel.activation = ActivationUse::kAsGiven;
  EXPECT_EQ(no(layer(w8a8, Policy::kAccuracy)), "") << "a W8A16 kernel serves a W8A8 scheme";
  kernel.batch_invariant = false;
  expect_in(no(layer(weight_only(kPerRow), Policy::kInvariant)), "policy invariant");
}

TEST(Build, AKernelWithoutItsLaunchIsARefusalLikeAnyOther) {
  Kernel first = made_up("first");
  const Kernel second = made_up("second");
  first.apply = nullptr;
  const LinearConfig config = layer(weight_only(kPerRow));
  const Selection s = select_from({&first, &second}, config);
  EXPECT_EQ(chosen(s, 1), "second");
  expect_in(rejection(s, "first"), "not in this build");
  EXPECT_EQ(chosen(select_from({&first, &second}, config, {.ignore_build = true}), 1), "first");
  expect_in(error_of(ErrorCode::kUnsupported,
                     [&] {
                       (void)select_from({&first, &second}, config, {.force = "first"});
                     }),
            "not in this build");
}

// Two cards in one box: each layer is chosen for the device it is created on.
TEST(MixedGpus, EachDeviceHasItsOwnChoice) {
  const LinearConfig config = layer(quantized(kPerTensor, kPerTensor), Policy::kSpeed);
  EXPECT_NE(select_kernel(cuda(8, 9), config, {.ignore_build = true}).explain(),
            select_kernel(cuda(8, 6), config, {.ignore_build = true}).explain());
}

}  // namespace
}  // namespace anyfp8
