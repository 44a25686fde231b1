#pragma once

#include <cstddef>
#include <cstdint>

#include "anyfp8/device/device.h"
#include "anyfp8/kernels/common/tile_shapes.h"
#include "anyfp8/kernels/kernel.h"

// How a call is cut into blocks: pure functions of numbers, tested without a card.
namespace anyfp8::tile {

struct Problem {
  int64_t n, k, m;
  Operands operands;
  bool invariant;       // the cut of k may not depend on m, ...
  int64_t whole_n = 0;  // ... and is that of so many outputs; 0: n
};

struct Plan {
  ShapeId shape;
  int64_t tiles, token_tiles;  // in all; along tokens
  int64_t steps;               // stages of a tile
  int splits;                  // blocks that share the k of a tile
  int64_t blocks;
  // Scratch memory, where parts do not meet in a cluster: counters, then sums.
  size_t counter_bytes, sum_bytes;
};

// What of a device the plan depends on.
struct Card {
  Family family;
  int sm_count;
  size_t shared_bytes;  // that a block may have
};
// By mma.sync. A card that has the capability but not the shared memory of a family gets the one before: 12.0
// has 99 KB.
Card mma_card(const Device& device);

// Of a layer that check_fused_w8a16() admits.
Operands operands_of(const LinearConfig& config);

Plan make_plan(const Problem& problem, const Card& card);

// Scratch memory that is enough for every problem on the device: the sums of as many tiles as it has places.
size_t most_scratch_bytes(const Card& card);

// Tokens that the plan's launch may have with that: all, but for invariant plans, which split every token
// tile.
int64_t tokens_at_once(const Plan& plan, const Card& card);

}  // namespace anyfp8::tile
