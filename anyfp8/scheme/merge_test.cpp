#include "anyfp8/scheme/merge.h"

#include <gtest/gtest.h>

#include "anyfp8/scheme/test_checkpoint.h"

namespace anyfp8 {
namespace {

// A weight [n, k] whose scales all differ: `first`, first * 1.5, first * 1.5^2 ...
Fp8Weight weight(int64_t n, int64_t k, Group group, float first, DType scale_dtype = DType::kF32) {
  Fp8Weight w;
  w.scheme.weight = {DType::kE4M3, group, ScaleSource::kStored, scale_dtype};
  w.data = test::counting_weight(n, k);
  const Grid grid = scale_grid(group, n, k);
  std::vector<float> scales(static_cast<size_t>(grid.rows * grid.cols));
  for (size_t i = 0; i < scales.size(); ++i) {
    scales[i] =
        scale_dtype == DType::kE8M0 ? first + static_cast<float>(i) : first * static_cast<float>(1 + i * 0.5);
  }
  w.scale = test::values(scale_dtype, {grid.rows, grid.cols}, scales);
  return w;
}

// Exactly, element by element: the merged weight is the parts, whatever the groups.
void expect_same(const Fp8Weight& merged, std::span<const Fp8Weight> parts) {
  check_weight(merged);
  int64_t row = 0;
  for (const Fp8Weight& part : parts) {
    const HostTensor want = dequantize(part, 0, part.n()), got = dequantize(merged, row, row + part.n());
    ASSERT_EQ(std::memcmp(got.data(), want.data(), want.size_bytes()), 0) << "rows from " << row;
    row += part.n();
  }
  EXPECT_EQ(row, merged.n());
}

TEST(Merge, DifferingTensorScalesBecomeRowScales) {
  const Fp8Weight parts[] = {weight(6, 40, kPerTensor, 1e-3f), weight(2, 40, kPerTensor, 1.0f),
                             weight(2, 40, kPerTensor, 7)};
  const Fp8Weight merged = merge(parts);
  EXPECT_EQ(merged.scheme.weight.group, kPerRow);
  expect_same(merged, parts);
}

TEST(Merge, EqualTensorScalesStayOne) {
  const Fp8Weight parts[] = {weight(6, 40, kPerTensor, 0.5f), weight(2, 40, kPerTensor, 0.5f)};
  EXPECT_EQ(merge(parts).scheme.weight.group, kPerTensor);
}

TEST(Merge, BlocksThatFitStayBlocks) {
  const Fp8Weight parts[] = {weight(256, 300, kBlock128, 0.1f), weight(128, 300, kBlock128, 0.2f),
                             weight(77, 300, kBlock128, 0.3f)};
  const Fp8Weight merged = merge(parts);
  EXPECT_EQ(merged.scheme.weight.group, kBlock128);
  expect_same(merged, parts);
}

// [192, 128] is where row 192 would fall into the second block of the first part.
TEST(Merge, BlocksCutByAPartsEndGetFiner) {
  const Fp8Weight parts[] = {weight(192, 300, kBlock128, 0.1f), weight(128, 300, kBlock128, 0.2f)};
  const Fp8Weight merged = merge(parts);
  EXPECT_EQ(merged.scheme.weight.group, (Group{64, 128}));
  expect_same(merged, parts);
}

TEST(Merge, MixedGroupsMeetExactly) {
  const Fp8Weight parts[] = {weight(5, 96, kPerTensor, 2), weight(7, 96, kPerRow, 0.1f),
                             weight(70, 96, {64, 48}, 0.01f), weight(3, 96, kMx32, 120, DType::kE8M0)};
  expect_same(merge(parts), parts);
}

TEST(Merge, E8m0StaysE8m0) {
  const Fp8Weight parts[] = {weight(3, 96, kMx32, 0, DType::kE8M0), weight(4, 96, kMx32, 240, DType::kE8M0)};
  const Fp8Weight merged = merge(parts);
  EXPECT_EQ(merged.scheme.weight.scale_dtype, DType::kE8M0);
  EXPECT_EQ(merged.scheme.weight.group, kMx32);
  expect_same(merged, parts);
}

TEST(Merge, BiasIsStackedAndTheLargestInputScaleKept) {
  Fp8Weight parts[] = {weight(2, 8, kPerRow, 1), weight(1, 8, kPerRow, 1)};
  parts[0].bias = test::values(DType::kBF16, {2}, {1, 2});
  parts[1].bias = test::values(DType::kF32, {1}, {3});
  parts[0].input_scale = 0.5f;
  parts[1].input_scale = 0.75f;
  const Fp8Weight merged = merge(parts);
  EXPECT_EQ(merged.bias.as<float>()[1], 2.0f);
  EXPECT_EQ(merged.bias.as<float>()[2], 3.0f);
  EXPECT_EQ(merged.input_scale, 0.75f);
}

TEST(Merge, AStaticScaleThatOnePartLacksIsDropped) {
  Fp8Weight parts[] = {weight(2, 8, kPerTensor, 1), weight(1, 8, kPerTensor, 1)};
  for (Fp8Weight& part : parts)
    part.scheme.activation = QuantKey{DType::kE4M3, kPerTensor, ScaleSource::kDynamic};
  parts[0].input_scale = 0.5f;
  const Fp8Weight merged = merge(parts);
  EXPECT_FALSE(merged.input_scale);
  EXPECT_EQ(merged.scheme.activation->source, ScaleSource::kDynamic);
}

TEST(MergeRefuses, PartsThatDoNotFit) {
  const Fp8Weight a = weight(2, 8, kPerRow, 1), longer = weight(2, 9, kPerRow, 1);
  Fp8Weight biased = a, sixteen_bit;
  biased.bias = test::values(DType::kF32, {2}, {1, 2});
  sixteen_bit.data = test::filled(DType::kBF16, {2, 8}, 1);
  sixteen_bit.scheme.weight.dtype = DType::kBF16;
  for (const Fp8Weight& other : {longer, biased, sixteen_bit}) {
    const Fp8Weight parts[] = {a, other};
    EXPECT_THROW(merge(parts), Error);
  }
  EXPECT_THROW(merge({}), Error);
}

}  // namespace
}  // namespace anyfp8
