#include "anyfp8/kernels/common/tile_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

#include "anyfp8/base/text.h"

namespace anyfp8::tile {
namespace {

constexpr Family kFamilies[] = {Family::kSm75, Family::kSm80, Family::kSm90};
constexpr Scaling kScalingsOfAll[] = {Scaling::kRow, Scaling::k128, Scaling::k32, Scaling::kMx};
constexpr Code kCodes[] = {Code::kE4M3, Code::kE5M2};
constexpr int kSmCounts[] = {8, 40, 84, 108, 132};  // Orin, T4, 3090, A100, H200

Card card_of(Family family, int sm_count) {
  return {family, sm_count, static_cast<size_t>(shared_limit(family))};
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Parts of k begin at multiples of this.
int part_unit(const Plan& plan) { return std::max(128, kShapes[plan.shape].depth()); }

std::string text(const Problem& p, Family family, int sm_count) {
  const Operands& o = p.operands;
  return fmt::format("{}x{}, m = {}, code {}, scaling {}{}, family {}, {} multiprocessors", p.n, p.k, p.m,
                     static_cast<int>(o.code), static_cast<int>(o.scaling), p.invariant ? ", invariant" : "",
                     static_cast<int>(family), sm_count);
}

constexpr int64_t kTokens[] = {1,  2,  7,  8,  9,   15,  16,  17,  24,  31,   32,   33,
                               48, 64, 65, 96, 128, 129, 200, 256, 257, 1000, 4096, 16384};

// Calls `check` with every problem of a broad grid but for m; stops when it has failed.
void for_each_layer(const std::function<void(Problem, Family, int sm_count)>& check) {
  for (const int64_t n : {1, 7, 16, 57, 64, 128, 130, 1000, 4096, 5120, 14336, 28672, 128256}) {
    for (const int64_t k : {1, 63, 64, 65, 128, 129, 192, 512, 1000, 4096, 14336, 53248}) {
      for (const Family family : kFamilies) {
        for (const int sm_count : kSmCounts) {
          for (const Code code : kCodes) {
            for (const Scaling scaling : kScalingsOfAll) {
              for (const bool invariant : {false, true}) {
                check({n, k, 0, {Half::kF16, code, scaling}, invariant}, family, sm_count);
                if (testing::Test::HasFailure()) return;
              }
            }
          }
        }
      }
    }
  }
}

TEST(TilePlan, OfEveryProblemCanBeLaunchedAndCoversIt) {
  for_each_layer([](Problem p, Family family, int sm_count) {
    for (const int64_t m : kTokens) {
      p.m = m;
      const Plan plan = make_plan(p, card_of(family, sm_count));
      const Shape& shape = kShapes[plan.shape];
      ASSERT_TRUE(has_shape(family, p.operands, plan.shape)) << text(p, family, sm_count);
      ASSERT_EQ(plan.token_tiles, ceil_div(m, shape.tokens())) << text(p, family, sm_count);
      ASSERT_EQ(plan.tiles, ceil_div(p.n, shape.rows()) * plan.token_tiles) << text(p, family, sm_count);
      ASSERT_EQ(plan.steps, ceil_div(p.k, shape.depth())) << text(p, family, sm_count);
      // A cluster has 8 blocks at most. No more parts than units they begin at: each has something to do.
      ASSERT_TRUE(plan.splits >= 1 && plan.splits <= 8) << text(p, family, sm_count);
      ASSERT_LE(plan.splits, ceil_div(p.k, part_unit(plan))) << text(p, family, sm_count);
      if (plan.splits == 1) {
        ASSERT_GE(plan.blocks, 1) << text(p, family, sm_count);
        ASSERT_LE(plan.blocks, plan.tiles) << text(p, family, sm_count);
      } else {
        ASSERT_EQ(plan.blocks, plan.tiles * plan.splits) << text(p, family, sm_count);
      }
      ASSERT_LT(plan.blocks, int64_t{1} << 31) << text(p, family, sm_count);
    }
  });
}

// As launched: so many tokens at once, and what is left.
TEST(TilePlan, ScratchIsEnoughForThePartsOfEveryLaunch) {
  for_each_layer([](Problem p, Family family, int sm_count) {
    for (const int64_t m : kTokens) {
      p.m = m;
      const int64_t at_once =
          tokens_at_once(make_plan(p, card_of(family, sm_count)), card_of(family, sm_count));
      ASSERT_GE(at_once, 1) << text(p, family, sm_count);
      for (const int64_t part : {std::min(m, at_once), m % at_once}) {
        if (part == 0) continue;
        p.m = part;
        const Plan plan = make_plan(p, card_of(family, sm_count));
        ASSERT_LE(plan.counter_bytes + plan.sum_bytes, most_scratch_bytes(card_of(family, sm_count)))
            << part << " tokens of " << m << ", " << text(p, family, sm_count);
        const bool in_scratch = plan.splits > 1 && family < Family::kSm90;
        ASSERT_EQ(plan.sum_bytes > 0, in_scratch) << text(p, family, sm_count);
        ASSERT_TRUE(!in_scratch || plan.counter_bytes >= static_cast<size_t>(plan.tiles) * 4)
            << text(p, family, sm_count);
      }
    }
  });
}

// One warp sums all of a part, and parts begin at the same k.
TEST(TilePlan, AnInvariantOneAddsInTheSameOrderForEveryM) {
  for_each_layer([](Problem p, Family family, int sm_count) {
    if (!p.invariant) return;
    p.m = 1;
    const Plan one = make_plan(p, card_of(family, sm_count));
    for (const int64_t m : kTokens) {
      p.m = m;
      const Plan plan = make_plan(p, card_of(family, sm_count));
      ASSERT_EQ(kShapes[plan.shape].warps_k, 1) << text(p, family, sm_count);
      ASSERT_EQ(plan.splits, one.splits) << text(p, family, sm_count);
      ASSERT_EQ(part_unit(plan), part_unit(one)) << text(p, family, sm_count);
      // So does a rank's part of the layer.
      Problem third = p;
      third.whole_n = p.n;
      third.n = ceil_div(p.n, 3);
      const Plan of_third = make_plan(third, card_of(family, sm_count));
      ASSERT_EQ(of_third.splits, one.splits) << text(p, family, sm_count);
      ASSERT_EQ(part_unit(of_third), part_unit(one)) << text(p, family, sm_count);
    }
  });
}

bool used(Family family, ShapeId shape) {
  return std::any_of(std::begin(kScalingsOfAll), std::end(kScalingsOfAll), [&](Scaling scaling) {
    return has_shape(family, {Half::kF16, Code::kE4M3, scaling}, shape);
  });
}

TEST(TileShapes, FitTheSharedMemoryOfABlock) {
  for (const Family family : kFamilies) {
    for (int id = 0; id < kShapeCount; ++id) {
      if (!used(family, static_cast<ShapeId>(id))) continue;
      const std::string what = fmt::format("shape {}, family {}", id, static_cast<int>(family));
      EXPECT_GE(stages_of(kShapes[id], family), 2) << what;
      EXPECT_LE(shared_bytes(kShapes[id], family), shared_limit(family)) << what;
      EXPECT_LE(kShapes[id].threads() * kShapes[id].blocks, family == Family::kSm75 ? 1024 : 1536) << what;
    }
  }
}

// Blocks that the plan counts on are on a multiprocessor together: Hopper has 228 KB, and takes 1 KB for
// itself from each. (The plan counts the blocks of Turing and Ampere by what fits.)
TEST(TileShapes, AsManyBlocksAsPlannedFitAMultiprocessorOfHopper) {
  for (int id = 0; id < kShapeCount; ++id) {
    if (!used(Family::kSm90, static_cast<ShapeId>(id))) continue;
    EXPECT_LE((shared_bytes(kShapes[id], Family::kSm90) + 1024) * kShapes[id].blocks, 228 << 10)
        << "shape " << id;
  }
}

TEST(TilePlan, FamiliesAreThoseThatTheCardHasCapabilityAndSharedMemoryFor) {
  const auto family = [](const char* name) { return mma_card(device_from_name(name)).family; };
  EXPECT_EQ(family("sm_75"), Family::kSm75);
  for (const char* name : {"sm_80", "sm_86", "sm_89", "sm_120", "sm_121"})
    EXPECT_EQ(family(name), Family::kSm80);
  for (const char* name : {"sm_90", "sm_100", "sm_103"}) EXPECT_EQ(family(name), Family::kSm90);
}

TEST(TilePlan, FewTokensOfManyOutputsTakeNarrowTilesOnAmpere) {
  const auto shape = [](Family family, int64_t n, int64_t m) {
    return make_plan({n, 4096, m, {Half::kF16, Code::kE4M3, Scaling::kRow}, false}, card_of(family, 132))
        .shape;
  };
  EXPECT_EQ(shape(Family::kSm80, 28672, 4), kNarrow8);
  EXPECT_EQ(shape(Family::kSm80, 28672, 5), kWide8);
  EXPECT_EQ(shape(Family::kSm80, 32000, 1), kWide8);
  EXPECT_EQ(shape(Family::kSm75, 28672, 1), kWide8);
  EXPECT_EQ(shape(Family::kSm90, 28672, 1), kWide8);
}

// What an H200 gets for the layers of bench/: outputs x tokens of the tile, and the parts of k. A change of
// the tuning changes this table: the test prints the new one.
constexpr char kOnH200[] = R"(
layer      scales         m = 1         8        16        32        64       128       256
4096x4096  row          16x8/1    16x8/1   32x16/1  128x32/6  128x64/6 128x128/6 128x128/3
4096x4096  128x128      16x8/1    16x8/1   32x16/1  128x32/6  128x64/6 128x128/3 128x128/2
4096x4096  1x32         16x8/1    16x8/1   32x16/1  128x32/6  128x64/6 128x128/6 128x128/3
4096x4096  row, inv   128x16/3  128x16/3  128x16/3  128x32/3  128x64/3 128x128/3 128x128/3
28672x4096 row         128x8/1   128x8/1  128x16/1  128x32/1  128x64/1 128x128/1 128x128/1
28672x4096 128x128     128x8/1   128x8/1  128x16/1  128x32/1  128x64/1 128x128/1 128x128/1
28672x4096 1x32        128x8/1   128x8/1  128x16/1  128x32/1  128x64/1 128x128/1 128x128/1
28672x4096 row, inv   128x16/1  128x16/1  128x16/1  128x32/1  128x64/1 128x128/1 128x128/1
4096x14336 row          16x8/1    16x8/1   32x16/1  128x32/7  128x64/7 128x128/7 128x128/3
4096x14336 128x128      16x8/1    16x8/1   32x16/1  128x32/7  128x64/7 128x128/3 128x128/2
4096x14336 1x32         16x8/1    16x8/1   32x16/1  128x32/7  128x64/7 128x128/7 128x128/3
4096x14336 row, inv   128x16/3  128x16/3  128x16/3  128x32/3  128x64/3 128x128/3 128x128/3
)";

TEST(TilePlan, OnAnH200IsTheReviewedOne) {
  std::string table =
      "\nlayer      scales         m = 1         8        16        32        64       128       256\n";
  const auto add = [&table](int64_t n, int64_t k, Scaling scaling, bool invariant) {
    const std::string layer = fmt::format("{}x{}", n, k);
    table += fmt::format("{:<11}{:<9}", layer,
                         invariant                  ? "row, inv"
                         : scaling == Scaling::kRow ? "row"
                         : scaling == Scaling::k128 ? "128x128"
                                                    : "1x32");
    for (const int64_t m : {1, 8, 16, 32, 64, 128, 256}) {
      const Plan plan =
          make_plan({n, k, m, {Half::kBF16, Code::kE4M3, scaling}, invariant}, card_of(Family::kSm90, 132));
      const Shape& shape = kShapes[plan.shape];
      table += fmt::format(" {:>9}", fmt::format("{}x{}/{}", shape.rows(), shape.tokens(), plan.splits));
    }
    table += '\n';
  };
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{4096, 4096}, {28672, 4096}, {4096, 14336}}) {
    for (const Scaling scaling : {Scaling::kRow, Scaling::k128, Scaling::kMx}) add(n, k, scaling, false);
    add(n, k, Scaling::kRow, true);
  }
  EXPECT_TRUE(table == kOnH200) << "it is now:" << table << "and was:" << kOnH200;
}

}  // namespace
}  // namespace anyfp8::tile
