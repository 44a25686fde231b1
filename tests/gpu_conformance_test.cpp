// What conformance_test.cpp does not ask of CUDA kernels: shapes and types that tensor cores take, any
// alignment, sums and scales at the ends of fp16, the same bits at any m. Skips, out loud, without a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "anyfp8/kernels/common/tile_plan.h"
#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_plan.h"
#include "anyfp8/kernels/select.h"
#include "tests/gpu_case.h"

namespace anyfp8 {
namespace {

using namespace test;

constexpr DType kHalf[] = {DType::kBF16, DType::kF16};

// How a fused kernel cuts the call into blocks; nothing of others.
struct Cut {
  int64_t tiles, blocks;
  int splits;
};
std::optional<Cut> cut_of(const Kernel& kernel, const Device& device, const LinearConfig& config, int64_t m) {
  if (kernel.name == "cuda_wgmma_w8a16") {
    const auto plan = wgmma::make_plan(wgmma::problem_of(config, m, device.sm_count));
    return Cut{plan.tiles, plan.blocks, plan.cut.splits};
  }
  if (kernel.name != "cuda_mma_w8a16") return std::nullopt;
  const bool invariant = config.policy == Policy::kInvariant;
  const auto plan =
      tile::make_plan({config.n, config.k, m, tile::operands_of(config), invariant}, tile::mma_card(device));
  return Cut{plan.tiles, plan.blocks, plan.splits};
}

class GpuConformance : public GpuKernel {
 protected:
  void SetUp() override {
    GpuKernel::SetUp();
    if (IsSkipped()) return;
    if (kernel().activation == ActivationUse::kQuantized) GTEST_SKIP() << "rounds activations: GpuQuantised";
  }

  // y in x's type, which tensor-core kernels write.
  LinearConfig half_config(int64_t n, int64_t k, const QuantKey& key, DType half, bool bias) const {
    return config_of(n, k, key, half, half, bias);
  }

