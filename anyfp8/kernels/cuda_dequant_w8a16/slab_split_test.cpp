#include "anyfp8/kernels/cuda_dequant_w8a16/slab_split.h"

#include <gtest/gtest.h>

namespace anyfp8 {
namespace {

TEST(SlabSplit, EverySlabFitsAndTogetherTheyAreAsFewAsCanBe) {
  for (int64_t k : {8, 64, 4096, 14336, 53248, 131072}) {
    for (int64_t n : {8, 128, 136, 1024, 4096, 28672, 152064, 1 << 20}) {
      const int64_t rows = slab_rows(n, k);
      ASSERT_GT(rows, 0) << n << " x " << k;
      EXPECT_LE(rows, n);
      EXPECT_LE(static_cast<size_t>(rows * k * 2), kSlabBytes) << n << " x " << k;
      EXPECT_TRUE(rows == n || rows % kSlabGranule == 0) << n << " x " << k;
      const int64_t fit = static_cast<int64_t>(kSlabBytes / 2) / k / kSlabGranule * kSlabGranule;
      EXPECT_EQ((n + rows - 1) / rows, (n + fit - 1) / fit) << n << " x " << k;
    }
  }
}

TEST(SlabSplit, SlabsAreAboutEqual) {
  EXPECT_EQ(slab_rows(28672, 4096), 4096);  // 7 of them
  EXPECT_EQ(slab_rows(4096, 14336), 1024);  // 4 of them, where 1152 would fit and leave 640
}

TEST(SlabSplit, ARowTooLongForAnySlabIsSaid) {
  EXPECT_EQ(slab_rows(4096, 131072), 128);
  EXPECT_EQ(slab_rows(4096, 131072 + 8), 0);
  EXPECT_EQ(slab_rows(16, 1 << 20), 16);
  EXPECT_EQ(slab_rows(64, 1 << 20), 0);
}

}  // namespace
}  // namespace anyfp8
