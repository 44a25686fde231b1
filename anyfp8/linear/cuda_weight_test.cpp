// Weights in the memory of a CUDA device. Skips, out loud, where there is none.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "anyfp8/device/cuda_devices.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/linear/weight_store.h"
#include "anyfp8/linear/workspace.h"
#include "anyfp8/scheme/quantize.h"
#include "anyfp8/scheme/test_checkpoint.h"

namespace anyfp8 {
namespace {

using test::wave;

// Every scheme, rows of any length, a bias of each type, and 16- and 32-bit weights.
std::vector<Fp8Weight> weights_of_every_kind(double step) {
  std::vector<Fp8Weight> weights;
  for (const int64_t k : {1, 63, 64, 65, 161, 320}) {
    for (const QuantizeScheme scheme :
         {QuantizeScheme::kTensor, QuantizeScheme::kChannel, QuantizeScheme::kBlock}) {
      weights.push_back(quantize(wave(133, k, step), scheme));
    }
  }
  weights.push_back(quantize(wave(70, 96, step), QuantizeScheme::kMxfp8));
  weights.back().bias = test::filled(DType::kBF16, {70}, 0.5f);
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    Fp8Weight wide;
    wide.scheme.weight = {.dtype = dtype};
    const HostTensor numbers = wave(70, 33, step);
    wide.data = test::values(dtype, {70, 33}, {numbers.as<float>(), numbers.as<float>() + 70 * 33});
    wide.bias = test::filled(dtype, {70}, 0.25f);
    weights.push_back(wide);
  }
  weights.front().input_scale = 0.125f;
  return weights;
}

class CudaWeight : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_devices().devices.empty()) GTEST_SKIP() << cuda_devices().absence;
  }
  const Device& card() const {
    return cuda_devices().devices.back();
  }  // not the current one, where there are two

  std::unique_ptr<WeightStore> place(const Fp8Weight& weight) const {
    return place_weight(card(), weight, Layout::kK64Shuffled, "test", {});
  }
  std::vector<uint8_t> read(const void* data, size_t bytes) const {
    const DeviceGuard guard(card());
    std::vector<uint8_t> result(bytes);
    copy_to_host(result.data(), data, bytes, {});
    return result;
  }
};

void expect_dequantizes(const WeightStore& store, const Fp8Weight& w) {
  const int64_t last = w.n();
  for (const auto& [begin, end] :
       {std::pair<int64_t, int64_t>{0, last}, {63, 65}, {5, 5}, {last - 1, last}}) {
    const HostTensor expected = dequantize(w, begin, end), got = store.dequantize(begin, end);
    ASSERT_EQ(got.shape(), expected.shape());
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size_bytes()), 0)
        << scheme_text(w.scheme) << " " << shape_text(w.data.shape()) << " rows " << begin << " to " << end;
  }
  EXPECT_THROW(store.dequantize(0, last + 1), Error);
}

void expect_gives_back(const WeightStore& store, const Fp8Weight& w) {
  const auto equal = [](const HostTensor& a, const HostTensor& b) {
    return a.defined() == b.defined() &&
           (!a.defined() || (a.dtype() == b.dtype() && a.shape() == b.shape() &&
                             std::memcmp(a.data(), b.data(), a.size_bytes()) == 0));
  };
  const Fp8Weight back = store.stored();
  EXPECT_EQ(back.scheme, w.scheme);
  EXPECT_TRUE(equal(back.data, w.data)) << scheme_text(w.scheme) << " " << shape_text(w.data.shape());
  EXPECT_TRUE(equal(back.scale, w.scale)) << scheme_text(w.scheme) << " " << shape_text(w.data.shape());
  EXPECT_TRUE(equal(back.bias, w.bias.defined() ? to_f32(w.bias) : HostTensor()));
  EXPECT_EQ(back.input_scale, w.input_scale);
}

TEST_F(CudaWeight, DequantizesExactlyWhateverItsShape) {
  for (const Fp8Weight& w : weights_of_every_kind(0.11)) expect_dequantizes(*place(w), w);
}

TEST_F(CudaWeight, GivesBackWhatItWasGiven) {
  for (const Fp8Weight& w : weights_of_every_kind(0.11)) expect_gives_back(*place(w), w);
}

