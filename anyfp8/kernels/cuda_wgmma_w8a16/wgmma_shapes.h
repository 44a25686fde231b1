#pragma once

#include <array>

#include "anyfp8/kernels/common/tile_shapes.h"

// The tiles of cuda_wgmma_w8a16: plain numbers that the plan (host) and the kernel (device) share.
namespace anyfp8::wgmma {

using tile::Code;
using tile::Half;
using tile::Operands;
using tile::Scaling;

inline constexpr int kConsumers = 256;  // threads: two warpgroups
inline constexpr int kThreads = kConsumers + 128;

struct Shape {
  int rows64;  // products of 64 outputs that each of the two warpgroups has
  int tokens;
  int stages;  // of 128 k
  int blocks;  // on a multiprocessor
  // So long takes a stage of each block of a multiprocessor (us): H200, what of the time of the layers 4096 x
  // 4096, 28672 x 4096 and 4096 x 14336 grows with the number of stages.
  double stage_us;

  constexpr int rows() const { return 128 * rows64; }
  constexpr int weight_bytes() const { return rows() * 128; }
  constexpr int x_bytes() const { return tokens * 256; }
  constexpr int stage_bytes() const { return weight_bytes() + x_bytes(); }
};

enum ShapeId {
  k128x16,
  k128x32,
  k128x64,
  k128x64Alone,
  k256x64,
  k128x96,
  k256x96,
  k128x128,
  k256x128,
  kShapeCount
};
inline constexpr std::array<Shape, kShapeCount> kShapes{{
    {1, 16, 5, 2, 0.94},
    {1, 32, 4, 2, 0.94},
    {1, 64, 3, 2, 1.08},
    {1, 64, 6, 1, 0.545},
    {2, 64, 4, 1, 1.04},
    {1, 96, 5, 1, 0.63},  // of 96: between their neighbours
    {2, 96, 4, 1, 1.18},
    {1, 128, 4, 1, 0.735},
    {2, 128, 3, 1, 1.33},
}};

// The largest tile keeps its sums in units of the scale of the 128 k under way (BlockScale): a second set of
// sums, of those 128 k, would leave no registers. The scale's power of two goes into the codes, for which
// fp16 has no room.
constexpr bool rescales(const Operands& operands, ShapeId shape) {
  return operands.scaling == Scaling::k128 && operands.half == Half::kBF16 && shape == k256x128;
}

// What is instantiated. Two sets of sums leave no registers for 256 rows of more than 64 tokens, nor for two
// blocks of 64 tokens; e5m2 weights, which few checkpoints have, get two shapes.
constexpr bool has_scaling(const Operands& operands) {
  return operands.scaling == Scaling::kRow || operands.scaling == Scaling::k128 ||
         (operands.scaling == Scaling::kMx && operands.half == Half::kBF16);
}
constexpr bool has_shape(const Operands& operands, ShapeId shape) {
  if (!has_scaling(operands)) return false;
  if (operands.code == Code::kE5M2) return shape == k128x32 || shape == k128x128;
  if (operands.scaling != Scaling::k128 || rescales(operands, shape)) return true;
  return shape != k256x128 && shape != k256x96 && shape != k128x64;
}

// Shared memory: barriers, then the ring, whose swizzle counts from multiples of 1024 bytes.
inline constexpr int kBarrierBytes = 1024;
constexpr int shared_bytes(const Shape& s) { return kBarrierBytes + s.stages * s.stage_bytes(); }

// Where more than two parts of a tile meet: this block's sums over the ring's start, [tokens][pitch] f32, and
// behind them those that other blocks send, for the tokens that it adds up.
constexpr int sum_pitch(const Shape& s) { return s.rows() + 4; }  // spreads a fragment over the banks
constexpr int most_splits(const Shape& s) {
  const int of_eight_tokens = 8 * sum_pitch(s) * 4, groups = s.tokens / 8;
  for (int splits = 3; splits <= 8; ++splits) {
    const int sent = splits * ((groups + splits - 1) / splits);
    if ((groups + sent) * of_eight_tokens > s.stages * s.stage_bytes()) return splits - 1;
  }
  return 8;
}

}  // namespace anyfp8::wgmma
