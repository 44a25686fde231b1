#include <gtest/gtest.h>

#include <random>
#include <set>

#include "tests/selection_layers.h"

// The holes found in PR #32929 of vLLM, each with the reason why it cannot happen here.
namespace anyfp8 {
namespace {

// Block scales under another attribute name were taken for a scale per tensor. A kernel sees no names: the
// group is part of the weight, and a kernel that does not list it is refused rather than given one scale of
// many.
TEST(HolesOfPr32929, BlockScalesUnderAnotherName) {
  const Kernel no_blocks = made_up("no_blocks");
  for (const Group group : {kBlock128, Group{64, 128}, Group{128, 0}, Group{0, 128}, kMx32}) {
    const LinearConfig config = layer(weight_only(group));
    EXPECT_FALSE(can_implement(no_blocks, config, Device{})) << group_text(group);
    expect_in(error_of(ErrorCode::kUnsupported, [&] { (void)select_from({&no_blocks}, config); }),
              "weight scales are by " + group_text(group));
  }
}

// The capability argument was ignored for that of the current device. Two devices in one process, none of
// them present, get the answer of each.
TEST(HolesOfPr32929, CapabilityArgumentIsIgnored) {
  const LinearConfig config = layer(quantized(kPerTensor, kPerTensor), Policy::kSpeed);
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(plan(cuda(8, 6), config, 512), "cuda_mma_w8a16");
    EXPECT_EQ(plan(cuda(8, 9), config, 512), "cuda_cublaslt_w8a8");
    EXPECT_EQ(plan(cuda(9, 0), config, 64), "cuda_wgmma_w8a16");
  }
  // No kernel may ask for anything but its argument: a CPU with no instruction sets gets the reference.
  EXPECT_EQ(plan(Device{}, layer(weight_only(kPerRow)), 1), "cpu_reference");
}

struct RandomLayers {
  std::mt19937 random{42};
  int pick(int count) { return static_cast<int>(random() % static_cast<unsigned>(count)); }
  template <typename T, size_t N>
  T of(const T (&values)[N]) {
    return values[pick(N)];
  }
  Group group() {
    const Group groups[] = {kPerTensor, kPerRow,  kBlock128, kGroup128, kMx32,
                            {64, 128},  {128, 0}, {3, 5},    {-1, 7}};
    return of(groups);
  }
  LinearConfig config() {
    const DType types[] = {DType::kE4M3, DType::kE4M3, DType::kE5M2, DType::kBF16,
                           DType::kF16,  DType::kF32,  DType::kI8};
    const DType scales[] = {DType::kF32, DType::kE8M0};
    const DType io[] = {DType::kBF16, DType::kF16, DType::kF32, DType::kE4M3};
    const int64_t extents[] = {0, 1, 8, 16, 57, 64, 131, 4096, 28672, int64_t{1} << 40};
    const Policy policies[] = {Policy::kAccuracy, Policy::kSpeed, Policy::kInvariant};
    LinearConfig c =
        layer(weight_only(group(), of(types), of(scales)), of(policies), of(extents), of(extents));
    if (pick(2)) {
      c.scheme.activation = QuantKey{.dtype = of(types),
                                     .group = group(),
                                     .source = pick(2) ? ScaleSource::kStored : ScaleSource::kDynamic,
                                     .scale_dtype = of(scales)};
    }
    c.in = of(io);
    c.out = pick(3) ? c.in : of(io);
    c.bias = pick(2);
    return c;
  }
  Device device() {
    const std::vector<std::string> names = virtual_device_names();
    if (pick(8) == 0) return cuda(pick(100), pick(10));
    return device_from_name(names[static_cast<size_t>(pick(static_cast<int>(names.size())))]);
  }
};

// A null kernel was passed on. Whatever is asked: an Error with reasons, or a kernel that can for every m.
TEST(HolesOfPr32929, NullKernel) {
  RandomLayers layers;
  int selected = 0, refused = 0;
  for (int i = 0; i < 20000; ++i) {
    const LinearConfig config = layers.config();
    const Device device = layers.device();
    SelectOptions options{.ignore_build = layers.pick(2) == 0};
    const auto kernels = all_kernels();
    const std::string any(kernels[static_cast<size_t>(layers.pick(static_cast<int>(kernels.size())))]->name);
    if (layers.pick(4) == 0) options.force = any;
    if (layers.pick(4) == 0 && options.force.empty()) options.disable = {any};
    try {
      const Selection s = select_kernel(device, config, options);
      ++selected;
      int64_t next = 0;
      for (const RangeChoice& range : s.ranges) {
        ASSERT_NE(range.kernel, nullptr);
        ASSERT_EQ(range.tokens.begin, next);
        ASSERT_FALSE(range.tokens.empty());
        ASSERT_TRUE(can_implement(*range.kernel, config, device)) << range.kernel->name;
        ASSERT_TRUE(options.ignore_build || range.kernel->apply != nullptr) << range.kernel->name;
        ASSERT_TRUE(options.disable.empty() || range.kernel->name != any);
        ASSERT_TRUE(options.force.empty() || range.kernel->name == any);
        ASSERT_TRUE(!is_float8(config.scheme.weight.dtype) ||
                    range.kernel->layout == s.ranges[0].kernel->layout);
        next = range.tokens.end;
      }
      ASSERT_EQ(next, kInfinity);
      ASSERT_TRUE(config.policy != Policy::kInvariant || s.ranges.size() == 1);
      std::set<std::string_view> mentioned;
      for (const RangeChoice& range : s.ranges) mentioned.insert(range.kernel->name);
      for (const Rejection& r : s.rejected) {
        ASSERT_FALSE(r.reason.empty()) << r.kernel;
        ASSERT_TRUE(mentioned.insert(r.kernel).second) << r.kernel << " is both used and not";
      }
      ASSERT_EQ(mentioned.size(), kernels.size());
    } catch (const Error& error) {
      ++refused;
      ASSERT_EQ(error.code(), ErrorCode::kUnsupported) << error.what();
    }
  }
  EXPECT_GT(selected, 1000);  // the property is not proved on refusals alone
  EXPECT_GT(refused, 1000);
}

// A stub without a body returned nothing. A kernel without apply is never selected, on no hardware.
TEST(HolesOfPr32929, StubThatReturnsNothing) {
  for (const std::string& name : virtual_device_names()) {
    for (const Kernel* kernel : all_kernels()) {
      if (kernel->apply != nullptr) continue;
      for (const Policy policy : {Policy::kAccuracy, Policy::kSpeed, Policy::kInvariant}) {
        const LinearConfig config = layer(quantized(kPerTensor, kPerTensor), policy);
        const SelectOptions force{.force = std::string(kernel->name)};
        EXPECT_THROW((void)select_kernel(device_from_name(name), config, force), Error) << kernel->name;
        try {
          for (const RangeChoice& range : select_kernel(device_from_name(name), config).ranges) {
            EXPECT_NE(range.kernel, kernel) << name;
          }
        } catch (const Error&) {  // nothing in this build runs there: said, not stubbed
        }
      }
    }
  }
}

// Square weights were transposed, or not, by a look at their shape. The layout is named and shapes decide
// nothing about it: n == k is chosen for, and placed, as its neighbours are.
TEST(HolesOfPr32929, SquareWeights) {
  for (const std::string& name : virtual_device_names()) {
    const Device device = device_from_name(name);
    for (const Group group : {kPerTensor, kPerRow, kBlock128}) {
      for (const Kernel* kernel : all_kernels()) {
        const auto able = [&](int64_t n, int64_t k) {
          return static_cast<bool>(
              can_implement(*kernel, layer(weight_only(group), Policy::kAccuracy, n, k), device));
        };
        EXPECT_EQ(able(256, 256), able(256, 512)) << name << " " << kernel->name;
        EXPECT_EQ(able(256, 256), able(512, 256)) << name << " " << kernel->name;
        EXPECT_EQ(able(131, 131), able(262 + 1, 131)) << name << " " << kernel->name;
      }
    }
  }
}

}  // namespace
}  // namespace anyfp8