  void expect_right(const Layer& layer, int64_t m, int64_t gap, size_t skip, std::mt19937& random,
                    float magnitude = 1) {
    std::normal_distribution<float> normal(0, magnitude);
    Matrix x(layer.config.in, m, layer.config.k, gap);
    for (int64_t t = 0; t < m; ++t) {
      for (int64_t c = 0; c < layer.config.k; ++c) x.set(t, c, normal(random));
    }
    SCOPED_TRACE(key_text(layer.config.scheme.weight) + ", n = " + std::to_string(layer.config.n) +
                 ", k = " + std::to_string(layer.config.k) + ", m = " + std::to_string(m) + ", " +
                 std::string(dtype_name(layer.config.in)) + ", gap " + std::to_string(gap) + ", skip " +
                 std::to_string(skip));
    expect_close(layer, x, run_on_cuda(kernel(), device_, layer, x, gap, skip), 0, sampling(layer.config, m),
                 weight_rounding(kernel(), layer));
  }
};

TEST_P(GpuConformance, EverySchemeAtShapesOfTensorCores) {
  constexpr Grid kShapes[] = {{1, 64},    {7, 128},   {16, 64},   {17, 192},  {64, 64},    {65, 128},
                              {127, 256}, {128, 128}, {129, 320}, {136, 576}, {192, 1024}, {520, 2048}};
  constexpr int64_t kTokens[] = {1,  2,  3,  5,  8,  9,  15,  16,  17,  24, 31,
                                 33, 48, 63, 64, 65, 96, 127, 129, 200, 257};
  std::mt19937 random(1);
  size_t step = 0, ran = 0;
  std::vector<QuantKey> keys = checkpoint_schemes();
  keys.push_back({.group = kMx32});  // what merging an MX layer with another makes
  for (const QuantKey& key : keys) {
    for (const Grid& shape : kShapes) {
      for (const DType half : kHalf) {
        ++step;
        const LinearConfig config = half_config(shape.rows, shape.cols, key, half, step % 3 == 0);
        if (!can_implement(kernel(), config, device_)) continue;
        const Layer layer = random_layer(config, random);
        for (size_t i = 0; i < 3; ++i) {
          expect_right(layer, kTokens[(step * 5 + i * 7) % std::size(kTokens)],
                       static_cast<int64_t>((step + i) % 3) * 8, 0, random);
          if (HasFatalFailure() || HasNonfatalFailure()) return;
        }
        ++ran;
      }
    }
  }
  EXPECT_GT(ran, 0u) << "it refused everything";
}

TEST_P(GpuConformance, EveryTokenCountUpToATileAndBeyond) {
  std::mt19937 random(2);
  for (const QuantKey& key : {QuantKey{.group = kPerRow}, QuantKey{.group = kBlock128}}) {
    for (const DType half : kHalf) {
      const LinearConfig config = half_config(136, 192, key, half, true);
      if (!can_implement(kernel(), config, device_)) continue;
      const Layer layer = random_layer(config, random);
      for (int64_t m = 0; m <= 70; ++m) expect_right(layer, m, 0, 0, random);
      for (const int64_t m : {127, 128, 129, 255, 256, 257, 511, 513, 1025})
        expect_right(layer, m, 0, 0, random);
      if (HasFatalFailure() || HasNonfatalFailure()) return;
    }
  }
}

// Blocks that walk several tiles each: more tiles than the largest card has room for blocks.
TEST_P(GpuConformance, ManyTiles) {
  constexpr int64_t kDepths[] = {64, 136, 200};
  std::mt19937 random(10);
  size_t step = 0;
  for (const QuantKey& key : {QuantKey{.group = kPerRow}, QuantKey{.group = kBlock128}}) {
    for (const DType half : kHalf) {
      const LinearConfig config = half_config(60000, kDepths[step % 3], key, half, step % 2 == 0);
      ++step;
      if (!can_implement(kernel(), config, device_)) continue;
      const Layer layer = random_layer(config, random);
      for (const int64_t m : {3, 20, 300}) {
        const auto cut = cut_of(kernel(), device_, config, m);
        if (cut) {
          EXPECT_GT(cut->tiles, cut->blocks) << "no block has two tiles, m = " << m;
        }
        expect_right(layer, m, 0, 0, random);
        if (HasFatalFailure() || HasNonfatalFailure()) return;
      }
    }
  }
}

// Scales of several tiles of a block, each of more k than a warp holds scales for (512).
TEST_P(GpuConformance, ManyTilesWithScalesAlongK) {
  std::mt19937 random(12);
  for (const QuantKey& key :
       {QuantKey{.group = kGroup128}, QuantKey{.group = kMx32, .scale_dtype = DType::kE8M0}}) {
    const LinearConfig config = half_config(40000, 680, key, DType::kBF16, false);
    if (!can_implement(kernel(), config, device_)) continue;
    const Layer layer = random_layer(config, random);
    for (const int64_t m : {3, 40}) {
      const auto cut = cut_of(kernel(), device_, config, m);
      if (cut) {
        EXPECT_GT(cut->tiles, cut->blocks) << "no block has two tiles, m = " << m;
      }
      expect_right(layer, m, 0, 0, random);
      if (HasFatalFailure() || HasNonfatalFailure()) return;
    }
  }
}

// A case of each way to compute, small enough to be run under compute-sanitizer.
TEST_P(GpuConformance, Smoke) {
  std::mt19937 random(8);
  for (const QuantKey& key : {QuantKey{.group = kPerRow}, QuantKey{.group = kBlock128},
                              QuantKey{.group = kMx32, .scale_dtype = DType::kE8M0},
                              QuantKey{.dtype = DType::kF16}, QuantKey{.dtype = DType::kBF16}}) {
    for (const DType half : kHalf) {
      const LinearConfig config = half_config(136, 448, key, half, true);
      if (!can_implement(kernel(), config, device_)) continue;
      const Layer layer = random_layer(config, random);
      for (const int64_t m : {1, 9, 40, 130}) expect_right(layer, m, 8, 0, random);
      if (HasFatalFailure() || HasNonfatalFailure()) return;
    }
  }
}

// Likewise, of blocks that share k: 184 million products at most, of which only cuda_reference loads the
// operands one by one (2 million loads of a warp).
TEST_P(GpuConformance, SmokeOfSharedK) {
  std::mt19937 random(11);
  size_t step = 0;
  for (const QuantKey& key : {QuantKey{.group = kPerRow}, QuantKey{.group = kBlock128},
                              QuantKey{.group = kMx32, .scale_dtype = DType::kE8M0}}) {
    for (const DType half : kHalf) {
      const LinearConfig config = half_config(136, 10400, key, half, step++ % 2 == 0);
      if (!can_implement(kernel(), config, device_)) continue;
      const Layer layer = random_layer(config, random);
      for (const int64_t m : {1, 9, 130}) {
        const auto cut = cut_of(kernel(), device_, config, m);
        if (cut) {
          EXPECT_GT(cut->splits, 1) << "m = " << m;
        }
        expect_right(layer, m, 8, 0, random);
        if (HasFatalFailure() || HasNonfatalFailure()) return;
      }
    }
  }
}

// Of one and a quarter cards full of tiles the quarter is shared by pairs of blocks.
TEST_P(GpuConformance, ALastWaveThatBlocksShare) {
  if (kernel().name != "cuda_wgmma_w8a16") GTEST_SKIP() << "shares no last wave";
  std::mt19937 random(10);
  const int64_t quarters = device_.sm_count / 4 * 5;
  struct {
    QuantKey key;
    int64_t n, k, m;
  } const cases[] = {{{.group = kPerRow}, quarters * 256, 640, 20},
                     {{.group = kBlock128}, quarters * 256, 640, 30},
                     {{.group = kPerRow}, quarters * 256, 1280, 127},
                     {{.group = kBlock128}, quarters * 256, 1280, 100}};
  for (const auto& [key, n, k, m] : cases) {
    const LinearConfig config = half_config(n, k, key, DType::kBF16, true);
    const auto cut = cut_of(kernel(), device_, config, m);
    EXPECT_EQ(cut->splits, 2) << "m = " << m;
    EXPECT_LT(cut->blocks, cut->tiles) << "m = " << m;
    expect_right(random_layer(config, random), m, 0, 0, random);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

// The largest tiles keep sums in units of a block's scale: none is too small, too large or negative for that.
TEST_P(GpuConformance, BlockScalesOfEverySize) {
  if (kernel().name != "cuda_wgmma_w8a16") GTEST_SKIP() << "has no units";
  constexpr float kSizes[] = {0,     0x1p-149f, 1e-38f, 0x1p-126f, 3e-30f, 1e-7f, 0.02f,
                              0.02f, 0x1p-7f,   -0.5f,  1,         700,    1e15f};
  std::mt19937 random(11);
  for (const size_t most : {std::size(kSizes) - 8, std::size(kSizes) - 3, std::size(kSizes)}) {
    const LinearConfig config =
        half_config(int64_t{device_.sm_count} * 256, 1024, {.group = kBlock128}, DType::kBF16, false);
    constexpr int64_t kTokens = 110;
    const auto problem = wgmma::problem_of(config, kTokens, device_.sm_count);
    ASSERT_TRUE(wgmma::rescales(problem.operands, wgmma::make_plan(problem).shape));
    Layer layer = random_layer(config, random);
    for (int64_t i = 0; i < layer.grid.rows * layer.grid.cols; ++i) {
      encode(DType::kF32, layer.scale.data(), i, kSizes[random() % most]);
    }
    expect_right(layer, kTokens, 0, 0, random);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

// Views of a larger tensor begin at any element, and their rows are any distance apart.
TEST_P(GpuConformance, RowsAtAnyAlignment) {
  std::mt19937 random(3);
  for (const QuantKey& key : {QuantKey{.group = kPerRow}, QuantKey{.group = kBlock128}}) {
    for (const DType half : kHalf) {
      const LinearConfig config = half_config(72, 128, key, half, true);
      if (!can_implement(kernel(), config, device_)) continue;
      const Layer layer = random_layer(config, random);
      for (const int64_t m : {1, 5, 40, 300}) {
        for (const int64_t gap : {0, 1, 2, 4, 7}) {
          for (const size_t skip : {0, 1, 2, 4}) expect_right(layer, m, gap, skip, random);
          if (HasFatalFailure() || HasNonfatalFailure()) return;
        }
      }
    }
  }
}

// One k is of aligned rows and one is not; both are long enough to be shared among blocks.
TEST_P(GpuConformance, ARowHasTheSameBitsInAnyBatchAtAnyPosition) {
  if (!kernel().batch_invariant) GTEST_SKIP() << kernel().name << " does not promise it";
  constexpr int64_t kAll = 1000;
  std::mt19937 random(4);
  for (const QuantKey& key : checkpoint_schemes()) {
    for (const DType half : kHalf) {
      for (const int64_t k : {2600, 2643}) {
        LinearConfig config = half_config(200, k, key, half, true);
        config.policy = Policy::kInvariant;
        if (!can_implement(kernel(), config, device_)) continue;
        Layer layer = random_layer(config, random);
        if (key.scale_dtype == DType::kE8M0) {  // so far apart that the sums of fp16 are shifted
          for (size_t i = 0; i < layer.scale.size(); ++i)
            layer.scale[i] = static_cast<uint8_t>(96 + i * 7 % 31);
        }
        Matrix all = random_matrix(half, kAll, k, 0, random);
        const Matrix expected = run(kernel(), device_, layer, all);
        for (const int64_t m : {int64_t{1}, int64_t{4}, int64_t{20}, int64_t{33}, int64_t{100}, kAll}) {
          const auto cut = cut_of(kernel(), device_, config, m);
          if (cut) {
            ASSERT_GT(cut->splits, 1) << "k is not shared, so its order is not tested: m = " << m;
          }
          for (const int64_t first : {int64_t{0}, int64_t{7}, int64_t{500}, kAll - m}) {
            if (first + m > kAll) continue;
            Matrix part(half, m, k, 0);
            std::copy_n(all.bytes.begin() + first * k * 2, part.bytes.size(), part.bytes.begin());
            const Matrix y = run(kernel(), device_, layer, part);
            for (int64_t t = 0; t < m; ++t) {
              ASSERT_EQ(y.row_bytes(t), expected.row_bytes(first + t))
                  << key_text(key) << ", " << dtype_name(half) << ", k = " << k << ", m = " << m
                  << " from row " << first;
            }
          }
        }
      }
    }
  }
}

// Every partial sum of codes is far above 65504 before the scale brings it back, and exact in fp32.
TEST_P(GpuConformance, LongSumsStayFiniteInFp16) {
  constexpr int64_t kN = 64, kK = 16384;
  constexpr float kScale = 0x1p-8f, kTruth = kK * 448 * kScale;  // 28672
  for (const Group group : {kPerTensor, kPerRow, kBlock128}) {
    const LinearConfig config = half_config(kN, kK, {.group = group}, DType::kF16, false);
    if (!can_implement(kernel(), config, device_)) continue;
    Layer layer{.config = config};
    layer.weight.assign(kN * kK, f32_to_e4m3(448));
    layer.grid = scale_grid(group, kN, kK);
    layer.scale.resize(static_cast<size_t>(layer.grid.rows * layer.grid.cols) * 4);
    for (int64_t i = 0; i < layer.grid.rows * layer.grid.cols; ++i) {
      encode(DType::kF32, layer.scale.data(), i, kScale);
    }
    for (const int64_t m : {1, 16, 200, 600}) {
      Matrix x(DType::kF16, m, kK, 0);
      for (int64_t t = 0; t < m; ++t) {
        for (int64_t c = 0; c < kK; ++c) x.set(t, c, 1);
      }
      const Matrix y = run(kernel(), device_, layer, x);
      for (int64_t t = 0; t < m; ++t) {
        for (int64_t n = 0; n < kN; ++n) {
          ASSERT_EQ(y.at(t, n), kTruth) << group_text(group) << ": y[" << t << ", " << n << "], m = " << m;
        }
      }
    }
  }
}

// Weights of about 1e-7 are below what fp16 holds; x brings y back to where it can be judged.
TEST_P(GpuConformance, ScalesDownTo1e7AreNotLost) {
  std::mt19937 random(5);
  for (const QuantKey& key : checkpoint_schemes()) {
    for (const DType half : kHalf) {
      const LinearConfig config = half_config(72, 512, key, half, false);
      if (!can_implement(kernel(), config, device_)) continue;
      Layer layer = random_layer(config, random);
      for (int64_t i = 0; i < layer.grid.rows * layer.grid.cols; ++i) {
        if (key.scale_dtype == DType::kE8M0) {
          layer.scale[static_cast<size_t>(i)] = static_cast<uint8_t>(104 + i % 3);  // 2^-23 is 1.2e-7
        } else {
          encode(DType::kF32, layer.scale.data(), i, 1e-7f * static_cast<float>(1 + i % 3));
        }
      }
      for (const int64_t m : {1, 30, 500}) expect_right(layer, m, 0, 0, random, 5000);
      if (HasFatalFailure() || HasNonfatalFailure()) return;
    }
  }
}

// One weight with scales far apart, and so large that the largest codes leave fp16.
TEST_P(GpuConformance, ScalesFarApartAndAboveOneHold) {
  std::mt19937 random(9);
  for (const QuantKey& key : checkpoint_schemes()) {
    for (const DType half : kHalf) {
      const LinearConfig config = half_config(264, 512, key, half, true);
      if (!can_implement(kernel(), config, device_)) continue;
      Layer layer = random_layer(config, random);
      for (int64_t i = 0; i < layer.grid.rows * layer.grid.cols; ++i) {
        const int64_t down = i % 24;  // from 2^9 to 2^-14
        if (key.scale_dtype == DType::kE8M0) {
          layer.scale[static_cast<size_t>(i)] = static_cast<uint8_t>(136 - down);
        } else {
          encode(DType::kF32, layer.scale.data(), i, 1.3f * std::ldexp(256.0f, static_cast<int>(-down)));
        }
      }
      encode(key.dtype, layer.weight.data(), 0, 448);  // times its scale: 149094 or 229376
      for (const int64_t m : {1, 30, 500}) expect_right(layer, m, 0, 0, random, 0.02f);
      if (HasFatalFailure() || HasNonfatalFailure()) return;
    }
  }
}

// Powers of two go into the decoding of codes, whose range ends: rows of large scales only, rows of small
// ones only, and rows with both and all between, under a largest scale that models have and under larger
// ones.
TEST_P(GpuConformance, MxScalesFarApartAreExactWhateverElseIsInTheRow) {
  struct Case {
    DType half;
    int largest, down;  // codes: 127 is 1
  };
  constexpr Case kCases[] = {{DType::kBF16, 120, 60}, {DType::kBF16, 134, 60}, {DType::kBF16, 187, 60},
                             {DType::kF16, 120, 20},  {DType::kF16, 134, 27},  {DType::kF16, 134, 60}};
  std::mt19937 random(13);
  for (const DType dtype : {DType::kE4M3, DType::kE5M2}) {
    const QuantKey key{.dtype = dtype, .group = kMx32, .scale_dtype = DType::kE8M0};
    for (const Case& c : kCases) {
      const LinearConfig config = half_config(264, 1056, key, c.half, false);
      if (!can_implement(kernel(), config, device_)) continue;
      Layer layer = random_layer(config, random);
      for (int64_t row = 0; row < layer.grid.rows; ++row) {
        for (int64_t column = 0; column < layer.grid.cols; ++column) {
          // The last 8 rows are of another tile, where all are near.
          const int64_t down = row % 3 == 0 || row >= 256 ? 0
                               : row % 3 == 1             ? c.down
                                                          : column * 7 % (c.down + 1);
          layer.scale[static_cast<size_t>(row * layer.grid.cols + column)] =
              static_cast<uint8_t>(c.largest - down);
        }
      }
      for (const int64_t m : {1, 12, 30, 60, 200}) expect_right(layer, m, 0, 0, random);
      if (HasFatalFailure() || HasNonfatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, GpuConformance, testing::ValuesIn(cuda_kernels()), kernel_name);

}  // namespace
}  // namespace anyfp8
