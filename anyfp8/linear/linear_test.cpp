#include "anyfp8/linear/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "anyfp8/base/threads.h"
#include "anyfp8/scheme/merge.h"
#include "anyfp8/scheme/quantize.h"
#include "anyfp8/scheme/test_checkpoint.h"

namespace anyfp8 {
namespace {

using test::wave;

// What the tests read back: y = x · dequantize(w)ᵀ + bias in double, and the fp32 error bound of its sum.
struct Expected {
  double value, bound;
};
Expected expected(const Fp8Weight& w, const float* x, int64_t n) {
  const HostTensor row = dequantize(w, n, n + 1);
  double sum = w.bias.defined() ? double{to_f32(w.bias).as<float>()[n]} : 0.0, magnitude = std::fabs(sum);
  for (int64_t k = 0; k < w.k(); ++k) {
    const double product = double{row.as<float>()[k]} * x[k];
    sum += product;
    magnitude += std::fabs(product);
  }
  // One rounding per addition at worst, and a few for decode, scale and bias.
  return {sum, (static_cast<double>(w.k()) + 4) * 0x1p-24 * magnitude};
}

void expect_close(const Linear& linear, const Fp8Weight& w, int64_t m) {
  const HostTensor x = wave(m, w.k(), 0.37);
  std::vector<float> y(static_cast<size_t>(m * w.n()), NAN);
  Workspace workspace(linear.device());
  workspace.reserve(linear.workspace_bytes(m));
  linear.apply({const_cast<std::byte*>(x.data()), DType::kF32, m, w.k(), w.k()},
               {y.data(), DType::kF32, m, w.n(), w.n()}, workspace);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t n = 0; n < w.n(); ++n) {
      const Expected want = expected(w, x.as<float>() + i * w.k(), n);
      ASSERT_NEAR(y[static_cast<size_t>(i * w.n() + n)], want.value, want.bound)
          << "at [" << i << ", " << n << "]";
    }
  }
}

const LinearOptions kFloat{.in = DType::kF32, .out = DType::kF32};

TEST(Linear, ComputesEveryScheme) {
  for (QuantizeScheme scheme :
       {QuantizeScheme::kTensor, QuantizeScheme::kChannel, QuantizeScheme::kBlock, QuantizeScheme::kMxfp8}) {
    Fp8Weight w = quantize(wave(70, 160, 0.11), scheme);
    w.bias = test::filled(DType::kBF16, {70}, 0.5f);
    const Linear linear = Linear::create(cpu_device(), w, kFloat);
    for (int64_t m : {0, 1, 5, 33}) expect_close(linear, w, m);
  }
}

TEST(Linear, MergedLayersEqualTheirParts) {
  const Fp8Weight parts[] = {quantize(wave(192, 160, 0.11), QuantizeScheme::kBlock),
                             quantize(wave(96, 160, 31.0), QuantizeScheme::kBlock)};
  const Fp8Weight merged = merge(parts);
  expect_close(Linear::create(cpu_device(), merged, kFloat), merged, 3);
}

TEST(Linear, RefersToWhatItReadsRowMajor) {
  const Fp8Weight w = quantize(wave(64, 64, 0.1), QuantizeScheme::kChannel);
  const Linear linear = Linear::create(cpu_device(), w, kFloat, {.force = "cpu_reference"});
  EXPECT_EQ(linear.resident_bytes(), 64u * 64 + 64 * 4);
  EXPECT_TRUE(linear.dequantize(3, 4).as<float>()[5] == dequantize(w, 3, 4).as<float>()[5]);
}

