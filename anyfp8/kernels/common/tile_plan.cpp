#include "anyfp8/kernels/common/tile_plan.h"

#include <algorithm>
#include <span>

namespace anyfp8::tile {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

size_t output_bytes(const Shape& shape) {
  return static_cast<size_t>(shape.rows() * shape.tokens()) * sizeof(float);
}

// Blocks of a shape that are on the card at once, as far as shared memory goes.
int64_t resident_blocks(const Card& card, const Shape& shape) {
  const size_t bytes = static_cast<size_t>(shared_bytes(shape, card.family)) + kReservedBytes;
  const auto fit = static_cast<int>((card.shared_bytes + kReservedBytes) / bytes);
  return static_cast<int64_t>(card.sm_count) * std::clamp(fit, 1, shape.blocks);
}

// In order of preference; the first that holds all tokens is taken, or the last.
constexpr ShapeId kNarrowFirst[] = {kNarrow8,  kNarrow16Alone, kNarrow16,  kWide8,           kWide16,
                                    kTokens32, kTokens64,      kTokens128, kTokens128Grouped};
constexpr ShapeId kWideFirst[] = {kWide8, kWide16, kTokens32, kTokens64, kTokens128, kTokens128Grouped};
// In which one warp sums all of a part's k: one order of sums for every m.
constexpr ShapeId kOneOrder[] = {kWide16, kTokens32, kTokens64, kTokens128, kTokens128Grouped};

// Whether one tile for each multiprocessor leaves few of them without, so that a tile may have twice the
// warps. H200, 9 to 16 tokens, against smaller blocks, that share k where it is long: 4096 x 4096 in 6.5 us
// and not 7.2, 4096 x 14336 in 16.9 and not 17.3.
bool fills_once(const Problem& p, const Card& card, const Shape& shape) {
  const int64_t tiles = ceil_div(p.n, shape.rows());
  return tiles <= card.sm_count && 4 * tiles >= int64_t{3} * card.sm_count;
}

ShapeId choose_shape(const Problem& p, const Card& card) {
  // Wide tiles would not fill the card; and up to 8 tokens of 12288 x 4096 took 13.9 us and not 15.2 (H200),
  // up to 4 of 28672 x 4096 as Ampere 33.3 to 34.6 and not 35.8.
  const int64_t rows_each = card.family == Family::kSm90 && p.m <= 8   ? 96
                            : card.family == Family::kSm80 && p.m <= 4 ? 224
                                                                       : 64;
  const bool narrow = p.n < rows_each * card.sm_count;
  const std::span<const ShapeId> shapes = p.invariant ? std::span<const ShapeId>(kOneOrder)
                                          : narrow    ? std::span<const ShapeId>(kNarrowFirst)
                                                      : std::span<const ShapeId>(kWideFirst);
  ShapeId chosen = shapes.front();
  for (const ShapeId shape : shapes) {
    if (!has_shape(card.family, p.operands, shape)) continue;
    if (shape == kNarrow16Alone && !fills_once(p, card, kShapes[shape])) continue;
    chosen = shape;
    if (kShapes[shape].tokens() >= p.m) break;
  }
  return chosen;
}

// So many blocks share a tile's k that all together fill the card once. Clusters of more than two lie within
// a part of the card whose multiprocessors they may not divide: of an H200's 264 places clusters of 8 fill
// 240, of 7 and 6 224 and 234, so a tenth stays free. Short parts are mostly beginning and end: at k = 4096
// and m = 16 to 128, 5 parts of 128 k were up to 8 % better than 4.
int choose_splits(const Problem& p, const Card& card, ShapeId id) {
  constexpr int kLeastUnits = 5;
  const Shape& shape = kShapes[id];
  const int64_t tiles =
      p.invariant ? ceil_div(p.whole_n > 0 ? p.whole_n : p.n, shape.rows())
                  : ceil_div(p.n, shape.rows()) * ceil_div(std::max<int64_t>(p.m, 1), shape.tokens());
  const int64_t free = p.invariant ? card.sm_count : resident_blocks(card, shape);
  const int64_t most = std::min<int64_t>(ceil_div(p.k, std::max(128, shape.depth())) / kLeastUnits, 8);
  if (free / tiles < 2 || most < 2) return 1;
  return static_cast<int>(std::clamp<int64_t>(free * 9 / 10 / tiles, 2, most));
}

Card card_of(const Device& device, Family family) { return {family, device.sm_count, device.smem_per_block}; }

}  // namespace

Card mma_card(const Device& device) {
  const auto has = [&](int major, Family family) {
    return device.cc.major >= major && device.smem_per_block >= static_cast<size_t>(shared_limit(family));
  };
  return card_of(device, has(9, Family::kSm90)   ? Family::kSm90
                         : has(8, Family::kSm80) ? Family::kSm80
                                                 : Family::kSm75);
}

size_t most_scratch_bytes(const Card& card) {
  if (card.family >= Family::kSm90) return 0;
  size_t most = 0;
  for (const Shape& shape : kShapes) {
    most = std::max(most, static_cast<size_t>(card.sm_count * shape.blocks) * (output_bytes(shape) + 256));
  }
  return most;
}

Operands operands_of(const LinearConfig& config) {
  const QuantKey& weight = config.scheme.weight;
  const Scaling scaling = weight.group.cols == 0               ? Scaling::kRow
                          : weight.group.cols == 128           ? Scaling::k128
                          : weight.scale_dtype == DType::kE8M0 ? Scaling::kMx
                                                               : Scaling::k32;
  return {config.in == DType::kBF16 ? Half::kBF16 : Half::kF16,
          weight.dtype == DType::kE4M3 ? Code::kE4M3 : Code::kE5M2, scaling};
}

int64_t tokens_at_once(const Plan& plan, const Card& card) {
  const int64_t tokens = kShapes[plan.shape].tokens(),
                bytes = static_cast<int64_t>(plan.counter_bytes + plan.sum_bytes);
  if (bytes == 0) return plan.token_tiles * tokens;
  const auto room = static_cast<int64_t>(most_scratch_bytes(card));
  return std::clamp<int64_t>(room * plan.token_tiles / bytes, 1, plan.token_tiles) * tokens;
}

Plan make_plan(const Problem& p, const Card& card) {
  const ShapeId id = choose_shape(p, card);
  const Shape& shape = kShapes[id];
  const int splits = choose_splits(p, card, id);
  Plan plan{};
  plan.shape = id;
  plan.token_tiles = ceil_div(std::max<int64_t>(p.m, 1), shape.tokens());
  plan.tiles = ceil_div(p.n, shape.rows()) * plan.token_tiles;
  plan.steps = ceil_div(p.k, shape.depth());
  plan.splits = splits;
  plan.blocks = splits > 1 ? plan.tiles * splits : std::min(plan.tiles, resident_blocks(card, shape));
  if (splits > 1 && card.family < Family::kSm90) {
    plan.counter_bytes = static_cast<size_t>(ceil_div(plan.tiles * 4, 256) * 256);
    plan.sum_bytes = static_cast<size_t>(plan.tiles * splits) * output_bytes(shape);
  }
  return plan;
}

}  // namespace anyfp8::tile
