#pragma once

#include "anyfp8/kernels/common/fp8_decode.cuh"
#include "anyfp8/kernels/common/fragment_decode.cuh"
#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_arguments.h"
#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_instructions.cuh"
#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_shapes.h"

// What producer and consumer share: the numbers of a tile, the places of shared memory, a block's work.
namespace anyfp8::wgmma {

template <Half kHalf_, Code kCode_, Scaling kScaling_, ShapeId kShape_>
struct Tile {
  static constexpr Shape kShape = kShapes[kShape_];
  static constexpr Half kHalf = kHalf_;
  static constexpr Code kCode = kCode_;
  static constexpr Scaling kScaling = kScaling_;
  static constexpr bool kPromotes = kScaling == Scaling::k128, kFolds = kScaling == Scaling::kMx;
  static_assert(!kFolds || kHalf == Half::kBF16);  // decode_by_half()
  static constexpr int kRows64 = kShape.rows64, kRows = kShape.rows(), kTokens = kShape.tokens;
  static constexpr int kStages = kShape.stages, kStageBytes = kShape.stage_bytes();
  static constexpr int kWeightBytes = kShape.weight_bytes();
  // Of 65536: 504 for a thread of each group and a block alone on its multiprocessor, 240 for one of two.
  static constexpr int kProducerRegisters = kShape.blocks == 1 ? 40 : 32;
  static constexpr int kConsumerRegisters = kShape.blocks == 1 ? 232 : 104;
  static constexpr int kSumPitch = sum_pitch(kShape);
};

// full[stage]: it is there; empty[stage]: every consumer warp has left it. freed: nobody in the
// cluster reads a ring any more, and what lies behind the own sums may be written; came: the sums that they
// sent are here.
template <class S>
struct Ring {
  uint32_t base;
  __device__ explicit Ring(uint32_t shared) : base(shared) {}
  __device__ uint32_t full(int slot) const { return base + slot * 16; }
  __device__ uint32_t empty(int slot) const { return base + slot * 16 + 8; }
  __device__ uint32_t freed() const { return base + S::kStages * 16; }
  __device__ uint32_t came() const { return base + S::kStages * 16 + 8; }
  __device__ uint32_t weight(int slot) const { return stages() + slot * S::kStageBytes; }
  __device__ uint32_t x(int slot) const { return weight(slot) + S::kWeightBytes; }
  __device__ uint32_t stages() const { return base + kBarrierBytes; }
};

// Where one is in the ring, and in which turn of it.
template <class S>
struct Slot {
  int index = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++index == S::kStages) index = 0, parity ^= 1;
  }
  __device__ int before() const { return (index == 0 ? S::kStages : index) - 1; }
};

// This block's part of the tiles' k, and the list of its steps, tile after tile.
struct Work {
  int rank, first_step, last_step;  // of the cluster; of the k of a tile
  int first_tile, stride, tiles;
  __device__ explicit Work(const Arguments& p)
      : rank(cluster_rank()),
        first_step(rank * p.steps_each + min(rank, p.one_more)),
        last_step(first_step + p.steps_each + (rank < p.one_more ? 1 : 0)),
        first_tile(cluster_index()),
        stride(cluster_count()),
        tiles(p.tiles) {}
};
// Tiles of the same outputs are neighbours.
template <class S>
inline __device__ int first_row(const Arguments& p, int tile) {
  return (p.token_tiles == 1 ? tile : tile / p.token_tiles) * S::kRows;
}
template <class S>
inline __device__ int first_token(const Arguments& p, int tile) {
  return (p.token_tiles == 1 ? 0 : tile % p.token_tiles) * S::kTokens;
}

// A place in the list of steps. The division is by the tile: in each step it would be what the one thread
// that asks for stages has most work with.
template <class S>
struct Position {
  const Arguments& p;
  const Work work;
  int tile, step, row, token;  // row and token: the tile's first
  __device__ Position(const Arguments& arguments, const Work& w)
      : p(arguments), work(w), tile(w.first_tile), step(w.first_step) {
    place();
  }
  __device__ bool there() const { return tile < work.tiles; }
  // Whether it is in the next tile now.
  __device__ bool advance(int steps = 1) {
    step += steps;
    if (step < work.last_step) return false;
    step = work.first_step;
    tile += work.stride;
    place();
    return true;
  }

 private:
  __device__ void place() { row = first_row<S>(p, tile), token = first_token<S>(p, tile); }
};

// The row of scales of an output.
inline __device__ int scale_row(const Arguments& p, int n) {
  return p.group_rows == 0 ? 0 : p.group_rows == 1 ? n : n / p.group_rows;
}

// A scale as it lies in memory, f32 or e8m0; and the f32 that it is, as a word.
inline __device__ uint32_t word_of_scale(const Arguments& p, int64_t index) {
  return p.scale_e8m0 ? __ldg(static_cast<const uint8_t*>(p.scale) + index)
                      : __ldg(static_cast<const uint32_t*>(p.scale) + index);
}
inline __device__ float scale_of_word(const Arguments& p, uint32_t word) {
  return p.scale_e8m0 ? device_code::e8m0_to_f32(word) : __uint_as_float(word);
}

}  // namespace anyfp8::wgmma
