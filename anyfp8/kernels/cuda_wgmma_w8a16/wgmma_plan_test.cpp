#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_plan.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

namespace anyfp8::wgmma {
namespace {

constexpr Operands kRow{Half::kBF16, Code::kE4M3, Scaling::kRow};

Problem problem(int64_t n, int64_t k, int64_t m, Operands operands = kRow, bool invariant = false) {
  return {.n = n,
          .k = k,
          .m = m,
          .operands = operands,
          .invariant = invariant,
          .sm_count = 132,
          .block_scales = true};
}

TEST(WgmmaShapes, FitAMultiprocessorWithAllTheirBlocks) {
  for (const Shape& shape : kShapes) {
    EXPECT_LE((shared_bytes(shape) + 1024) * shape.blocks, 228 << 10) << shape.rows() << "x" << shape.tokens;
    EXPECT_LE(shared_bytes(shape), 227 << 10) << shape.rows() << "x" << shape.tokens;
    EXPECT_GE(shape.stages, 3);
  }
}

// TMA's swizzle counts from multiples of 1024 bytes.
TEST(WgmmaShapes, PartsOfAStageBeginAtMultiplesOf1024Bytes) {
  for (const Shape& shape : kShapes) {
    EXPECT_EQ(shape.weight_bytes() % 1024, 0);
    EXPECT_EQ(shape.tokens * 128 % 1024, 0);
    EXPECT_EQ(shape.stage_bytes() % 1024, 0);
  }
}

TEST(WgmmaPlan, EveryOutputHasATileAndEveryPartWork) {
  for (const int64_t n : {1, 57, 128, 129, 4096, 28672, 128256}) {
    for (const int64_t k : {1, 64, 640, 4096, 14336}) {
      for (const int64_t m : {0, 1, 16, 17, 33, 64, 65, 128, 129, 1000, 100000}) {
        for (const Scaling scaling : {Scaling::kRow, Scaling::k128, Scaling::kMx}) {
          for (const Code code : {Code::kE4M3, Code::kE5M2}) {
            for (const bool invariant : {false, true}) {
              const std::string what =
                  fmt::format("n {} k {} m {} scaling {} code {} invariant {}", n, k, m,
                              static_cast<int>(scaling), static_cast<int>(code), invariant);
              const Operands operands{Half::kBF16, code, scaling};
              const Plan plan = make_plan(problem(n, k, m, operands, invariant));
              ASSERT_TRUE(has_shape(operands, plan.shape)) << what;
              const Shape& shape = kShapes[plan.shape];
              EXPECT_GE(plan.token_tiles * shape.tokens, m) << what;
              EXPECT_GE(plan.tiles / plan.token_tiles * shape.rows(), n) << what;
              const auto [whole_tiles, splits] = plan.cut;
              EXPECT_LE(splits, most_splits(shape)) << what;
              EXPECT_LE(splits, (k + 127) / 128) << what;
              EXPECT_GE(plan.blocks, 1) << what;
              EXPECT_LE(plan.blocks, plan.tiles * splits) << what;
              EXPECT_EQ(plan.blocks % splits, 0) << what;
              EXPECT_LE((plan.tiles - whole_tiles) * splits, plan.blocks) << what << ": one for each cluster";
              if (splits == 1) {
                EXPECT_EQ(whole_tiles, plan.tiles) << what;
              } else {
                EXPECT_EQ(whole_tiles % plan.blocks, 0)
                    << what << ": whole waves, then those that are shared";
              }
            }
          }
        }
      }
    }
  }
}

TEST(WgmmaPlan, AnInvariantCutOfKDependsOnTheLayerAlone) {
  for (const auto& [n, k] :
       {std::pair<int64_t, int64_t>{4096, 4096}, {28672, 4096}, {4096, 14336}, {512, 8192}}) {
    const int splits = make_plan(problem(n, k, 1, kRow, true)).cut.splits;
    for (const int64_t m : {2, 16, 17, 40, 64, 100, 128, 500, 4096}) {
      EXPECT_EQ(make_plan(problem(n, k, m, kRow, true)).cut.splits, splits) << n << "x" << k << " m " << m;
      Problem part = problem(n / 7, k, m, kRow, true);
      part.whole_n = n;
      EXPECT_EQ(make_plan(part).cut.splits, splits) << "a seventh of " << n << "x" << k << " m " << m;
    }
  }
}

// Rescaled sums are rounded otherwise, so neither are they for some m of an invariant layer alone, nor where
// the rows of a tile have scales of their own.
TEST(WgmmaPlan, SumsAreRescaledForBlocksOfRowsAlone) {
  constexpr Operands kBlock{Half::kBF16, Code::kE4M3, Scaling::k128};
  for (const int64_t m : {17, 64, 90, 100, 128, 512, 4096}) {
    Problem p = problem(28672, 4096, m, kBlock);
    EXPECT_EQ(rescales(kBlock, make_plan(p).shape), m >= 100) << "m = " << m;
    p.block_scales = false;
    EXPECT_FALSE(rescales(kBlock, make_plan(p).shape)) << "m = " << m;
    EXPECT_FALSE(rescales(kBlock, make_plan(problem(28672, 4096, m, kBlock, true)).shape)) << "m = " << m;
  }
}

TEST(WgmmaPlan, BlocksThatWouldBeIdleShareTheLastWave) {
  const auto cut = [](int64_t n, int64_t m, bool invariant = false) {
    return make_plan(problem(n, 4096, m, kRow, invariant)).cut;
  };
  const int64_t wave = int64_t{132} * 256;  // of outputs, at 128 tokens
  EXPECT_EQ(cut(wave + 66 * 256, 128).whole_tiles, 132);
  EXPECT_EQ(cut(wave + 66 * 256, 128).splits, 2);
  EXPECT_EQ(cut(wave + 131 * 256, 128).splits, 1) << "the last wave is as good as full";
  EXPECT_EQ(cut(wave, 128).splits, 1) << "there is no last wave";
  EXPECT_EQ(cut(wave + 66 * 256, 128, true).splits, 1) << "invariant: k is cut in one way";
}

// What an H200 gets for the layers of bench/: outputs x tokens of the tile, a * where it has a multiprocessor
// for itself, and the parts of k, with a + before them if only the last wave is shared. A change of the
// tuning changes this table: the test prints the new one.
constexpr char kOnH200[] = R"(
layer      scales        m = 16          32          64          65         128         129         256         512        1024
4096x4096  row         128x16/6    128x32/6   128x64*/3   128x96*/3  128x128*/3   128x96*/2  128x128*/2  128x128*/1  256x128*/1
4096x4096  128x128     128x16/6    128x32/6   128x64*/3   128x96*/3  128x128*/3   128x96*/2  128x128*/2  128x128*/1  256x128*/1
4096x4096  1x32        128x16/6    128x32/6   128x64*/3   128x96*/3  128x128*/3   128x96*/2  128x128*/2  128x128*/1  256x128*/1
4096x4096  row, inv    128x16/3    128x32/3   128x64*/3   128x96*/3  128x128*/3   128x96*/3  128x128*/3  128x128*/3  128x128*/3
28672x4096 row         128x16/1    128x32/1   256x64*/1   256x96*/1  256x128*/1  128x96*/+2 128x128*/+2 256x128*/+2  256x128*/1
28672x4096 128x128     128x16/1    128x32/1   256x64*/1   128x96*/1  256x128*/1  128x96*/+2 128x128*/+2 256x128*/+2  256x128*/1
28672x4096 1x32        128x16/1    128x32/1   256x64*/1   256x96*/1  256x128*/1  128x96*/+2 128x128*/+2 256x128*/+2  256x128*/1
28672x4096 row, inv    128x16/1    128x32/1   256x64*/1   256x96*/1  256x128*/1   256x96*/1  256x128*/1  128x128*/1  256x128*/1
4096x14336 row         128x16/6    128x32/6    128x64/6   128x96*/3  128x128*/3   128x96*/2  128x128*/2  256x128*/2  256x128*/1
4096x14336 128x128     128x16/6    128x32/6   128x64*/3   128x96*/3  128x128*/3   128x96*/2  128x128*/2  256x128*/2  256x128*/1
4096x14336 1x32        128x16/6    128x32/6    128x64/6   128x96*/3  128x128*/3   128x96*/2  128x128*/2  256x128*/2  256x128*/1
4096x14336 row, inv    128x16/3    128x32/3   128x64*/3   128x96*/3  128x128*/3   256x96*/3  128x128*/3  128x128*/3  128x128*/3
)";

TEST(WgmmaPlan, OnAnH200IsTheReviewedOne) {
  std::string table = fmt::format("\n{:<11}{:<8}", "layer", "scales");
  static constexpr int64_t kTokens[] = {16, 32, 64, 65, 128, 129, 256, 512, 1024};
  for (const int64_t m : kTokens)
    table += fmt::format("{:>12}", fmt::format("{}{}", m == 16 ? "m = " : "", m));
  table += '\n';
  const auto add = [&table](int64_t n, int64_t k, Scaling scaling, bool invariant) {
    table += fmt::format("{:<11}{:<8}", fmt::format("{}x{}", n, k),
                         invariant                  ? "row, inv"
                         : scaling == Scaling::kRow ? "row"
                         : scaling == Scaling::k128 ? "128x128"
                                                    : "1x32");
    for (const int64_t m : kTokens) {
      const Plan plan = make_plan(problem(n, k, m, {Half::kBF16, Code::kE4M3, scaling}, invariant));
      const Shape& shape = kShapes[plan.shape];
      table += fmt::format(
          " {:>11}",
          fmt::format("{}x{}{}/{}{}", shape.rows(), shape.tokens, shape.blocks == 1 ? "*" : "",
                      plan.cut.splits > 1 && plan.cut.whole_tiles > 0 ? "+" : "", plan.cut.splits));
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
}  // namespace anyfp8::wgmma
