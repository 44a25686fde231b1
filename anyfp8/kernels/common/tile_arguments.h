#pragma once

#include <cstdint>

namespace anyfp8::tile {

// So many of something for each of a number of blocks, and for the first `more` of them one more.
struct Shares {
  int each, more;
};

// All that a launch of a tile kernel reads. Pointers are of the device; strides in elements.
struct TileArguments {
  const uint8_t* weight;  // [n, pitch] k64_shuffled
  int64_t pitch;
  const uint16_t* x;  // [m, k], bf16 or fp16
  int64_t x_stride;
  uint16_t* y;  // [m, n]
  int64_t y_stride;
  const void* scale;  // [.., scale_columns]
  const float* bias;  // [n] or null
  float* partials;    // [tiles, splits, outputs of a tile], where parts meet in scratch; and
  uint32_t* arrived;  // [tiles], how many parts of a tile are there; zero at first
  int n, k, m;
  int group_rows;     // outputs of one scale; 0: all
  int scale_columns;  // of one row of scales
  int token_tiles;
  int steps;               // stages of a tile
  int splits;              // blocks that share the k of a tile
  Shares tiles;            // of blocks, without a split;
  Shares units;            // of the k of a tile, of those that share it: 128 k, or a longer stage
  const float* max_scale;  // the largest of all
  bool scale_e8m0;
  bool scale_fours;       // rows of e8m0 scales begin at multiples of 4 bytes
  bool x_aligned;         // x and its rows begin at multiples of 16 bytes
  bool y_pairs, y_fours;  // y and its rows begin at multiples of 4 and 8 bytes
};

}  // namespace anyfp8::tile
