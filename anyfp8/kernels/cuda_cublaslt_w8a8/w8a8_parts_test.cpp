#include "anyfp8/kernels/cuda_cublaslt_w8a8/w8a8_parts.h"

#include <gtest/gtest.h>

#include <vector>

namespace anyfp8::w8a8 {
namespace {

TEST(W8A8Parts, EveryTokenIsInOneAndNoneIsBeyondY) {
  for (const Grid weight : {Grid{8, 16}, Grid{4096, 4096}, Grid{28672, 4096}, Grid{1 << 20, 131072}}) {
    for (const int64_t granule : {1, 4}) {
      for (const bool aligned : {true, false}) {
        for (const int64_t m : {1,    2,    3,    4,    5,    8,     9,     71,    127,   128,   129,
                                255,  511,  512,  513,  515,  516,   520,   521,   1023,  1024,  1025,
                                2047, 2048, 2049, 3070, 3071, 16383, 16384, 16385, 40000, 100001}) {
          SCOPED_TRACE(testing::Message()
                       << "n " << weight.rows << ", m " << m << ", granule " << granule << aligned);
          const Parts parts = parts_of(m, weight, granule, aligned);
          EXPECT_LE(parts.few, granule == 1 ? 0 : kMostFew);
          const bool padded = pads(m, weight, granule, aligned);
          EXPECT_EQ(parts.staged, padded || !aligned);
          int64_t end = 0;
          for (int64_t i = 0; i < parts.count; ++i) {
            const Part part = parts.at(i, m);
            EXPECT_EQ(part.rows % granule, 0);
            EXPECT_LE(part.rows, parts.staged ? most_staged(weight.rows) : most_tokens(weight.cols));
            EXPECT_GE(part.begin, 0);
            EXPECT_LE(part.begin, end) << "a gap";
            end = part.begin + part.rows;
          }
          EXPECT_EQ(padded ? (m + 3) / 4 * 4 : m - parts.few, end);
        }
      }
    }
  }
}

TEST(W8A8Parts, OneProductWhereverCublasLtTakesTheTokens) {
  constexpr Grid kLarge{28672, 4096};
  for (const int64_t m : {64, 132, 260, 1024, 1036, 8192}) {
    const Parts parts = parts_of(m, kLarge, 4, true);
    EXPECT_EQ(parts.count, 1);
    EXPECT_EQ(parts.rows, m);
  }
  EXPECT_EQ(parts_of(1001, kLarge, 1, true).rows, 1001);
}

// Its tiles of 128 tokens are full, or it has no more tokens than it must leave.
TEST(W8A8Parts, FewTokensAreLeftToAKernelOfTheirOwn) {
  constexpr Grid kWeight{4096, 4096};
  const auto few = [&](int64_t m) { return parts_of(m, kWeight, 4, true).few; };
  EXPECT_EQ(few(513), 1);
  EXPECT_EQ(few(516), 4);
  EXPECT_EQ(few(520), 8);
  EXPECT_EQ(few(1033), 1);
  EXPECT_EQ(few(524), 0);
  EXPECT_EQ(few(4001), 1) << "copying y would take longer";
  EXPECT_EQ(few(135), 0);
  EXPECT_EQ(few(132), 0);
  EXPECT_EQ(few(7), 7) << "and no product";
  EXPECT_EQ(parts_of(7, kWeight, 4, true).rows, 0);
}

TEST(W8A8Parts, ZerosFillUpTheLastFourWhereReadingTheWeightsAgainTakesLonger) {
  for (const int64_t m : {9, 65, 71, 127, 129, 255, 257, 435}) {
    const Parts parts = parts_of(m, {28672, 4096}, 4, true);
    EXPECT_EQ(parts.rows, (m + 3) / 4 * 4);
    EXPECT_EQ(parts.few, 0);
    EXPECT_TRUE(parts.staged);
  }
  EXPECT_FALSE(parts_of(437, {28672, 4096}, 4, true).staged) << "y does not fit";
  EXPECT_FALSE(parts_of(513, {4096, 4096}, 4, true).staged) << "a tile more";
  EXPECT_FALSE(parts_of(72, {28672, 4096}, 4, true).staged);
  EXPECT_FALSE(parts_of(71, {28672, 4096}, 1, true).staged);
}

TEST(W8A8Scratchpad, HoldsWhatEachPartNeedsAndNeverShrinks) {
  for (const Group group : {kPerTensor, kPerRow, kBlock128, kMx32}) {
    LinearConfig config{.n = 272, .k = 1408, .bias = true};
    config.scheme.weight.group = group;
    config.scheme.activation = QuantKey{.group = group == kBlock128 ? kGroup128 : group};
    const size_t scales = group == kBlock128 ? 11 * 4 : group == kMx32 ? 44 : 4;  // bytes of a token
    size_t before = 0;
    for (int64_t m = 1; m < 3000; m += 7) {
      const Scratchpad s = scratchpad(config, m);
      EXPECT_GE(s.bytes, before);
      before = s.bytes;
      for (const bool aligned : {true, false}) {
        const Parts parts = parts_of(m, {config.n, config.k}, granule_of(config), aligned);
        const auto rows = static_cast<size_t>(parts.rows + parts.few);
        EXPECT_LE(rows * 1408, s.scales - s.codes);
        const size_t scale_rows = group == kMx32 ? (rows + 127) / 128 * 128 : rows;
        EXPECT_LE(scale_rows * scales, s.maxima - s.scales);
        if (parts.staged) {
          EXPECT_LE(static_cast<size_t>(parts.rows) * 272 * 2, s.bytes - s.y);
        }
      }
      if (group == kBlock128) {
        EXPECT_EQ(s.slab - s.weight_scale, 256) << "3 rows of 12";
      }
      EXPECT_EQ(s.y - s.slab, group == kMx32 ? 272 * 1408 : 0);
      if (group == kMx32) {
        EXPECT_EQ(s.slab - s.weight_scale, 3 * 128 * 44);
      }
    }
  }
}

}  // namespace
}  // namespace anyfp8::w8a8