TEST_F(CudaWeight, LiesAsKernelsReadIt) {
  for (const Fp8Weight& w : weights_of_every_kind(0.11)) {
    SCOPED_TRACE(scheme_text(w.scheme) + " " + shape_text(w.data.shape()));
    const std::unique_ptr<WeightStore> store = place(w);
    const PlacedWeight placed = store->view({.n = w.n(), .k = w.k(), .scheme = w.scheme});
    const size_t row = static_cast<size_t>(w.k()) * dtype_bytes(w.data.dtype());
    const size_t pitch = w.quantized() ? static_cast<size_t>(shuffled_pitch(w.k())) : row;
    EXPECT_EQ(placed.layout, w.quantized() ? Layout::kK64Shuffled : Layout::kRowMajor);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(placed.data) % 256, 0u);

    std::vector<uint8_t> expected(static_cast<size_t>(w.n()) * pitch);
    for (size_t n = 0; n < static_cast<size_t>(w.n()); ++n) {
      std::memcpy(&expected[n * pitch], w.data.data() + n * row, row);
    }
    for (size_t i = 0; w.quantized() && i < expected.size(); i += kShuffleChunk) {
      uint8_t chunk[kShuffleChunk];
      shuffle_chunk(&expected[i], chunk);
      std::memcpy(&expected[i], chunk, sizeof(chunk));
    }
    EXPECT_TRUE(read(placed.data, expected.size()) == expected);
    size_t resident = expected.size();

    ASSERT_EQ(placed.scale != nullptr, w.quantized());
    if (w.quantized()) {
      EXPECT_EQ(placed.grid, scale_grid(w.scheme.weight.group, w.n(), w.k()));
      EXPECT_EQ(
          std::memcmp(read(placed.scale, w.scale.size_bytes()).data(), w.scale.data(), w.scale.size_bytes()),
          0);
      float max_scale, largest = 0;
      std::memcpy(&max_scale, read(placed.max_scale, sizeof(float)).data(), sizeof(float));
      const HostTensor scales = to_f32(w.scale);
      for (size_t i = 0; i < scales.size_bytes() / sizeof(float); ++i) {
        largest = std::max(largest, scales.as<float>()[i]);
      }
      EXPECT_EQ(max_scale, largest);
      resident += w.scale.size_bytes() + sizeof(float);
    }
    EXPECT_EQ(placed.max_scale != nullptr, w.quantized());
    ASSERT_EQ(placed.bias != nullptr, w.bias.defined());
    if (w.bias.defined()) {
      const HostTensor bias = to_f32(w.bias);
      EXPECT_EQ(std::memcmp(read(placed.bias, bias.size_bytes()).data(), bias.data(), bias.size_bytes()), 0);
      resident += bias.size_bytes();
    }
    ASSERT_EQ(placed.input_scale != nullptr, w.input_scale.has_value());
    if (w.input_scale) {
      float input_scale;
      std::memcpy(&input_scale, read(placed.input_scale, sizeof(float)).data(), sizeof(float));
      EXPECT_EQ(input_scale, *w.input_scale);
      resident += 4;
    }
    EXPECT_EQ(store->resident_bytes(), resident);
  }
}

TEST_F(CudaWeight, ReplacesItsValuesAndKeepsItsAddresses) {
  const std::vector<Fp8Weight> first = weights_of_every_kind(0.11), second = weights_of_every_kind(5.0);
  for (size_t i = 0; i < first.size(); ++i) {
    const std::unique_ptr<WeightStore> store = place(first[i]);
    const LinearConfig config{.n = first[i].n(), .k = first[i].k(), .scheme = first[i].scheme};
    const PlacedWeight before = store->view(config);
    store->replace(second[i], {});
    const PlacedWeight after = store->view(config);
    EXPECT_EQ(after.data, before.data);
    EXPECT_EQ(after.scale, before.scale);
    EXPECT_EQ(after.max_scale, before.max_scale);
    EXPECT_EQ(after.bias, before.bias);
    EXPECT_EQ(after.input_scale, before.input_scale);
    expect_dequantizes(*store, second[i]);
  }
}

TEST_F(CudaWeight, RefusesToGainOrLoseAnInputScale) {
  Fp8Weight with = quantize(wave(8, 64, 0.1), QuantizeScheme::kTensor);
  const Fp8Weight without = with;
  with.input_scale = 0.5f;
  EXPECT_THROW(place(with)->replace(without, {}), Error);
  EXPECT_THROW(place(without)->replace(with, {}), Error);
}

TEST_F(CudaWeight, RefusesALayoutOfCpus) {
  EXPECT_THROW(
      place_weight(card(), quantize(wave(8, 64, 0.1), QuantizeScheme::kTensor), Layout::kPanel64, "test", {}),
      Error);
}

TEST_F(CudaWeight, WorkspaceGrowsAndKeepsWhatItHasWhenItCannot) {
  Workspace workspace(card());
  workspace.reserve(1000);
  EXPECT_GE(workspace.bytes(), 1000u);
  const void* before = workspace.scratch().data;
  EXPECT_EQ(reinterpret_cast<uintptr_t>(before) % 64, 0u);
  workspace.reserve(10);
  EXPECT_EQ(workspace.scratch().data, before);
  EXPECT_THROW(workspace.reserve(2 * card().memory_bytes), Error);
  EXPECT_EQ(workspace.scratch().data, before);
  workspace.reserve(1 << 20);
  EXPECT_GE(workspace.bytes(), size_t{1} << 20);
}

}  // namespace
}  // namespace anyfp8
