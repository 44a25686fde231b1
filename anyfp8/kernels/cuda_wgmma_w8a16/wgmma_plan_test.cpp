#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_plan.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

namespace anyfp8::wgmma {
namespace {

constexpr Operands kRow{Half::kBF16, Code::kE4M3, Scaling::kRow};

Problem problem(int64_t n, int64_t k, int64_t m, Operands operands = kRow, bool invariant = false) {
  return {n, k, m, operands, invariant, 132};
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
              EXPECT_LE(plan.splits, most_splits(shape)) << what;
              EXPECT_LE(plan.splits, (k + 127) / 128) << what;
              EXPECT_GE(plan.blocks, 1) << what;
              if (plan.splits > 1) {
                EXPECT_EQ(plan.blocks, plan.tiles * plan.splits) << what;
              } else {
                EXPECT_LE(plan.blocks, plan.tiles) << what;
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
    const int splits = make_plan(problem(n, k, 1, kRow, true)).splits;
    for (const int64_t m : {2, 16, 17, 40, 64, 100, 128, 500, 4096}) {
      EXPECT_EQ(make_plan(problem(n, k, m, kRow, true)).splits, splits) << n << "x" << k << " m " << m;
      Problem part = problem(n / 7, k, m, kRow, true);
      part.whole_n = n;
      EXPECT_EQ(make_plan(part).splits, splits) << "a seventh of " << n << "x" << k << " m " << m;
    }
  }
}

// What an H200 gets for the layers of bench/: outputs x tokens of the tile, a * where it has a multiprocessor
// for itself, and the parts of k. A change of the tuning changes this table: the test prints the new one.
constexpr char kOnH200[] = R"(
layer      scales      m = 16         32         64         65        128        129        256        512       1024
4096x4096  row        128x16/6   128x32/6  128x64*/3  128x96*/3 128x128*/3  128x96*/2 128x128*/2 128x128*/1 256x128*/1
4096x4096  128x128    128x16/6   128x32/6  128x64*/3  128x96*/3 128x128*/3  128x96*/2 128x128*/2 128x128*/1 128x128*/1
4096x4096  1x32       128x16/6   128x32/6  128x64*/3  128x96*/3 128x128*/3  128x96*/2 128x128*/2 128x128*/1 256x128*/1
4096x4096  row, inv   128x16/3   128x32/3  128x64*/3  128x96*/3 128x128*/3  128x96*/3 128x128*/3 128x128*/3 128x128*/3
28672x4096 row        128x16/1   128x32/1  256x64*/1  256x96*/1 256x128*/1  256x96*/1 256x128*/1 128x128*/1 256x128*/1
28672x4096 128x128    128x16/1   128x32/1  256x64*/1  128x96*/1 128x128*/1  128x96*/1 128x128*/1 128x128*/1 128x128*/1
28672x4096 1x32       128x16/1   128x32/1  256x64*/1  256x96*/1 256x128*/1  256x96*/1 256x128*/1 128x128*/1 256x128*/1
28672x4096 row, inv   128x16/1   128x32/1  256x64*/1  256x96*/1 256x128*/1  256x96*/1 256x128*/1 128x128*/1 256x128*/1
4096x14336 row        128x16/6   128x32/6   128x64/6  128x96*/3 128x128*/3  128x96*/2 128x128*/2 128x128*/1 256x128*/1
4096x14336 128x128    128x16/6   128x32/6  128x64*/3  128x96*/3 128x128*/3  128x96*/2 128x128*/2 128x128*/1 128x128*/1
4096x14336 1x32       128x16/6   128x32/6   128x64/6  128x96*/3 128x128*/3  128x96*/2 128x128*/2 128x128*/1 256x128*/1
4096x14336 row, inv   128x16/3   128x32/3  128x64*/3  128x96*/3 128x128*/3  256x96*/3 128x128*/3 128x128*/3 128x128*/3
)";

TEST(WgmmaPlan, OnAnH200IsTheReviewedOne) {
  std::string table =
      "\nlayer      scales      m = 16         32         64         65        128        129        256     "
      "   512       1024\n";
  const auto add = [&table](int64_t n, int64_t k, Scaling scaling, bool invariant) {
    table += fmt::format("{:<11}{:<8}", fmt::format("{}x{}", n, k),
                         invariant                  ? "row, inv"
                         : scaling == Scaling::kRow ? "row"
                         : scaling == Scaling::k128 ? "128x128"
                                                    : "1x32");
    for (const int64_t m : {16, 32, 64, 65, 128, 129, 256, 512, 1024}) {
      const Plan plan = make_plan(problem(n, k, m, {Half::kBF16, Code::kE4M3, scaling}, invariant));
      const Shape& shape = kShapes[plan.shape];
      table += fmt::format(" {:>10}", fmt::format("{}x{}{}/{}", shape.rows(), shape.tokens,
                                                  shape.blocks == 1 ? "*" : "", plan.splits));
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
