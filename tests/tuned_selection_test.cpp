#include <gtest/gtest.h>

#include "tests/selection_layers.h"

// Selection with measured crossovers, and who gets W8A8.
namespace anyfp8 {
namespace {

const Kernel kDecode = made_up<0, 64>("decode"), kRest = made_up("rest"), kNever = made_up<0, 0>("never");

std::shared_ptr<const TuneTable> table_for(const LinearConfig& config, std::vector<TunedRange> ranges) {
  auto table = std::make_shared<TuneTable>();
  table->put({*tune_key(Device{}, config), std::move(ranges)});
  return table;
}

Selection select_tuned(const LinearConfig& config, std::vector<TunedRange> ranges,
                       SelectOptions options = {}) {
  options.tuned = table_for(config, std::move(ranges));
  return select_from({&kDecode, &kRest, &kNever}, config, options);
}

TEST(TunedSelection, ARangeOfTheTableTakesThePlaceOfTheBuiltInOnes) {
  const LinearConfig config = layer(weight_only(kPerRow));
  const Selection s = select_tuned(config, {{{32, 100}, "never"}});
  ASSERT_EQ(s.ranges.size(), 3u);
  EXPECT_EQ(s.ranges[0].tokens, (TokenRange{0, 32}));
  EXPECT_EQ(s.ranges[0].kernel, &kDecode);
  EXPECT_FALSE(s.ranges[0].tuned);
  EXPECT_EQ(s.ranges[1].tokens, (TokenRange{32, 100}));
  EXPECT_EQ(s.ranges[1].kernel, &kNever);
  EXPECT_TRUE(s.ranges[1].tuned);
  EXPECT_EQ(s.ranges[2].tokens, (TokenRange{100, kInfinity}));
  EXPECT_EQ(s.ranges[2].kernel, &kRest);
  expect_in(s.explain(), "by tune: made up");
  EXPECT_EQ(rejection(s, "never"), "not rejected");
}

TEST(TunedSelection, ItMayTakeEveryM) {
  const Selection s = select_tuned(layer(weight_only(kPerRow)), {{TokenRange{}, "rest"}});
  ASSERT_EQ(s.ranges.size(), 1u);
  EXPECT_TRUE(s.ranges[0].tuned);
  expect_in(rejection(s, "decode"), "behind rest");
}

// The table is a wish: what may run is decided as without it, and what cannot be had is said.
TEST(TunedSelection, AKernelThatCannotIsLeftWithTheReason) {
  const LinearConfig config = layer(weight_only(kPerRow));
  const auto unused = [&](const Kernel& kernel, const char* reason, SelectOptions options = {}) {
    options.tuned = table_for(config, {{{8, 16}, std::string(kernel.name)}});
    const Kernel* kernels[] = {&kDecode, &kRest, &kernel};
    options.kernels = kernels;
    const Selection s = select_kernel(Device{}, config, options);
    EXPECT_EQ(chosen(s, 8), "decode");
    EXPECT_FALSE(s.ranges[0].tuned);
    ASSERT_EQ(s.unused_tuning.size(), 1u);
    expect_in(s.unused_tuning[0], std::string(kernel.name) + " for 8 <= m < 16: ");
    expect_in(s.unused_tuning[0], reason);
    expect_in(s.explain(), s.unused_tuning[0]);
  };
  Kernel other = made_up<0, 0>("other", Layout::kK64Shuffled);
  unused(other, "reads k64_shuffled weights");
  other = made_up<0, 0>("other");
  unused(other, "disabled", {.disable = {"other"}});
  other.supports = [](const Device&) { return Verdict::no("needs another machine"); };
  unused(other, "needs another machine");
  other = made_up<0, 0>("other");
  other.apply = nullptr;
  unused(other, "not in this build");
  const Selection gone = select_tuned(config, {{{8, 16}, "of_another_version"}});
  ASSERT_EQ(gone.unused_tuning.size(), 1u);
  expect_in(gone.unused_tuning[0], "there is no such kernel");
  for (const TokenRange tokens : {TokenRange{16, 16}, TokenRange{-4, 8}}) {
    const Selection none = select_tuned(config, {{tokens, "never"}});
    EXPECT_EQ(chosen(none, 0), "decode");
    ASSERT_EQ(none.unused_tuning.size(), 1u);
    expect_in(none.unused_tuning[0], "no range");
  }
}

TEST(TunedSelection, AForcedKernelIsForced) {
  const Selection s = select_tuned(layer(weight_only(kPerRow)), {{{8, 16}, "never"}}, {.force = "rest"});
  ASSERT_EQ(s.ranges.size(), 1u);
  EXPECT_EQ(s.ranges[0].kernel, &kRest);
}

TEST(TunedSelection, InvariantLayersAreNotTuned) {
  const LinearConfig accurate = layer(weight_only(kPerRow));
  LinearConfig invariant = accurate;
  invariant.policy = Policy::kInvariant;
  EXPECT_FALSE(tune_key(Device{}, invariant));
  SelectOptions options{.tuned = table_for(accurate, {{TokenRange{}, "never"}})};
  EXPECT_EQ(select_from({&kDecode, &kRest, &kNever}, invariant, options).ranges[0].kernel, &kDecode);
}

TEST(TunedSelection, AnEntryHoldsForItsKeyAlone) {
  const LinearConfig config = layer(quantized(kPerRow, kPerRow), Policy::kSpeed);
  const TuneKey key = *tune_key(cuda(9, 0), config);
  EXPECT_EQ(key, *tune_key(cuda(9, 0), config));
  const auto differs = [&](auto change) {
    LinearConfig other = config;
    change(other);
    return *tune_key(cuda(9, 0), other) != key;
  };
  EXPECT_TRUE(differs([](LinearConfig& c) { c.n = 8; }));
  EXPECT_TRUE(differs([](LinearConfig& c) { c.k = 8; }));
  EXPECT_TRUE(differs([](LinearConfig& c) { c.in = DType::kF16; }));
  EXPECT_TRUE(differs([](LinearConfig& c) { c.scheme.weight.group = kPerTensor; }));
  EXPECT_TRUE(differs([](LinearConfig& c) { c.policy = Policy::kAccuracy; })) << "W8A8 may not run there";
  EXPECT_FALSE(differs([](LinearConfig& c) { c.bias = true; }));
  EXPECT_FALSE(differs([](LinearConfig& c) { c.out = DType::kF16; }));
  EXPECT_NE(*tune_key(cuda(8, 9), config), key);
  Device fewer = cuda(9, 0);
  fewer.sm_count = 66;
  EXPECT_NE(*tune_key(fewer, config), key);
  // Where activations stay as they are it does not matter what the checkpoint would ask for.
  LinearConfig accurate = config, weights_only = config;
  accurate.policy = Policy::kAccuracy;
  weights_only.scheme.activation.reset();
  EXPECT_EQ(*tune_key(cuda(9, 0), accurate), *tune_key(cuda(9, 0), weights_only));
}

TEST(DefaultPolicy, IsSpeedWhereTheCheckpointAsksForQuantisedActivations) {
  EXPECT_EQ(default_policy(weight_only(kPerRow)), Policy::kAccuracy);
  EXPECT_EQ(default_policy(quantized(kPerRow, kPerRow)), Policy::kSpeed);
  EXPECT_EQ(default_policy(weight_only(kPerTensor, DType::kBF16)), Policy::kAccuracy);
}

// Not by the built-in ranges, not by force, not by a table.
TEST(W8A8, IsNeverForACheckpointWithoutQuantisedActivations) {
  for (const std::string& name : virtual_device_names()) {
    const Device device = device_from_name(name);
    for (const Group group : {kPerTensor, kPerRow, kBlock128, kMx32}) {
      for (const Policy policy : {Policy::kAccuracy, Policy::kSpeed, Policy::kInvariant}) {
        const LinearConfig config = layer(weight_only(group), policy);
        for (const Kernel* kernel : all_kernels()) {
          if (kernel->activation != ActivationUse::kQuantized) continue;
          EXPECT_FALSE(can_implement(*kernel, config, device)) << name;
          EXPECT_THROW(
              (void)select_kernel(device, config, {.force = std::string(kernel->name), .ignore_build = true}),
              Error);
        }
      }
    }
  }
  const LinearConfig config = layer(weight_only(kPerTensor), Policy::kSpeed);
  auto table = std::make_shared<TuneTable>();
  table->put({*tune_key(cuda(9, 0), config), {{TokenRange{}, "cuda_cublaslt_w8a8"}}});
  const Selection s = select_kernel(cuda(9, 0), config, {.ignore_build = true, .tuned = table});
  for (const RangeChoice& range : s.ranges) EXPECT_NE(range.kernel->name, "cuda_cublaslt_w8a8");
  ASSERT_EQ(s.unused_tuning.size(), 1u);
  expect_in(s.unused_tuning[0], "weight-only");
}

// And where it is asked for, only policy speed gives it, from the measured m on.
TEST(W8A8, IsThereForPolicySpeedAtLargeM) {
  const LinearConfig config = layer(quantized(kPerTensor, kPerTensor), Policy::kSpeed);
  EXPECT_EQ(plan(cuda(9, 0), config, 4096), "cuda_cublaslt_w8a8");
  EXPECT_EQ(plan(cuda(9, 0), config, 1), "cuda_mma_w8a16");
  for (const Policy policy : {Policy::kAccuracy, Policy::kInvariant}) {
    LinearConfig other = config;
    other.policy = policy;
    EXPECT_NE(plan(cuda(9, 0), other, 4096), "cuda_cublaslt_w8a8");
  }
}

}  // namespace
}  // namespace anyfp8
