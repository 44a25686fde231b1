#include "cli/verify_layer.h"

#include <gtest/gtest.h>

#include <random>

#include "anyfp8/base/element.h"
#include "anyfp8/kernels/common/round_activations.h"
#include "tests/selection_layers.h"

// What `anyfp8 verify` says of kernels that are known to be right or wrong; those that quantise activations
// exist on GPUs alone, so here they are made up.
namespace anyfp8::cli {
namespace {

constexpr DType kFloats[] = {DType::kF32, DType::kBF16};

// y = x · (code * scale)ᵀ with one scale a row, in double.
void multiply(const PlacedWeight& w, const float* x, const TensorView& y, int64_t k) {
  for (int64_t m = 0; m < y.rows; ++m) {
    for (int64_t n = 0; n < y.cols; ++n) {
      double sum = 0;
      for (int64_t c = 0; c < k; ++c) sum += x[m * k + c] * load_element(w.data, DType::kE4M3, n * k + c);
      store_element(y.data, y.dtype, m * y.row_stride + n,
                    static_cast<float>(sum * static_cast<const float*>(w.scale)[n]));
    }
  }
}

template <bool kQuantise, int kPercentOff = 0>
void apply(const PlacedWeight& w, const TensorView& x, const TensorView& y, Scratch, Stream) {
  std::vector<float> values(static_cast<size_t>(x.rows * x.cols));
  if (kQuantise) {
    round_activations(x, {*w.config.scheme.activation, {}, {}}, values.data());
  } else {
    for (int64_t i = 0; i < x.rows * x.cols; ++i)
      values[static_cast<size_t>(i)] = load_element(x.data, x.dtype, i);
  }
  multiply(w, values.data(), y, x.cols);
  if (kPercentOff == 0 || y.rows < 2) return;
  const float last = load_element(y.data, y.dtype, y.rows * y.cols - 1);
  store_element(y.data, y.dtype, y.rows * y.cols - 1, last * (1 + 0.01F * kPercentOff));
}

template <int64_t kBegin, int64_t kEnd>
Kernel kernel(std::string_view name,
              void (*apply)(const PlacedWeight&, const TensorView&, const TensorView&, Scratch, Stream)) {
  Kernel made = made_up<kBegin, kEnd>(name);
  made.in_dtypes = made.out_dtypes = kFloats;
  made.apply = apply;
  return made;
}

Kernel w8a8(Kernel made) {
  made.activation = ActivationUse::kQuantized;
  return made;
}

Fp8Weight weight(std::optional<Group> activation, int64_t n = 24, int64_t k = 200) {
  Fp8Weight w;
  w.scheme = activation ? quantized(kPerRow, *activation) : weight_only(kPerRow);
  w.data = HostTensor::allocate(DType::kE4M3, {n, k});
  w.scale = HostTensor::allocate(DType::kF32, {n, 1});
  std::mt19937 random(7);
  for (int64_t i = 0; i < n * k; ++i) w.data.mutable_data()[i] = static_cast<std::byte>(random() % 0x78);
  for (int64_t i = 0; i < n; ++i)
    store_element(w.scale.mutable_data(), DType::kF32, i, 0.01F * static_cast<float>(1 + i % 3));
  return w;
}

LayerCheck check(const Fp8Weight& w, std::initializer_list<const Kernel*> kernels) {
  const SelectOptions select{.kernels = std::span(kernels.begin(), kernels.size())};
  return verify_layer(w, Linear::create(cpu_device(), w, {.in = DType::kF32, .out = DType::kF32}, select));
}

TEST(VerifyLayer, AW8A8KernelIsHeldToXAsItQuantisesIt) {
  const Kernel decode = kernel<0, 300>("decode", apply<false>);
  const Kernel right = w8a8(kernel<300, kInfinity>("right", apply<true>));
  const Kernel unrounded = w8a8(kernel<300, kInfinity>("unrounded", apply<false>));
  for (const Group group : {kPerTensor, kPerRow, kGroup128}) {
    const LayerCheck good = check(weight(group), {&right, &decode});
    ASSERT_EQ(good.kernels.size(), 2u) << "no token count is in the range of `right` but its own first";
    for (const KernelCheck& k : good.kernels) EXPECT_LE(k.worst.share(), 1) << k.kernel->name;
    EXPECT_FALSE(good.emulated);
    for (const LayerAccuracy& accuracy : good.accuracy) {
      EXPECT_GT(accuracy.w8a16->db(), 120);
      EXPECT_GT(accuracy.w8a8->db(), 28);
      EXPECT_LT(accuracy.w8a8->db(), 60);
    }
    const LayerCheck bad = check(weight(group), {&unrounded, &decode});
    for (const KernelCheck& k : bad.kernels) EXPECT_EQ(k.worst.share() > 1, k.kernel == &unrounded);
  }
}

// The scale of the whole of x depends on how many tokens there are.
TEST(VerifyLayer, AScaleForTheWholeOfXIsThatOfTheTokensThereAre) {
  const Kernel right = w8a8(kernel<0, kInfinity>("right", apply<true>));
  const LayerCheck found = check(weight(kPerTensor), {&right});
  ASSERT_EQ(found.kernels.size(), 1u);
  EXPECT_LE(found.kernels[0].worst.share(), 1);
  EXPECT_FALSE(found.accuracy[0].w8a16) << "no kernel here left x as it is";
}

TEST(VerifyLayer, OneWrongElementIsFound) {
  const Kernel right = kernel<0, kInfinity>("right", apply<false>);
  EXPECT_LE(check(weight(kPerRow), {&right}).kernels[0].worst.share(), 1);
  const Kernel wrong = kernel<0, kInfinity>("wrong", apply<false, 1>);
  const Deviation worst = check(weight(kPerRow), {&wrong}).kernels[0].worst;
  EXPECT_GT(worst.share(), 1);
  EXPECT_EQ(worst.row, 23);
  EXPECT_EQ(worst.token, worst.m - 1);
}

TEST(VerifyLayer, W8A8IsEmulatedWhereTheCheckpointAsksForItAndNoKernelHasIt) {
  const Kernel w8a16 = kernel<0, kInfinity>("w8a16", apply<false>);
  const Kernel real = w8a8(kernel<0, kInfinity>("real", apply<true>));
  const LayerCheck emulated = check(weight(kPerRow), {&w8a16}), seen = check(weight(kPerRow), {&real});
  EXPECT_TRUE(emulated.emulated);
  for (size_t kind = 0; kind < 2; ++kind)
    EXPECT_NEAR(emulated.accuracy[kind].w8a8->db(), seen.accuracy[kind].w8a8->db(), 0.5);
  EXPECT_FALSE(check(weight({}), {&w8a16}).accuracy[0].w8a8) << "weight-only";
}

}  // namespace
}  // namespace anyfp8::cli
