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
  // What becomes of sums of 128 k that have a scale: they join the others in a second set of registers, or,
  // in the largest tile, all are rescaled to the next 128 k.
  static constexpr bool kRescales = rescales({kHalf, kCode, kScaling}, kShape_);
  static constexpr bool kPromotes = kScaling == Scaling::k128 && !kRescales;
  static constexpr bool kFolds = kScaling == Scaling::kMx;
  static_assert(!kFolds || kHalf == Half::kBF16);  // decode_by_half()
  static constexpr int kRows64 = kShape.rows64, kRows = kShape.rows(), kTokens = kShape.tokens;
  static constexpr int kStages = kShape.stages, kStageBytes = kShape.stage_bytes();
  static constexpr int kWeightBytes = kShape.weight_bytes();
  // Of 65536: 504 for a thread of each group and a block alone on its multiprocessor, 240 for one of two.
  static constexpr int kProducerRegisters = kShape.blocks == 1 ? 40 : 32;
  static constexpr int kConsumerRegisters = kShape.blocks == 1 ? 232 : 104;
  static constexpr int kSumPitch = sum_pitch(kShape), kMostSplits = most_splits(kShape);
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
  // What a BlockScale of one of the warpgroups is in the stage.
  __device__ uint32_t scale(int slot, int group) const { return base + 512 + (slot * 2 + group) * 8; }
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

// A block's tiles: those that it has alone, block b's are b, b + blocks, ...; then at most one that its
// cluster shares, of which it has a part of k.
struct Work {
  int first_tile, stride, whole_tiles, tiles, steps;
  int shared_tile, shared_first, shared_last;  // its part: steps of 128 k
  __device__ explicit Work(const Arguments& p)
      : first_tile(static_cast<int>(blockIdx.x)),
        stride(static_cast<int>(gridDim.x)),
        whole_tiles(p.whole_tiles),
        tiles(p.tiles),
        steps(p.steps),
        shared_tile(p.whole_tiles + cluster_index()) {
    const int rank = cluster_rank();
    shared_first = rank * p.steps_each + min(rank, p.one_more);
    shared_last = shared_first + p.steps_each + (rank < p.one_more ? 1 : 0);
  }
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

// A place in the list of steps, tile after tile. The divisions are by the tile: in each step they would be
// what the one thread that asks for stages has most work with.
template <class S>
class Position {
  const Arguments& p_;
  const Work& work_;

 public:
  int tile, step, last_step;  // the step behind the tile's last
  int row, token;             // the tile's first
  bool shared = false;
  __device__ Position(const Arguments& p, const Work& work) : p_(p), work_(work) { place(work.first_tile); }
  __device__ bool there() const { return tile < work_.tiles; }
  // Whether it is in the next tile now.
  __device__ bool advance(int steps = 1) {
    step += steps;
    if (step < last_step) return false;
    advance_tile();
    return true;
  }
  __device__ void advance_tile() {
    if (shared) {
      tile = work_.tiles;
    } else {
      place(tile + work_.stride);
    }
  }

 private:
  __device__ void place(int to) {
    shared = to >= work_.whole_tiles;
    tile = shared ? work_.shared_tile : to;
    step = shared ? work_.shared_first : 0;
    last_step = shared ? work_.shared_last : work_.steps;
    row = first_row<S>(p_, tile), token = first_token<S>(p_, tile);
  }
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
