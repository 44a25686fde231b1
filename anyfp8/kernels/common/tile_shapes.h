#pragma once

#include <array>

// The tiles of the fused W8A16 kernels: plain numbers that the plan (host) and the template (device) share.
namespace anyfp8::tile {

// Families of machine code, by the oldest card that runs it.
enum class Family { kSm75, kSm80, kSm90 };
enum class Half { kBF16, kF16 };   // of activations
enum class Code { kE4M3, kE5M2 };  // of weights

// Scales of a row of the weight: one; one for each 128 or 32 k, by which that group's sums are multiplied
// before they are added to the others (promoted); or e8m0 ones for each 32 k, which go into the decoding of
// the codes (mx_factor.h).
enum class Scaling { kRow, k128, k32, kMx };
inline constexpr int kScalings = 4;
constexpr bool promotes(Scaling scaling) { return scaling == Scaling::k128 || scaling == Scaling::k32; }

// What selects a kernel beside its shape.
struct Operands {
  Half half;
  Code code;
  Scaling scaling;
};

struct Shape {
  int warps_n, warps_k;  // along outputs and k
  int tiles16, tiles8;   // products of 16 outputs x 8 tokens of a warp
  int chunks;            // of 64 k of a warp in a stage
  int stages;            // at most; as many as fit
  int blocks;            // on a multiprocessor

  constexpr int threads() const { return 32 * warps_n * warps_k; }
  constexpr int rows() const { return 16 * tiles16 * warps_n; }
  constexpr int tokens() const { return 8 * tiles8; }
  constexpr int depth() const { return 64 * chunks * warps_k; }
};

enum ShapeId {
  kNarrow8,
  kWide8,
  kNarrow16Alone,
  kNarrow16,
  kWide16,
  kTokens32,
  kTokens64,
  kTokens128,
  kTokens128Grouped,
  kShapeCount
};
inline constexpr std::array<Shape, kShapeCount> kShapes{{
    {1, 8, 1, 1, 2, 3, 2},   // 16 x 8: layers of few outputs
    {8, 1, 1, 1, 2, 6, 2},   // 128 x 8
    {2, 8, 1, 2, 2, 3, 1},   // 32 x 16, alone on a multiprocessor
    {2, 4, 1, 2, 2, 3, 2},   // 32 x 16
    {4, 1, 2, 2, 2, 4, 2},   // 128 x 16
    {4, 1, 2, 4, 2, 4, 2},   // 128 x 32
    {4, 1, 2, 8, 2, 3, 2},   // 128 x 64
    {4, 1, 2, 16, 1, 4, 2},  // 128 x 128
    {8, 1, 1, 16, 1, 4, 1},  // 128 x 128 where promoted groups of k double the sums of a thread
}};

// What is instantiated: the tile of 128 tokens in the form that its sums allow; for e5m2 weights and f32
// scales of 32 k, which few checkpoints have, two shapes; and for Turing, whose registers stand in for most
// of the ring, the shapes that fit.
constexpr bool has_shape(Family family, const Operands& operands, ShapeId shape) {
  if (shape == (promotes(operands.scaling) ? kTokens128 : kTokens128Grouped)) return false;
  if (operands.code == Code::kE5M2 || operands.scaling == Scaling::k32) {
    return shape == kWide16 || (shape == kTokens32 && family != Family::kSm75);
  }
  if (shape == kNarrow16Alone) return family == Family::kSm90;  // two stages need 128 KB
  if (family != Family::kSm75) return true;
  return shape == kWide8 || shape == kWide16 || shape == kTokens32 ||
         (shape == kNarrow8 && operands.scaling != Scaling::kMx);
}

// The system takes so much of a multiprocessor's shared memory for each block.
inline constexpr int kReservedBytes = 1 << 10;

// Shared memory a block may have, of the smallest card of a family (bytes).
constexpr int shared_limit(Family family) {
  return family == Family::kSm75 ? 64 << 10 : family == Family::kSm80 ? 99 << 10 : 227 << 10;
}

// Shared memory of a shape: a stage holds weights, which on Turing go straight to registers, and x in 16 bit;
// beside the ring meet the sums of warps that share k.
constexpr int weight_bytes(const Shape& s, Family family) {
  return family == Family::kSm75 ? 0 : s.rows() * s.depth();
}
constexpr int stage_bytes(const Shape& s, Family family) {
  return weight_bytes(s, family) + s.tokens() * s.depth() * 2;
}
constexpr int sum_pitch(const Shape& s) {
  return s.rows() + 4;
}  // the padding spreads a fragment over the banks
constexpr int sum_bytes(const Shape& s) { return s.warps_k * s.tokens() * sum_pitch(s) * 4; }
// Without cp.async registers hold what is on the way, so two stages of x are all. On Hopper, whose
// multiprocessors have 228 KB, as many as let all `blocks` be there together.
constexpr int stages_of(const Shape& s, Family family) {
  const int beside = (s.warps_k == 1 ? 0 : sum_bytes(s));
  const int of_block =
      family < Family::kSm90 ? shared_limit(family) : (228 << 10) / s.blocks - kReservedBytes;
  const int fit = (of_block - beside) / stage_bytes(s, family);
  const int wanted = family == Family::kSm75 ? 2 : s.stages;
  return fit < wanted ? fit : wanted;
}
// The ring, then the sums of warps that share k. Other sums meet over the ring.
constexpr int sums_offset(const Shape& s, Family family) {
  const int ring = stages_of(s, family) * stage_bytes(s, family);
  return s.warps_k == 1 && ring < sum_bytes(s) ? sum_bytes(s) : ring;
}
constexpr int shared_bytes(const Shape& s, Family family) {
  return sums_offset(s, family) + (s.warps_k == 1 ? 0 : sum_bytes(s));
}

}  // namespace anyfp8::tile
