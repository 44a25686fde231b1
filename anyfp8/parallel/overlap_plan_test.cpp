#include "anyfp8/parallel/overlap_plan.h"

#include <gtest/gtest.h>

namespace anyfp8 {
namespace {

Device card(int major) { return {.kind = DeviceKind::kCuda, .cc = {major, 0}, .sm_count = 132}; }

int64_t parts(int64_t m, int64_t n, int64_t k, int ranks, int major = 9) {
  return overlap_parts(m, n, k, ranks, DType::kBF16, card(major));
}

// Few tokens: their sums travel faster than a further part of the product would take to start.
TEST(OverlapPlan, FewTokensAreComputedAtOnce) {
  for (const int64_t m : {0, 1, 64, 1024}) EXPECT_EQ(parts(m, 8192, 14336, 2), 1) << m;
}

// Prompts: the sums of a part travel beside the product of the next.
TEST(OverlapPlan, PromptsAreComputedInParts) {
  EXPECT_EQ(parts(4096, 8192, 14336, 2), 2);
  EXPECT_EQ(parts(4096, 16384, 26624, 2), 2);
}

// A product that is shorter than its sums hides little, and one rank has nothing to hide.
TEST(OverlapPlan, WhatGainsNothingIsComputedAtOnce) {
  EXPECT_EQ(parts(4096, 8192, 14336, 1), 1);
  EXPECT_EQ(parts(4096, 8192, 14336, 2, 8), 1) << "measured on Hopper alone";
  EXPECT_EQ(parts(2048, 512, 64, 2), 1);
  EXPECT_EQ(parts(4096, 4096, 7168, 2), 1) << "measured: 2 % slower in two parts";
}

}  // namespace
}  // namespace anyfp8
