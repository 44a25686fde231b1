#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_plan.h"

#include <algorithm>

namespace anyfp8::wgmma {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t token_tiles_of(const Problem& p, const Shape& shape) {
  return ceil_div(std::max<int64_t>(p.m, 1), shape.tokens);
}
int64_t tiles_of(const Problem& p, const Shape& shape) {
  return ceil_div(p.n, shape.rows()) * token_tiles_of(p, shape);
}

// Clusters of three and more lie within a part of the card whose multiprocessors they may not divide: of 132
// places of an H200 clusters of 3 to 8 fill 117, 120, 110, 102, 105 and 120. Three quarters always fit.
int64_t fitting_splits(int64_t places, int64_t tiles) {
  const int64_t fit = places * 3 / 4 / tiles;
  return fit < 2 && 2 * tiles <= places ? 2 : std::max<int64_t>(fit, 1);
}

int choose_splits(const Problem& p, const Shape& shape) {
  constexpr int64_t kLeastSteps = 5;  // shorter parts are mostly beginning and end
  const int64_t most = ceil_div(p.k, 128) / kLeastSteps;
  // An invariant cut is that of one token tile, by the outputs alone.
  const int64_t fit =
      p.invariant
          ? fitting_splits(p.sm_count, ceil_div(p.whole_n > 0 ? p.whole_n : p.n, kShapes[k128x128].rows()))
          : fitting_splits(int64_t{p.sm_count} * shape.blocks, tiles_of(p, shape));
  const int64_t limit = std::min<int64_t>(most, p.invariant ? 8 : most_splits(shape));
  return static_cast<int>(std::clamp<int64_t>(fit, 1, std::max<int64_t>(limit, 1)));
}

// Tiles of the fewest tokens of which there are no more than of the most: 96 for 65 to 96 and 129 to 192.
bool is_candidate(const Problem& p, ShapeId id) {
  if (!has_shape(p.operands, id)) return false;
  constexpr int kMost = kShapes[k256x128].tokens;
  const int64_t tiles = ceil_div(std::max<int64_t>(p.m, 1), kMost);
  const auto holds_all = [&](int tokens) { return tiles * tokens >= p.m; };
  if (!holds_all(kShapes[id].tokens)) return false;
  for (int other = 0; other < kShapeCount; ++other) {
    const int tokens = kShapes[other].tokens;
    if (has_shape(p.operands, static_cast<ShapeId>(other)) && holds_all(tokens) &&
        tokens < kShapes[id].tokens)
      return false;
  }
  return !p.invariant || choose_splits(p, kShapes[id]) <= most_splits(kShapes[id]);
}

}  // namespace

// H200: a tile's sums took 1.5 us to y for each 16384 outputs, and 1.2 + 3 us more where blocks send them to
// each other. They are written faster by now; half as much for it chooses the same.
double estimated_us(const Problem& p, ShapeId id, int splits) {
  const Shape& shape = kShapes[id];
  const double outputs = shape.rows() * shape.tokens / 16384.0;
  const auto waves =
      static_cast<double>(ceil_div(tiles_of(p, shape) * splits, int64_t{p.sm_count} * shape.blocks));
  const auto steps = static_cast<double>(ceil_div(ceil_div(p.k, 128), splits));
  return waves * (steps * shape.stage_us + 1.5 * outputs) + (splits > 1 ? 1.2 + 3 * outputs : 0);
}

Plan make_plan(const Problem& p) {
  Plan plan{};
  double least = -1;
  for (int i = 0; i < kShapeCount; ++i) {
    const auto id = static_cast<ShapeId>(i);
    if (!is_candidate(p, id)) continue;
    const int splits = choose_splits(p, kShapes[id]);
    const double us = estimated_us(p, id, splits);
    if (least >= 0 && us >= least) continue;
    least = us;
    plan.shape = id;
    plan.splits = splits;
  }
  const Shape& shape = kShapes[plan.shape];
  plan.token_tiles = token_tiles_of(p, shape);
  plan.tiles = tiles_of(p, shape);
  const int64_t places = int64_t{p.sm_count} * shape.blocks;
  plan.blocks = plan.splits > 1 ? plan.tiles * plan.splits : std::min(plan.tiles, places);
  return plan;
}

}  // namespace anyfp8::wgmma
