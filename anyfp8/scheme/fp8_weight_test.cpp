#include "anyfp8/scheme/fp8_weight.h"

#include <gtest/gtest.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "anyfp8/scheme/test_checkpoint.h"

namespace anyfp8 {
namespace {

Fp8Weight weight(int64_t n, int64_t k, Group group) {
  Fp8Weight w;
  w.scheme.weight = {DType::kE4M3, group};
  w.data = test::counting_weight(n, k);
  const Grid grid = scale_grid(group, n, k);
  w.scale = test::filled(DType::kF32, {grid.rows, grid.cols}, 1);
  return w;
}

std::string refusal(const Fp8Weight& w) {
  try {
    check_weight(w);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(CheckWeight, AcceptsWhatFits) {
  EXPECT_EQ(refusal(weight(1, 1, kPerTensor)), "");
  EXPECT_EQ(refusal(weight(130, 257, kBlock128)), "");
}

// Large enough that several threads look for it.
TEST(CheckWeight, NamesTheFirstNanCode) {
  Fp8Weight w = weight(1000, 1000, kPerRow);
  for (int64_t at : {900'009, 700'003}) w.data.mutable_data()[at] = std::byte{0xFF};
  const std::string text = refusal(w);
  EXPECT_NE(text.find("[700, 3] is code 0xFF, which is NaN"), std::string::npos) << text;
}

TEST(CheckWeight, RefusesInfiniteE5m2Codes) {
  Fp8Weight w = weight(2, 2, kPerTensor);
  w.data = test::values(DType::kE5M2, {2, 2}, {1, 2, 0x7C, 3});
  w.scheme.weight.dtype = DType::kE5M2;
  EXPECT_NE(refusal(w).find("[1, 0] is code 0x7C, which is infinite"), std::string::npos);
}

TEST(CheckWeight, ZeroScalesMayOnlyCoverZeros) {
  Fp8Weight w = weight(2, 256, kGroup128);
  w.scale = test::values(DType::kF32, {2, 2}, {1, 1, 0, 1});
  EXPECT_NE(refusal(w).find("the scale at [1, 0] is 0"), std::string::npos) << refusal(w);
  for (int i = 0; i < 128; ++i)
    w.data.mutable_data()[256 + i] = std::byte{static_cast<uint8_t>(i % 2 ? 0x80 : 0)};
  EXPECT_EQ(refusal(w), "");
}

TEST(CheckWeight, RefusesWhatDoesNotFitTheScheme) {
  Fp8Weight grid = weight(130, 130, kBlock128);
  grid.scale = test::filled(DType::kF32, {1, 2}, 1);
  EXPECT_NE(refusal(grid).find("needs f32 [2, 2]"), std::string::npos) << refusal(grid);
  Fp8Weight bias = weight(3, 4, kPerRow);
  bias.bias = test::filled(DType::kF32, {4}, 1);
  EXPECT_NE(refusal(bias).find("needs [3]"), std::string::npos);
  Fp8Weight none = weight(3, 4, kPerRow);
  none.scale = HostTensor();
  EXPECT_NE(refusal(none).find("needs a scale"), std::string::npos);
  EXPECT_NE(refusal(Fp8Weight()).find("missing"), std::string::npos);
}

#if defined(__x86_64__)
// Hosts built with -ffast-math treat subnormals as zero; the smallest e8m0 scale, 2^-127, is one.
TEST(CheckWeight, SubnormalScalesCountUnderFlushToZero) {
  Fp8Weight w = weight(1, 32, kMx32);
  w.scale = HostTensor::allocate(DType::kE8M0, {1, 1});
  w.scheme.weight.scale_dtype = DType::kE8M0;
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | 0x8040);
  const std::string text = refusal(w);
  const float value = dequantize(w, 0, 1).as<float>()[2];
  _mm_setcsr(mode);
  EXPECT_EQ(text, "");
  EXPECT_EQ(value, dequantize(w, 0, 1).as<float>()[2]);
  EXPECT_NE(value, 0.0f);
}
#endif

TEST(CheckWeight, AStoredActivationScaleMustBeThere) {
  Fp8Weight w = weight(2, 2, kPerTensor);
  w.scheme.activation = QuantKey{DType::kE4M3, kPerTensor, ScaleSource::kStored};
  EXPECT_NE(refusal(w).find("there is none"), std::string::npos);
  w.input_scale = 0.5f;
  EXPECT_EQ(refusal(w), "");
}

TEST(ScaleAt, RaggedGridsRoundUp) {
  Fp8Weight w = weight(130, 129, kBlock128);
  w.scale = test::values(DType::kF32, {2, 2}, {1, 2, 3, 4});
  EXPECT_EQ(scale_at(w, 127, 127), 1);
  EXPECT_EQ(scale_at(w, 127, 128), 2);
  EXPECT_EQ(scale_at(w, 128, 0), 3);
  EXPECT_EQ(scale_at(w, 129, 128), 4);
}

TEST(Dequantize, RowsOfTheProduct) {
  Fp8Weight w = weight(3, 2, kPerRow);
  w.data = test::values(DType::kE4M3, {3, 2}, {1, 2, 3, 4, 5, -6});
  w.scale = test::values(DType::kF32, {3, 1}, {1, 10, 100});
  const HostTensor rows = dequantize(w, 1, 3);
  EXPECT_EQ(rows.shape(), (Shape{2, 2}));
  EXPECT_EQ(rows.as<float>()[1], 40);
  EXPECT_EQ(rows.as<float>()[3], -600);
  EXPECT_EQ(dequantize(w, 1, 1).size(), 0);
  EXPECT_THROW(dequantize(w, 2, 4), Error);
}

}  // namespace
}  // namespace anyfp8
