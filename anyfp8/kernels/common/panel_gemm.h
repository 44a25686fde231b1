#pragma once

#include <cstddef>
#include <cstdint>

#include "anyfp8/kernels/common/panel64.h"
#include "anyfp8/kernels/kernel.h"

// y = x · Wᵀ for 8-bit weights in panels (panel64.h). Here is what does not depend on the instruction set:
// the way of x into tiles, the order of the loops, threads. A kernel brings a PanelIsa, made of
// panel_tile.inc.
//
//   direct    few tokens: a tile of tokens x 64 outputs; codes are decoded in registers, between
//             the products. Where these hide the decoding (AVX-512 BF16), any number of tokens
//   buffered  many: a chunk of the panel is decoded once to a buffer in the L2 cache, and meets every tile
//
//   group     of a scale along k         |  128  |  128  |  128  |  128  | ...     |        4096 (one)  ...
//   chunk     of a panel, in the cache   |  1024                          ...     |  1024  |  1024  | ...
//   segment   between scales             |  128  |  128  |  128  |  128  | ...     |  1024  |  1024  | ...
//
// Within a segment products are added in the order of k; then total = fma(sum, scale, total). So a token's
// bits do not depend on m, tile or thread (but see plan_of()).
namespace anyfp8 {

// A chunk of a panel: whole groups, or one segment of one group.
struct PanelChunk {
  int64_t step, steps;    // of the panel
  int64_t group;          // of the first step
  int64_t segment_steps;  // a segment ends after so many; the last may have fewer
};

// Where all outputs of a panel share a scale it lies there so often: the longest vector of fp32.
inline constexpr int64_t kScaleCopies = 16;

// What a tile multiplies: one chunk, of one panel.
struct PanelTask {
  const uint8_t* codes;
  const uint8_t* next;   // what is read after this chunk, to ask the memory for it in time
  const uint8_t* share;  // where several tiles read this chunk: the part of the next that this one asks for
  int64_t share_step_bytes;  // of it for each step
  bool prefetch_one;         // whether a tile of one row asks the memory ahead
  DType dtype;
  int64_t steps;
  int64_t segment_steps;
  const float* scale;    // [64], of the first segment, or kScaleCopies of one
  int64_t scale_across;  // from an output's to the next one's: 1, or 0 where all have the same
  int64_t scale_step;    // from a segment's to the next one's, or 0 where all have the same
  float sum_factor[2];   // of PanelIsa::shifted: their product turns a sum into that of x and the weight
};

// Rows, and units, that a tile register of AMX takes of x.
inline constexpr int64_t kXBlock = 16;

// One way to multiply. A row is a row of x in a tile: a token, or one bf16 part of a token. A unit is what
// one multiply instruction takes of k, 4 bytes; a step has units_per_step. Rows lie interleaved:
// x[unit][rows].
struct PanelMath {
  int units_per_step;     // 2: pairs of bf16. 4: fp32
  int direct_tile_rows;   // most rows of a direct tile
  int64_t direct_rows;    // up to so many rows in all, direct
  int one_pass_rows;      // direct tiles of up to so many rows read each code once
  int buffer_tile_rows;   // most rows of a buffered tile
  int64_t segment_steps;  // of the longest segment, and of a chunk in a buffer
  int64_t block_rows;     // rows that meet a chunk while it is in the cache, at most
  // x[unit / kXBlock][rows][kXBlock] instead, zeros behind the last unit. Where a tile has fewer than kXBlock
  // rows, as many are read, and take as long.
  bool blocks_of_x = false;
  // Called by each thread around its work, unless null.
  void (*begin)() = nullptr;
  void (*end)() = nullptr;
  // totals[r][64] += sums of the chunk, for r < rows; x begins at the chunk.
  void (*direct)(const PanelTask& task, const void* x, int rows, float* totals);
  // The same from a buffer of steps * units_per_step * 64 elements of 4 bytes, which the first tile of a
  // chunk fills; their order is between these two. Null where direct_rows has no end.
  void (*multiply_first)(const PanelTask& task, void* buffer, const void* x, int rows, float* totals);
  void (*multiply)(const PanelTask& task, const void* buffer, const void* x, int rows, float* totals);
};

struct PanelIsa {
  const PanelMath* dot;  // null: no dot product of bf16 pairs
  const PanelMath* fma;  // null: what is not bf16 is split into parts at any m
  // Null, or for one token and e4m3 where use_shifted() says that subnormal operands cost nothing: direct
  // multiply-adds of fp32 with weights as value * 2^-120. The bits are those of fma, see ShiftedToken.
  const PanelMath* shifted;
  bool (*use_shifted)();
  // to[i] = from[i] as fp32, for f32, f16 and bf16; writes whole vectors of up to 16.
  void (*widen)(const void* from, DType dtype, int64_t count, float* to);
  void (*widen_e8m0)(const uint8_t* codes, int64_t count, float* to);  // count is a multiple of 16
  void (*spread)(const float* from, int64_t count, float* to);         // to[i][kScaleCopies] = from[i]
  // y[i] = totals[i] + totals[64 + i] + ... over `parts` rows, + bias[i] unless null; rounded to nearest
  // even.
  void (*epilogue)(const float* totals, int parts, const float* bias, int64_t count, void* y, DType dtype);
};

void apply_panels(const PanelIsa& isa, const PlacedWeight& weight, const TensorView& x, const TensorView& y,
                  Scratch scratch);
size_t panel_workspace_bytes(const PanelIsa& isa, const LinearConfig& config, const Device& device,
                             int64_t m);

}  // namespace anyfp8