// Every scheme, with ragged rows, columns and groups: what a layer holds is what it was given.
TEST(Linear, DequantizesExactlyWhateverTheLayout) {
  std::vector<Fp8Weight> weights;
  for (QuantizeScheme scheme :
       {QuantizeScheme::kTensor, QuantizeScheme::kChannel, QuantizeScheme::kBlock, QuantizeScheme::kMxfp8}) {
    weights.push_back(quantize(wave(203, 320, 0.11), scheme));
  }
  weights.push_back(quantize(wave(70, 161, 0.11), QuantizeScheme::kBlock));
  Fp8Weight odd;
  odd.scheme.weight = {.dtype = DType::kE5M2, .group = {3, 7}};
  odd.data = test::filled(DType::kE5M2, {65, 30}, 1.75f);
  odd.scale = wave(22, 5, 0.1);
  for (int64_t i = 0; i < odd.scale.size(); ++i) {
    reinterpret_cast<float*>(odd.scale.mutable_data())[i] = 0.5f + static_cast<float>(i);
  }
  weights.push_back(odd);
  for (const Fp8Weight& w : weights) {
    const Linear linear = Linear::create(cpu_device(), w, kFloat);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, w.n()}, {63, 65}, {5, 5}, {64, 65}}) {
      const HostTensor expected = dequantize(w, begin, end), got = linear.dequantize(begin, end);
      ASSERT_EQ(got.shape(), expected.shape());
      EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size_bytes()), 0)
          << scheme_text(w.scheme) << " rows " << begin << " to " << end;
    }
    EXPECT_THROW(linear.dequantize(0, w.n() + 1), Error);
    const Fp8Weight back = linear.weight();
    EXPECT_EQ(back.scheme, w.scheme);
    EXPECT_EQ(back.layout, Layout::kRowMajor);
    ASSERT_EQ(back.data.shape(), w.data.shape());
    EXPECT_EQ(std::memcmp(back.data.data(), w.data.data(), w.data.size_bytes()), 0) << scheme_text(w.scheme);
    ASSERT_EQ(back.scale.shape(), w.scale.shape());
    EXPECT_EQ(std::memcmp(back.scale.data(), w.scale.data(), w.scale.size_bytes()), 0)
        << scheme_text(w.scheme);
  }
}

// Files may lay tensors at any address.
HostTensor at_odd_address(const HostTensor& tensor) {
  auto bytes = std::make_shared<std::vector<std::byte>>(tensor.size_bytes() + 1);
  std::memcpy(bytes->data() + 1, tensor.data(), tensor.size_bytes());
  return HostTensor::borrow(tensor.dtype(), tensor.shape(), bytes->data() + 1, bytes);
}

TEST(Linear, ReadsTensorsAtAnyAddress) {
  std::vector<Fp8Weight> weights = {quantize(wave(70, 161, 0.11), QuantizeScheme::kBlock),
                                    quantize(wave(70, 161, 0.11), QuantizeScheme::kChannel)};
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    Fp8Weight wide;
    wide.scheme.weight = {.dtype = dtype};
    wide.data = test::filled(dtype, {70, 161}, 0.75f);
    weights.push_back(wide);
  }
  for (Fp8Weight& w : weights) {
    w.bias = at_odd_address(test::filled(DType::kF32, {70}, 0.5f));
    w.data = at_odd_address(w.data);
    if (w.quantized()) w.scale = at_odd_address(w.scale);
    for (const Kernel* kernel : all_kernels()) {
      if (kernel->apply == nullptr || !can_implement(*kernel, linear_config(w, kFloat), cpu_device()))
        continue;
      const Linear linear = Linear::create(cpu_device(), w, kFloat, {.force = std::string(kernel->name)});
      for (int64_t m : {1, 20}) expect_close(linear, w, m);
    }
  }
}

TEST(Linear, UpdateReplacesTheValuesAndNothingElse) {
  const Fp8Weight first = quantize(wave(40, 64, 0.1), QuantizeScheme::kChannel),
                  second = quantize(wave(40, 64, 5.0), QuantizeScheme::kChannel);
  Linear linear = Linear::create(cpu_device(), first, kFloat);
  linear.update_weights(second);
  expect_close(linear, second, 2);
  EXPECT_THROW(linear.update_weights(quantize(wave(40, 64, 5.0), QuantizeScheme::kTensor)), Error);
  EXPECT_THROW(linear.update_weights(quantize(wave(41, 64, 5.0), QuantizeScheme::kChannel)), Error);
  expect_close(linear, second, 2);
}

// Large enough that several threads have work, and tokens for both ways to multiply.
TEST(Linear, ThreadsDoNotChangeABit) {
  constexpr int64_t kN = 2100, kK = 604;
  const Fp8Weight w = quantize(wave(kN, kK, 0.1), QuantizeScheme::kBlock);
  const int before = num_threads();
  for (const DType in : {DType::kF32, DType::kBF16}) {
    for (const Policy policy : {Policy::kAccuracy, Policy::kInvariant}) {
      const Linear linear = Linear::create(cpu_device(), w, {.in = in, .out = DType::kF32, .policy = policy});
      for (const int64_t m : {13, 64}) {
        const HostTensor floats = wave(m, kK, 0.3);
        const HostTensor x = test::values(in, {m, kK}, {floats.as<float>(), floats.as<float>() + m * kK});
        std::vector<float> expected;
        for (const int threads : {1, 2, 5}) {
          set_num_threads(threads);
          std::vector<float> y(static_cast<size_t>(m * kN));
          Workspace workspace(linear.device());
          workspace.reserve(linear.workspace_bytes(m));
          linear.apply({const_cast<std::byte*>(x.data()), in, m, kK, kK}, {y.data(), DType::kF32, m, kN, kN},
                       workspace);
          if (threads == 1) expected = y;
          EXPECT_TRUE(y == expected) << dtype_name(in) << ", m = " << m << ", threads " << threads;
        }
      }
    }
  }
  set_num_threads(before);
}

