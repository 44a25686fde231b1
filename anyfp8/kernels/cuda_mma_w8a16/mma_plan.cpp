#include "anyfp8/kernels/cuda_mma_w8a16/mma_plan.h"

#include <algorithm>
#include <span>

namespace anyfp8::mma {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

size_t output_bytes(const Shape& shape) {
  return static_cast<size_t>(shape.rows() * shape.tokens()) * sizeof(float);
}

// The smallest tile that holds all tokens; one of few outputs for layers that would not fill the card with wide ones.
ShapeId choose_shape(const Problem& p, Family family, int sm_count) {
  const bool narrow = p.n < int64_t{64} * sm_count;
  // One order of sums for every m: the shapes in which one warp sums all of a part's k.
  constexpr ShapeId kNarrowFirst[] = {kNarrow8, kNarrow16, kWide8, kWide16, kTokens32, kTokens64, kTokens128,
                                      kTokens128Grouped};
  constexpr ShapeId kWideFirst[] = {kWide8, kWide16, kTokens32, kTokens64, kTokens128, kTokens128Grouped};
  constexpr ShapeId kOneOrder[] = {kWide16, kTokens32, kTokens64, kTokens128, kTokens128Grouped};
  const std::span<const ShapeId> shapes = p.invariant ? std::span<const ShapeId>(kOneOrder)
                                          : narrow    ? std::span<const ShapeId>(kNarrowFirst)
                                                      : std::span<const ShapeId>(kWideFirst);
  ShapeId chosen = kWide16;  // there for every family, code and group
  for (const ShapeId shape : shapes) {
    if (!has_shape(family, p.code, p.group, shape)) continue;
    chosen = shape;
    if (kShapes[shape].tokens() >= p.m) break;
  }
  return chosen;
}

// So many blocks share a tile's k that all together fill the card once. Clusters of more than two lie within a part
// of the card whose multiprocessors they may not divide: with 8 blocks each, 32 clusters on 264 places of an H200
// took 1.2 to 1.3 times as long as with 7 (4096 x 4096 and 4096 x 14336, m = 32 to 128), so a tenth stays free.
int choose_splits(const Problem& p, int sm_count, ShapeId id) {
  const Shape& shape = kShapes[id];
  const int64_t row_tiles = ceil_div(p.n, shape.rows());
  const int64_t tiles = p.invariant ? row_tiles : row_tiles * ceil_div(std::max<int64_t>(p.m, 1), shape.tokens());
  const int64_t places = static_cast<int64_t>(sm_count) * (p.invariant ? 1 : shape.blocks);
  // A part has at least two of the units that parts begin at.
  const int64_t most = std::min<int64_t>(ceil_div(p.k, std::max(128, shape.depth())) / 2, 8);
  if (places / tiles < 2 || most < 2) return 1;
  return static_cast<int>(std::clamp<int64_t>(places * 9 / 10 / tiles, 2, most));
}

}  // namespace

Family family_of(ComputeCapability cc) {
  return cc.major >= 9 ? Family::kSm90 : cc.major >= 8 ? Family::kSm80 : Family::kSm75;
}

size_t most_scratch_bytes(Family family, int sm_count) {
  if (family == Family::kSm90) return 0;
  size_t most = 0;
  for (const Shape& shape : kShapes) {
    most = std::max(most, static_cast<size_t>(sm_count * shape.blocks) * (output_bytes(shape) + 256));
  }
  return most;
}

int64_t tokens_at_once(const Plan& plan, Family family, int sm_count) {
  const int64_t tokens = kShapes[plan.shape].tokens(), bytes = static_cast<int64_t>(plan.counter_bytes + plan.sum_bytes);
  if (bytes == 0) return plan.token_tiles * tokens;
  const auto room = static_cast<int64_t>(most_scratch_bytes(family, sm_count));
  return std::clamp<int64_t>(room * plan.token_tiles / bytes, 1, plan.token_tiles) * tokens;
}

Plan plan_with(const Problem& p, Family family, int sm_count, ShapeId id, int splits) {
  const Shape& shape = kShapes[id];
  Plan plan{};
  plan.shape = id;
  plan.token_tiles = ceil_div(std::max<int64_t>(p.m, 1), shape.tokens());
  plan.tiles = ceil_div(p.n, shape.rows()) * plan.token_tiles;
  plan.steps = ceil_div(p.k, shape.depth());
  plan.splits = splits;
  const int64_t slots = static_cast<int64_t>(sm_count) * shape.blocks;
  plan.blocks = splits > 1 ? plan.tiles * splits : std::min(plan.tiles, slots);
  if (splits > 1 && family != Family::kSm90) {
    plan.counter_bytes = static_cast<size_t>(ceil_div(plan.tiles * 4, 256) * 256);
    plan.sum_bytes = static_cast<size_t>(plan.tiles * splits) * output_bytes(shape);
  }
  return plan;
}

Plan make_plan(const Problem& problem, Family family, int sm_count) {
  const ShapeId shape = choose_shape(problem, family, sm_count);
  return plan_with(problem, family, sm_count, shape, choose_splits(problem, sm_count, shape));
}

}  // namespace anyfp8::mma
