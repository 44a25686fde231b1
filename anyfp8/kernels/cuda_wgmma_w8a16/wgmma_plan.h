#pragma once

#include <cstdint>

#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_shapes.h"
#include "anyfp8/kernels/kernel.h"

// How a call is cut into blocks: pure functions of numbers, tested without a card.
namespace anyfp8::wgmma {

struct Problem {
  int64_t n, k, m;
  Operands operands;
  bool invariant;  // the cut of k may not depend on m, ...
  int sm_count;
  int64_t whole_n = 0;        // ... and is that of so many outputs; 0: n
  bool block_scales = false;  // where scales change with k: all rows of 128 (0 to 127, ...) have the same
};
// Of a layer that check() of the kernel's table admits.
Problem problem_of(const LinearConfig& config, int64_t m, int sm_count);

// The first tiles are a block's own, with all of their k; each of the others is a cluster's of `splits`
// blocks.
struct Cut {
  int64_t whole_tiles;
  int splits;
};

struct Plan {
  ShapeId shape;
  int64_t tiles, token_tiles;  // in all; along tokens
  Cut cut;
  int64_t blocks;
};

Plan make_plan(const Problem& problem);

// The time that make_plan() chooses by (us).
double estimated_us(const Problem& problem, ShapeId shape, const Cut& cut);

}  // namespace anyfp8::wgmma
