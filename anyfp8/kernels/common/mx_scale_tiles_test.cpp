#include "anyfp8/kernels/common/mx_scale_tiles.h"

#include <gtest/gtest.h>

#include <set>

namespace anyfp8 {
namespace {

// cuBLAS's documentation gives the offset in a tile as outer % 32 * 16 + outer / 32 * 4 + inner.
TEST(MxScaleTiles, AreInTheOrderThatCublasLtDocuments) {
  constexpr int64_t kGroups = 11, kWords = mx_scale_words(kGroups);
  ASSERT_EQ(kWords, 3);
  for (const int64_t row : {0, 1, 31, 32, 33, 127, 128, 200, 383}) {
    for (int64_t group = 0; group < kGroups; ++group) {
      const int64_t outer = row % 128, inner = group % 4;
      const int64_t tile = row / 128 * kWords + group / 4;
      EXPECT_EQ(mx_scale_place(row, group / 4, kWords) * 4 + inner,
                tile * 512 + outer % 32 * 16 + outer / 32 * 4 + inner);
    }
  }
}

TEST(MxScaleTiles, GiveEveryWordAPlaceOfItsOwnAndFillTheirBytes) {
  for (const int64_t rows : {1, 128, 129, 300}) {
    for (const int64_t groups : {1, 4, 5, 16}) {
      std::set<int64_t> places;
      const int64_t words = mx_scale_words(groups);
      for (int64_t row = 0; row < mx_scale_rows(rows); ++row) {
        for (int64_t word = 0; word < words; ++word) places.insert(mx_scale_place(row, word, words));
      }
      EXPECT_EQ(static_cast<int64_t>(places.size()) * 4, mx_scale_bytes(rows, groups));
      EXPECT_EQ(*places.begin(), 0);
      EXPECT_EQ((*places.rbegin() + 1) * 4, mx_scale_bytes(rows, groups));
    }
  }
}

}  // namespace
}  // namespace anyfp8
