#include "anyfp8/scheme/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "anyfp8/scheme/test_checkpoint.h"

namespace anyfp8 {
namespace {

HostTensor random_weight(int64_t n, int64_t k, float sigma = 0.02f) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal(0, sigma);
  std::vector<float> numbers(static_cast<size_t>(n * k));
  for (float& value : numbers) value = normal(rng);
  return test::values(DType::kF32, {n, k}, numbers);
}

class Quantize : public testing::TestWithParam<QuantizeScheme> {};

// Half a step of e4m3: 2^-4 of the value where it is normal, half the smallest code times the scale below.
// The division and the product each add an fp32 rounding, which 1 % of a step covers many times over.
TEST_P(Quantize, ErrorIsAtMostHalfAStep) {
  const HostTensor w = random_weight(130, 160);
  const Fp8Weight q = quantize(w, GetParam());
  check_weight(q);
  const HostTensor back = dequantize(q, 0, 130);
  for (int64_t i = 0; i < w.size(); ++i) {
    const float value = w.as<float>()[i];
    const float step = std::max(std::fabs(value) * 0x1p-4f, scale_at(q, i / 160, i % 160) * 0x1p-10f);
    ASSERT_LE(std::fabs(back.as<float>()[i] - value), step * 1.01f) << "at " << i;
  }
}

TEST_P(Quantize, ZeroWeightsStayZero) {
  const Fp8Weight q = quantize(HostTensor::allocate(DType::kBF16, {3, 32}), GetParam());
  check_weight(q);
  EXPECT_EQ(dequantize(q, 0, 3).as<float>()[5], 0.0f);
}

INSTANTIATE_TEST_SUITE_P(Schemes, Quantize,
                         testing::Values(QuantizeScheme::kTensor, QuantizeScheme::kChannel,
                                         QuantizeScheme::kBlock, QuantizeScheme::kMxfp8));

TEST(QuantizeScale, IsTheLargestMagnitudeOver448) {
  const Fp8Weight q =
      quantize(test::values(DType::kF32, {2, 2}, {1, -896, 3, 448}), QuantizeScheme::kChannel);
  EXPECT_EQ(scale_at(q, 0, 0), 2.0f);
  EXPECT_EQ(scale_at(q, 1, 0), 1.0f);
  EXPECT_EQ(q.data.as<uint8_t>()[1], 0xFE);  // -448
}

TEST(QuantizeScale, IsRoundedToBf16BeforeTheDivision) {
  const Fp8Weight q =
      quantize(test::values(DType::kF32, {1, 2}, {1, 3.01f}), QuantizeScheme::kChannel, DType::kBF16);
  const float scale = scale_at(q, 0, 0);
  EXPECT_EQ(scale, bf16_to_f32(f32_to_bf16(3.01f * (1.0f / 448))));
  EXPECT_EQ(q.data.as<uint8_t>()[0], f32_to_e4m3(1 / scale));
}

// The smallest power of two that brings the group within 448: 448 itself needs 1, anything above it 2.
TEST(QuantizeScale, Mxfp8RoundsUpToAPowerOfTwo) {
  for (auto [largest, code] :
       {std::pair{448.0f, 127}, {448.0f * 1.0000002f, 128}, {3.5f, 120}, {1e-38f, 0}, {3e38f, 247}}) {
    HostTensor w = test::filled(DType::kF32, {1, 32}, 0);
    std::memcpy(w.mutable_data() + 12, &largest, 4);
    EXPECT_EQ(quantize(w, QuantizeScheme::kMxfp8).scale.as<uint8_t>()[0], code) << largest;
  }
}

TEST(QuantizeRefuses, WhatCannotBeQuantised) {
  EXPECT_THROW(quantize(test::values(DType::kF32, {1, 2}, {1, NAN}), QuantizeScheme::kTensor), Error);
  EXPECT_THROW(quantize(test::values(DType::kF32, {1, 2}, {1, INFINITY}), QuantizeScheme::kTensor), Error);
  EXPECT_THROW(quantize(test::counting_weight(2, 2), QuantizeScheme::kTensor), Error);
  EXPECT_THROW(quantize(test::filled(DType::kF32, {4}, 1), QuantizeScheme::kTensor), Error);
  EXPECT_THROW(quantize(test::filled(DType::kF32, {1, 33}, 1), QuantizeScheme::kMxfp8), Error);
  EXPECT_THROW(quantize_scheme_from_name("int4"), Error);
}

// The block variant of the test model was written by other software from the bf16 one: the same bytes must
// come out.
TEST(QuantizeModel, BlockVariantIsByteIdentical) {
  const std::filesystem::path models = std::filesystem::path(ANYFP8_SOURCE_DIR) / "../shared/models";
  if (!std::filesystem::exists(models)) GTEST_SKIP() << "the reference models are not here: " << models;
  const Checkpoint source = Checkpoint::open(models / "kjv-qwen3"),
                   target = Checkpoint::open(models / "kjv-qwen3-block");
  int layers = 0;
  for (const TensorInfo& tensor : target.tensors()) {
    if (!tensor.name.ends_with("_proj.weight")) continue;
    const Fp8Weight q = quantize(source.tensor(tensor.name), QuantizeScheme::kBlock);
    const HostTensor data = target.tensor(tensor.name),
                     scale = target.tensor(std::string(tensor.name) + "_scale_inv");
    ASSERT_EQ(std::memcmp(q.data.data(), data.data(), data.size_bytes()), 0) << tensor.name;
    ASSERT_EQ(std::memcmp(q.scale.data(), scale.data(), scale.size_bytes()), 0) << tensor.name;
    ++layers;
  }
  EXPECT_EQ(layers, 56);
}

}  // namespace
}  // namespace anyfp8
