#include "cli/tune_layer.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/selection_layers.h"

// The search of `anyfp8 tune` on kernels whose times are invented.
namespace anyfp8::cli {
namespace {

const Kernel kDecode = made_up("decode"), kPrefill = made_up("prefill"), kSlow = made_up("slow");

// decode below 64 tokens, prefill from there on.
Selection built_in() {
  Selection selection;
  selection.ranges = {{{0, 64}, &kDecode}, {{64, kInfinity}, &kPrefill}};
  return selection;
}

using Times = std::function<double(const Kernel&, int64_t m)>;

struct Machine {
  Times us;
  std::map<std::pair<const Kernel*, int64_t>, int> calls = {};
  int disturbed_call = 0;  // the first, the second of each m
  TuneResult tune(std::vector<int64_t> tokens) {
    const std::vector<const Kernel*> kernels{&kDecode, &kPrefill, &kSlow};
    return tune_layer(built_in(), kernels, tokens, [this](std::span<const Kernel* const> asked, int64_t m) {
      KernelTimes times;
      for (const Kernel* kernel : asked) {
        ++calls[{kernel, m}];
        times.us.push_back(us(*kernel, m));
        times.disturbed = times.disturbed || calls[{kernel, m}] == disturbed_call;
      }
      return times;
    });
  }
};

const std::vector<int64_t> kPowers = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};

// decode takes 10 us and 1 us a token, prefill `flat` us: they meet at m = flat - 10.
Times meeting(double flat) {
  return [flat](const Kernel& kernel, int64_t m) {
    const auto tokens = static_cast<double>(m);
    return &kernel == &kDecode ? 10 + tokens : &kernel == &kPrefill ? flat : 1000 * tokens;
  };
}

TEST(TuneLayer, WhereTheBuiltInChoiceIsTheFastestNothingChanges) {
  Machine machine{meeting(74)};
  const TuneResult result = machine.tune(kPowers);
  EXPECT_TRUE(result.ranges.empty());
  EXPECT_GE(result.points.size(), kPowers.size());
}

TEST(TuneLayer, FindsABoundaryThatLiesHigherToASixteenth) {
  Machine machine{meeting(310), {}};  // decode is faster up to 300
  const TuneResult result = machine.tune(kPowers);
  ASSERT_EQ(result.ranges.size(), 1u);
  EXPECT_EQ(result.ranges[0].kernel, "decode");
  EXPECT_EQ(result.ranges[0].tokens.begin, 64) << "below it is the built-in choice";
  EXPECT_GT(result.ranges[0].tokens.end, 300 - 300 / 8);
  EXPECT_LE(result.ranges[0].tokens.end, 301);
}

TEST(TuneLayer, FindsABoundaryThatLiesLower) {
  Machine machine{meeting(30), {}};  // prefill is faster from 20 on
  const TuneResult result = machine.tune(kPowers);
  ASSERT_EQ(result.ranges.size(), 1u);
  EXPECT_EQ(result.ranges[0].kernel, "prefill");
  EXPECT_GE(result.ranges[0].tokens.begin, 20);
  EXPECT_LE(result.ranges[0].tokens.begin, 23);
  EXPECT_EQ(result.ranges[0].tokens.end, 64);
}

TEST(TuneLayer, AKernelThatWinsEverywhereTakesEveryM) {
  Machine machine{[](const Kernel& kernel, int64_t) { return &kernel == &kSlow ? 1.0 : 2.0; }};
  const TuneResult result = machine.tune(kPowers);
  ASSERT_EQ(result.ranges.size(), 1u);
  EXPECT_EQ(result.ranges[0], (TunedRange{TokenRange{}, "slow"}));
}

// Measured at 16 and 32 alone: what lies beyond the built-in range of the last one is not known.
TEST(TuneLayer, AChangeReachesNoFurtherThanTheBuiltInRangeItWasMeasuredIn) {
  Machine machine{[](const Kernel& kernel, int64_t) { return &kernel == &kSlow ? 1.0 : 2.0; }};
  const TuneResult result = machine.tune({16, 32});
  ASSERT_EQ(result.ranges.size(), 1u);
  EXPECT_EQ(result.ranges[0].tokens, (TokenRange{0, 64}));
}

TEST(TuneLayer, AGainOfThreePercentIsNone) {
  Machine machine{[](const Kernel& kernel, int64_t) { return &kernel == &kSlow ? 100.0 : 103.0; }};
  EXPECT_TRUE(machine.tune(kPowers).ranges.empty());
  machine.us = [](const Kernel& kernel, int64_t) { return &kernel == &kSlow ? 100.0 : 103.1; };
  EXPECT_FALSE(machine.tune(kPowers).ranges.empty());
}

TEST(TuneLayer, AGainThatDoesNotComeAgainIsNone) {
  Machine machine{{}};
  machine.us = [&](const Kernel& kernel, int64_t m) {
    const bool first_time = machine.calls[{&kernel, m}] == 1;
    return &kernel == &kSlow && first_time ? 1.0 : 2.0;
  };
  EXPECT_TRUE(machine.tune(kPowers).ranges.empty());
  EXPECT_EQ((machine.calls[{&kSlow, 16}]), 2);
}

TEST(TuneLayer, AGainOnADisturbedMachineIsNone) {
  for (const int call : {1, 2}) {
    Machine machine{[](const Kernel& kernel, int64_t) { return &kernel == &kSlow ? 1.0 : 2.0; }};
    machine.disturbed_call = call;
    EXPECT_TRUE(machine.tune(kPowers).ranges.empty());
  }
}

TEST(TuneLayer, AHopelessKernelIsNotMeasuredAtLargeM) {
  Machine machine{meeting(74)};
  machine.tune(kPowers);
  EXPECT_TRUE(machine.calls.contains({&kSlow, 2}));
  EXPECT_FALSE(machine.calls.contains({&kSlow, 4}));
  // Far behind at small m without growing, as one that decodes the whole weight first.
  machine = {[](const Kernel& kernel, int64_t m) {
    return &kernel == &kSlow ? 100.0 : 1.0 * static_cast<double>(m);
  }};
  const TuneResult result = machine.tune(kPowers);
  ASSERT_FALSE(result.ranges.empty());
  EXPECT_EQ(result.ranges.back().kernel, "slow");
}

TEST(TuneLayer, KernelsOfAnotherLayoutAreLeftOut) {
  const LinearConfig config = layer(weight_only(kPerRow));
  const Selection selection = select_kernel(device_from_name("cpu:avx2"), config, {.ignore_build = true});
  for (const Kernel* kernel : tunable_kernels(selection, config)) {
    EXPECT_EQ(kernel->layout, Layout::kPanel64) << kernel->name;
  }
  EXPECT_EQ(tunable_kernels(selection, config).front()->name, "cpu_avx2_w8a16");
}

}  // namespace
}  // namespace anyfp8::cli
