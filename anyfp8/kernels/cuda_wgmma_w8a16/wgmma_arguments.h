#pragma once

#include <cuda.h>

#include <cstdint>

namespace anyfp8::wgmma {

// All that a launch reads. Pointers are of the device; strides in elements.
struct Arguments {
  CUtensorMap weight;  // [n, pitch] bytes, in boxes of 128 k x a tile's rows
  CUtensorMap x;       // [m, k], in boxes of 64 k x a tile's tokens; not there unless x_by_tma
  const uint16_t* x_data;
  int64_t x_stride;
  uint16_t* y;  // [m, n]
  int64_t y_stride;
  const void* scale;       // [.., scale_columns]
  const float* max_scale;  // the largest of all
  const float* bias;       // [n] or null
  int n, k, m;
  int group_rows;            // outputs of one scale; 0: all
  int scale_columns;         // of one row of scales
  int tiles, token_tiles;    // in all, along tokens
  int whole_tiles;           // the first ones: a block has all k of them
  int splits;                // blocks that share the k of each of the others: a cluster
  int steps;                 // stages of 128 k of a tile
  int steps_each, one_more;  // of each of those blocks, and the first `one_more` have one more
  bool x_by_tma;             // x and its rows begin at multiples of 16 bytes
  bool y_pairs, y_fours;     // y and its rows begin at multiples of 4 and 8 bytes
  bool scale_e8m0;
  bool scale_fours;  // rows of e8m0 scales begin at multiples of 4 bytes
};

}  // namespace anyfp8::wgmma
