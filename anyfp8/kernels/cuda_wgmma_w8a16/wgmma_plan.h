#pragma once

#include <cstdint>

#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_shapes.h"

// How a call is cut into blocks: pure functions of numbers, tested without a card.
namespace anyfp8::wgmma {

struct Problem {
  int64_t n, k, m;
  Operands operands;
  bool invariant;  // the cut of k may not depend on m, ...
  int sm_count;
  int64_t whole_n = 0;  // ... and is that of so many outputs; 0: n
};

struct Plan {
  ShapeId shape;
  int64_t tiles, token_tiles;  // in all; along tokens
  int splits;                  // blocks that share the k of a tile, one cluster
  int64_t blocks;
};

Plan make_plan(const Problem& problem);

// The time that make_plan() chooses by (us).
double estimated_us(const Problem& problem, ShapeId shape, int splits);

}  // namespace anyfp8::wgmma
