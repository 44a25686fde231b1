#pragma once

#include "anyfp8/kernels/common/fragment_decode.cuh"
#include "anyfp8/kernels/common/mma_instructions.cuh"
#include "anyfp8/kernels/common/tile_arguments.h"
#include "anyfp8/kernels/common/tile_shapes.h"

// What the parts of the tile kernel share: its numbers, and where things lie in a stage of the ring.
namespace anyfp8::tile {

template <Family kFamily_, Half kHalf_, Code kCode_, Scaling kScaling_, ShapeId kShape_>
struct TileShape {
  static constexpr Shape kShape = kShapes[kShape_];
  static constexpr Family kFamily = kFamily_;
  static constexpr Half kHalf = kHalf_;
  static constexpr Code kCode = kCode_;
  static constexpr Scaling kScaling = kScaling_;
  // k of one scale; 0: all.
  static constexpr int kGroup = kScaling == Scaling::kRow ? 0 : kScaling == Scaling::k128 ? 128 : 32;
  static constexpr bool kPromotes = promotes(kScaling), kFolds = kScaling == Scaling::kMx;
  static constexpr bool kMayBeFarApart = kFolds && kHalf == Half::kF16;
  static ANYFP8_HOST_DEVICE constexpr MxRule mx_rule() { return MxRule::of(kHalf, kCode); }
  static constexpr int kWarpsN = kShape.warps_n, kWarpsK = kShape.warps_k;
  static constexpr int kTiles16 = kShape.tiles16, kTiles8 = kShape.tiles8, kChunks = kShape.chunks;
  static constexpr int kThreads = kShape.threads(), kRows = kShape.rows(), kTokens = kShape.tokens();
  static constexpr int kDepth = kShape.depth();
  static constexpr int kStages = stages_of(kShape, kFamily);
  static constexpr int kWeightBytes = weight_bytes(kShape, kFamily);  // of a stage; x lies behind them
  static constexpr int kStageBytes = stage_bytes(kShape, kFamily), kSumPitch = sum_pitch(kShape);
  static constexpr int kSharedBytes = shared_bytes(kShape, kFamily);
  static constexpr int kSumsOffset = sums_offset(kShape, kFamily);
  static constexpr int kOutputs = kRows * kTokens;
  static constexpr int kSums =
      (kOutputs + kThreads - 1) / kThreads;  // of a thread, when the warps' are added up
  static_assert(kStages >= 2);
  static_assert(kRows * kDepth % (16 * kThreads) == 0 && (kOutputs % kThreads == 0 || kOutputs < kThreads));
};

// Divisions take a hundred cycles before a block's first load, and most are by 1.
inline __device__ int divide(int a, int b) {
  return b == 1 ? a : static_cast<int>(static_cast<uint32_t>(a) / static_cast<uint32_t>(b));
}

// Which part of a tile a warp has, and which rows and columns of a product a lane.
template <class S>
struct WarpPlace {
  int warp_n, warp_k, lane, g, t;
  __device__ WarpPlace()
      : warp_n(threadIdx.x / 32 % S::kWarpsN),
        warp_k(threadIdx.x / 32 / S::kWarpsN),
        lane(threadIdx.x % 32),
        g(lane / 4),
        t(lane % 4) {}
  // Of the upper left of product (r, j), in the tile.
  __device__ int row(int r) const { return (warp_n * S::kTiles16 + r) * 16; }
  static __device__ int token(int j) { return j * 8; }
};

// The order of tiles: those of the same outputs one after the other, so that their weights are still in the
// L2 cache.
template <class S>
inline __device__ int first_row(const TileArguments& p, int tile) {
  return divide(tile, p.token_tiles) * S::kRows;
}
template <class S>
inline __device__ int first_token(const TileArguments& p, int tile) {
  return p.token_tiles == 1 ? 0 : tile % p.token_tiles * S::kTokens;
}

// What a block has to do: of each of its tiles the stages from first_step to last_step.
struct Work {
  int first_tile, past_tile, first_step, last_step;
  int rank;  // of its part of the k of a tile
  __device__ int stages() const { return (past_tile - first_tile) * (last_step - first_step); }
};

// Parts begin at multiples of 128 k, or of a longer stage: at the same k in every shape of up to 128, as an
// invariant plan needs them, which takes those in which one warp sums all of a part.
template <class S>
inline __device__ Work work_of_block(const TileArguments& p) {
  const int block = blockIdx.x;
  if (p.splits == 1) {
    const auto tiles_before = [&](int b) { return p.tiles.each * b + min(b, p.tiles.more); };
    return {tiles_before(block), tiles_before(block + 1), 0, p.steps, 0};
  }
  constexpr int kUnit = S::kDepth < 128 ? 128 / S::kDepth : 1;
  const auto steps_before = [&](int rank) {
    return min((p.units.each * rank + min(rank, p.units.more)) * kUnit, p.steps);
  };
  const int tile = divide(block, p.splits), rank = block - tile * p.splits;
  return {tile, tile + 1, steps_before(rank), steps_before(rank + 1), rank};
}

// Where 16-byte unit `unit` of a row's stage lies, [row][chunks]. A warp reads 8 rows of one 64-byte chunk, 4
// units each, and of its 8 lanes that are served together 4 read an even and 4 an odd row, which must not
// meet in a bank: chunks of odd rows change places in pairs.
template <class S>
inline __device__ uint32_t weight_place(int row, int unit) {
  const int chunk = S::kDepth >= 128 ? (unit / 4) ^ (row & 1) : 0;
  return row * S::kDepth + chunk * 64 + unit % 4 * 16;
}
// The same of x, [token][chunks]: ldmatrix reads unit after unit of 8 tokens, whose places the XOR spreads
// over the banks.
template <class S>
inline __device__ uint32_t x_place(int token, int unit) {
  return token * S::kDepth * 2 + (unit ^ (token & 7)) * 16;
}

inline __device__ float power_of_2(int exponent) {  // -126 to 127
  return __uint_as_float(static_cast<uint32_t>(exponent + 127) << 23);
}
inline __device__ float scale_of_e8m0(uint32_t code) {
  return __uint_as_float(code == 0 ? 0x00400000u : code << 23);  // 2^(code - 127); 2^-127 is subnormal
}
inline __device__ float scale_at(const TileArguments& p, int row, int column) {
  const int64_t index = static_cast<int64_t>(row) * p.scale_columns + column;
  if (!p.scale_e8m0) return static_cast<const float*>(p.scale)[index];
  return scale_of_e8m0(static_cast<const uint8_t*>(p.scale)[index]);
}
// The row of scales of an output.
inline __device__ int scale_row(const TileArguments& p, int n) {
  return p.group_rows == 0 ? 0 : divide(n, p.group_rows);
}

}  // namespace anyfp8::tile