TEST(LinearRefuses, AtCreation) {
  Fp8Weight nan = quantize(wave(4, 64, 0.1), QuantizeScheme::kChannel);
  nan.data.mutable_data()[65] = std::byte{0x7F};
  try {
    Linear::create(cpu_device(), nan, kFloat);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("[1, 1]"), std::string::npos) << error.what();
  }
  const Fp8Weight w = quantize(wave(4, 64, 0.1), QuantizeScheme::kChannel);
  EXPECT_THROW(Linear::create(device_from_name("sm_86"), w),
               Error);  // not in this build, or no such card here
  EXPECT_THROW(Linear::create(cpu_device(), w, kFloat, {.force = "cuda_mma_w8a16"}), Error);
  EXPECT_THROW(Linear::create(cpu_device(), w, kFloat, {.ignore_build = true}), Error);
}

TEST(LinearRefuses, HardwareThatIsNotHere) {
  const Fp8Weight w = quantize(wave(4, 64, 0.1), QuantizeScheme::kChannel);
  Device device = cpu_device();
  device.isa = {true, true, true, true, true, true, true};  // x86 and Arm at once
  try {
    Linear::create(device, w, kFloat);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("planned for, not run on"), std::string::npos) << error.what();
  }
}

TEST(LinearRefuses, WorkspacesThatCannotBe) {
  Workspace workspace(cpu_device());
  workspace.reserve(100);
  EXPECT_THROW(workspace.reserve(SIZE_MAX), std::bad_alloc);
  EXPECT_GE(workspace.bytes(), 100u);
  const Linear linear =
      Linear::create(cpu_device(), quantize(wave(4, 64, 0.1), QuantizeScheme::kChannel), kFloat);
  EXPECT_GE(linear.workspace_bytes(INT64_MAX), linear.workspace_bytes(INT64_MAX / 2));
}

TEST(LinearRefuses, AWorkspaceThatWasMovedAway) {
  Workspace first(cpu_device()), second(cpu_device());
  Workspace &a = first, &b = second;  // by which they are looked at afterwards, as a caller may
  first.reserve(100);
  const void* memory = a.scratch().data;
  second = std::move(first);
  EXPECT_EQ(b.scratch().data, memory);
  EXPECT_EQ(a.bytes(), 0u);
  EXPECT_EQ(a.scratch().data, nullptr);
  const Workspace third(std::move(second));
  EXPECT_EQ(third.scratch().data, memory);
  EXPECT_EQ(b.bytes(), 0u);
  EXPECT_EQ(b.scratch().data, nullptr);
  b.reserve(10);  // of use again
  EXPECT_GE(b.bytes(), 10u);
}

TEST(LinearRefuses, WrongMatricesAndSmallWorkspaces) {
  const Fp8Weight w = quantize(wave(4, 64, 0.1), QuantizeScheme::kChannel);
  const Linear linear = Linear::create(cpu_device(), w, {.in = DType::kBF16, .out = DType::kF32});
  std::vector<uint16_t> x(2 * 64);
  std::vector<float> y(2 * 4);
  Workspace workspace(linear.device());
  const TensorView good_x{x.data(), DType::kBF16, 2, 64, 64}, good_y{y.data(), DType::kF32, 2, 4, 4};
  if (linear.workspace_bytes(2) > 0) {
    EXPECT_THROW(linear.apply(good_x, good_y, workspace), Error);
  }
  workspace.reserve(linear.workspace_bytes(2));
  EXPECT_NO_THROW(linear.apply(good_x, good_y, workspace));
  TensorView bad = good_x;
  bad.cols = 63;
  EXPECT_THROW(linear.apply(bad, good_y, workspace), Error);
  bad = good_x;
  bad.dtype = DType::kF16;
  EXPECT_THROW(linear.apply(bad, good_y, workspace), Error);
  bad = good_x;
  bad.row_stride = 63;
  EXPECT_THROW(linear.apply(bad, good_y, workspace), Error);
  bad = good_y;
  bad.rows = 1;
  EXPECT_THROW(linear.apply(good_x, bad, workspace), Error);
}

}  // namespace
}  // namespace anyfp8
