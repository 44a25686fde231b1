#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_plan.h"

#include <algorithm>

#include "anyfp8/kernels/common/tile_plan.h"

namespace anyfp8::wgmma {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t token_tiles_of(const Problem& p, const Shape& shape) {
  return ceil_div(std::max<int64_t>(p.m, 1), shape.tokens);
}
int64_t tiles_of(const Problem& p, const Shape& shape) {
  return ceil_div(p.n, shape.rows()) * token_tiles_of(p, shape);
}
int64_t places_of(const Problem& p, const Shape& shape) { return int64_t{p.sm_count} * shape.blocks; }

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
          : fitting_splits(places_of(p, shape), tiles_of(p, shape));
  const int64_t limit = std::min<int64_t>(most, p.invariant ? 8 : most_splits(shape));
  return static_cast<int>(std::clamp<int64_t>(fit, 1, std::max<int64_t>(limit, 1)));
}

bool takes(const Problem& p, ShapeId id) {
  // Rescaling rounds otherwise than joining sums does: rows of an invariant layer take one way for every m.
  return has_shape(p.operands, id) && (!rescales(p.operands, id) || (p.block_scales && !p.invariant));
}

// Tiles of the fewest tokens of which there are no more than of the most: 96 for 65 to 96 and 129 to 192.
bool is_candidate(const Problem& p, ShapeId id) {
  if (!takes(p, id)) return false;
  constexpr int kMost = kShapes[k256x128].tokens;
  const int64_t tiles = ceil_div(std::max<int64_t>(p.m, 1), kMost);
  const auto holds_all = [&](int tokens) { return tiles * tokens >= p.m; };
  if (!holds_all(kShapes[id].tokens)) return false;
  for (int other = 0; other < kShapeCount; ++other) {
    const int tokens = kShapes[other].tokens;
    if (takes(p, static_cast<ShapeId>(other)) && holds_all(tokens) && tokens < kShapes[id].tokens)
      return false;
  }
  return !p.invariant || choose_splits(p, kShapes[id]) <= most_splits(kShapes[id]);
}

// The last wave of tiles may leave more than half of the places empty: then two blocks share each of them.
bool has_tail(const Problem& p, int64_t tiles, int64_t places) {
  const int64_t last = tiles % places;
  return !p.invariant && tiles > places && last > 0 && 2 * last <= places && places % 2 == 0 && p.k > 128;
}
Cut choose_cut(const Problem& p, ShapeId id) {
  const int64_t tiles = tiles_of(p, kShapes[id]), places = places_of(p, kShapes[id]);
  if (const int splits = choose_splits(p, kShapes[id]); splits > 1) return {0, splits};
  const Cut whole{tiles, 1}, tail{tiles / places * places, 2};
  return has_tail(p, tiles, places) && estimated_us(p, id, tail) < estimated_us(p, id, whole) ? tail : whole;
}

}  // namespace

Problem problem_of(const LinearConfig& config, int64_t m, int sm_count) {
  return {.n = config.n,
          .k = config.k,
          .m = m,
          .operands = tile::operands_of(config),
          .invariant = config.policy == Policy::kInvariant,
          .sm_count = sm_count,
          .whole_n = config.whole_n,
          .block_scales = config.scheme.weight.group.rows % 128 == 0};
}

// H200: a tile's sums took 1.5 us to y for each 16384 outputs, and 1.2 + 3 us more where blocks send them to
// each other, half of the 3 where they are two. They are written faster by now; half as much for it chooses
// the same.
double estimated_us(const Problem& p, ShapeId id, const Cut& cut) {
  const Shape& shape = kShapes[id];
  const double outputs = shape.rows() * shape.tokens / 16384.0;
  const int64_t steps = ceil_div(p.k, 128);
  const auto whole_waves = static_cast<double>(ceil_div(cut.whole_tiles, places_of(p, shape)));
  const double whole = whole_waves * (static_cast<double>(steps) * shape.stage_us + 1.5 * outputs);
  if (cut.whole_tiles == tiles_of(p, shape)) return whole;
  // One, but for the many token tiles of an invariant layer.
  const auto shared_waves =
      static_cast<double>(ceil_div((tiles_of(p, shape) - cut.whole_tiles) * cut.splits, places_of(p, shape)));
  const double exchange = 1.2 + (cut.splits == 2 ? 1.5 : 3) * outputs;
  return whole + exchange +
         shared_waves * (static_cast<double>(ceil_div(steps, cut.splits)) * shape.stage_us + 1.5 * outputs);
}

Plan make_plan(const Problem& p) {
  Plan plan{};
  double least = -1;
  for (int i = 0; i < kShapeCount; ++i) {
    const auto id = static_cast<ShapeId>(i);
    if (!is_candidate(p, id)) continue;
    const Cut cut = choose_cut(p, id);
    const double us = estimated_us(p, id, cut);
    if (least >= 0 && us >= least) continue;
    least = us;
    plan.shape = id;
    plan.cut = cut;
  }
  const Shape& shape = kShapes[plan.shape];
  plan.token_tiles = token_tiles_of(p, shape);
  plan.tiles = tiles_of(p, shape);
  plan.blocks =
      plan.cut.whole_tiles > 0 ? std::min(plan.tiles, places_of(p, shape)) : plan.tiles * plan.cut.splits;
  return plan;
}

}  // namespace anyfp8::wgmma
