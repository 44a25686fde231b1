#pragma once

#include <type_traits>

#include "anyfp8/kernels/common/tile_ring.cuh"
#include "anyfp8/kernels/common/tile_scales.cuh"

// y = x · Wᵀ by tiles: weights are operand a (rows of 16), tokens operand b (columns of 8), so that one token
// wastes seven columns and not fifteen rows.
//
//   a block's tile: kRows outputs x kTokens tokens     a stage of its ring in shared memory: kDepth of k
//
//           tokens ->
//          +--------+                                    weight  [kRows][kDepth] bytes, k64_shuffled
//    rows  | warp   |  kWarpsN warps of kTiles16 x       x       [kTokens][kDepth] 16 bit
//          +--------+  kTiles8 products of 16 x 8,
//          | warp   |  times kWarpsK that share k        Scales that change with k are in registers.
//          +--------+
//
// Without a split the grid is persistent: a block walks its tiles one after the other, and the ring runs on
// across them. With one, `splits` blocks share the k of each tile and their sums are added in the order of k:
// on Hopper and newer they are a cluster and read each other's shared memory; elsewhere each writes its sums
// to scratch, and the last to arrive adds them all. No sum depends on who was last.
namespace anyfp8::tile {

template <class S>
class TileProduct {
  const WarpPlace<S> place_;
  uint32_t read_weight_, read_x_;  // in a stage: where this lane's fragments begin
  // One product waits for the one before it in the same sums, and a warp of a single tile has no other work:
  // then odd steps have sums of their own.
  static constexpr int kChains = S::kTiles16 * S::kTiles8 == 1 && !S::kPromotes ? 2 : 1;
  float odd_[4];
  // Sums of the current group of k, before its scale.
  float part_[S::kPromotes ? S::kTiles16 : 1][S::kPromotes ? S::kTiles8 : 1][4];

 public:
  Fragments<S> acc;

  __device__ TileProduct() {
    read_weight_ = weight_place<S>(place_.row(0) + place_.g, place_.warp_k * S::kChunks * 4 + place_.t);
    // ldmatrix: with one tile of 8 tokens, matrices are two steps' halves; else one step's halves of two
    // tiles.
    const int matrix = place_.lane / 8;
    const int token = place_.token(0) + place_.lane % 8 + (S::kTiles8 == 1 ? 0 : matrix / 2 * 8);
    const int unit = place_.warp_k * S::kChunks * 8 + (S::kTiles8 == 1 ? matrix : matrix % 2);
    read_x_ = S::kWeightBytes + x_place<S>(token, unit);
    clear();
  }

  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
      for (int j = 0; j < S::kTiles8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          acc[r][j][i] = 0;
          if constexpr (S::kPromotes) part_[r][j][i] = 0;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) odd_[i] = 0;
  }

  // The products of one stage: this warp's rows and tokens of its chunks. The sums of a group of k are added
  // to the others with its scale where it ends: inside the stage, or behind it if `group_ends` says so.
  // kFarApart: MX scales, some of them too far from the largest.
  template <bool kFarApart, class Ring>
  __device__ void multiply(const Ring& ring, uint32_t stage, const TileScales<S>& scales, bool group_ends) {
#pragma unroll
    for (int c = 0; c < S::kChunks; ++c) {
      uint4 q[S::kTiles16][2];
#pragma unroll
      for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if constexpr (S::kFamily == Family::kSm75) {
            q[r][h] = ring.codes(c, r, h);
          } else {
            q[r][h] = load_shared16(weight_at(stage, c, 16 * r + 8 * h));
          }
        }
      }
      multiply_chunk<kFarApart>(q, stage, scales, c, group_ends);
    }
  }

  // All sums are in acc.
  __device__ void join() {
    if constexpr (kChains == 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[0][0][i] += odd_[i];
    }
  }

 private:
  template <bool kFarApart>
  __device__ void multiply_chunk(const uint4 (&q)[S::kTiles16][2], uint32_t stage,
                                 const TileScales<S>& scales, int c, bool group_ends) {
    uint32_t two_steps[4];
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      uint32_t b[S::kTiles8][2];
      load_tokens(b, two_steps, stage, c, s);
      if constexpr (kFarApart) shift_sums(scales, c * 4 + s, s % 2 == 0 ? 1 : 0);
#pragma unroll
      for (int r = 0; r < S::kTiles16; ++r) {
        uint32_t a[4];
        decode_step<kFarApart>(a, q[r], s, scales, r, c);
#pragma unroll
        for (int j = 0; j < S::kTiles8; ++j) {
          auto& sums = sums_of(r, j, kFarApart ? 0 : s);
          multiply_add<S::kFamily, S::kHalf>(sums, a, b[j][0], b[j][1]);
        }
      }
      if (ends_group(c * 4 + s, group_ends)) add_group(scales, c * 4 + s);
      if constexpr (kFarApart) shift_sums(scales, c * 4 + s, s % 2 == 1 ? -1 : 0);
    }
  }

  // The fragment of step s of chunk c, of product r.
  template <bool kFarApart>
  static __device__ void decode_step(uint32_t (&a)[4], const uint4 (&q)[2], int s,
                                     const TileScales<S>& scales, int r, int c) {
    const uint32_t q0 = word(q[0], s), q1 = word(q[1], s);
    if constexpr (kFarApart) {
      decode<S::kFamily, S::kHalf, S::kCode>(a, q0, q1, scales.shifted_factor(r, 0, c * 4 + s),
                                             scales.shifted_factor(r, 1, c * 4 + s));
    } else if constexpr (S::kFolds) {
      decode<S::kFamily, S::kHalf, S::kCode>(a, q0, q1, scales.factor(r, 0, c * 4 + s),
                                             scales.factor(r, 1, c * 4 + s));
    } else {
      decode<S::kFamily, S::kHalf, S::kCode>(a, q0, q1);
    }
  }

  // Whether the sums of a group are promoted behind step s of the stage.
  static __device__ bool ends_group(int s, bool stage_ends_group) {
    if constexpr (!S::kPromotes) return false;
    return (s + 1) * 16 % (S::kPromotes ? S::kGroup : 16) == 0 ||
           (s + 1 == S::kChunks * 4 && stage_ends_group);
  }
  // Where products are added up: of one group of k, or of all.
  __device__ float (&sums_of(int r, int j, int s))[4] {
    if constexpr (S::kPromotes) return part_[r][j];
    return kChains == 2 && s % 2 == 1 ? odd_ : acc[r][j];
  }
  static __device__ uint32_t word(const uint4& q, int s) {
    return s == 0 ? q.x : s == 1 ? q.y : s == 2 ? q.z : q.w;
  }
  // The places of weight_place() and x_place(), `rows` and tokens further down, by constants.
  __device__ uint32_t weight_at(uint32_t stage, int c, int rows) const {
    return ((stage + read_weight_) ^ (c * 64)) + rows * S::kDepth;
  }
  __device__ uint32_t x_at(uint32_t stage, int c, int s, int tokens) const {
    const uint32_t of_step = (stage + read_x_) ^ (s * 32);
    return of_step + c * 128 + tokens * S::kDepth * 2;
  }

  // Operand b of step s of a chunk. One ldmatrix brings two steps of 8 tokens, or one step of 16.
  __device__ void load_tokens(uint32_t (&b)[S::kTiles8][2], uint32_t (&two_steps)[4], uint32_t stage, int c,
                              int s) const {
    static_assert(S::kTiles8 % 2 == 0 || S::kTiles8 == 1);
    if constexpr (S::kTiles8 == 1) {
      if (s % 2 == 0) load_matrix4(two_steps, x_at(stage, c, s, 0));
      b[0][0] = two_steps[s % 2 * 2];
      b[0][1] = two_steps[s % 2 * 2 + 1];
    } else {
#pragma unroll
      for (int j = 0; j < S::kTiles8; j += 2) {
        uint32_t two[4];
        load_matrix4(two, x_at(stage, c, s, j * 8));
        b[j][0] = two[0];
        b[j][1] = two[1];
        b[j + 1][0] = two[2];
        b[j + 1][1] = two[3];
      }
    }
  }

  // All sums by 2^shift of the group of step s, or back; direction 0: nothing.
  __device__ void shift_sums(const TileScales<S>& scales, int s, int direction) {
    if (direction == 0) return;
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
      const float factor[2] = {power_of_2(direction * scales.shift(r, 0, s)),
                               power_of_2(direction * scales.shift(r, 1, s))};
#pragma unroll
      for (int j = 0; j < S::kTiles8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[r][j][i] = __fmul_rn(acc[r][j][i], factor[i / 2]);
      }
    }
  }
  // Behind step s of the stage.
  __device__ void add_group(const TileScales<S>& scales, int s) {
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
      const float scale[2] = {scales.scale(r, 0, s), scales.scale(r, 1, s)};
#pragma unroll
      for (int j = 0; j < S::kTiles8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          acc[r][j][i] = __fmaf_rn(scale[i / 2], part_[r][j][i], acc[r][j][i]);
          part_[r][j][i] = 0;
        }
      }
    }
  }
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kShape.blocks)
    tile_w8a16(const __grid_constant__ TileArguments p) {
  extern __shared__ __align__(1024) uint8_t memory[];
  const uint32_t shared = shared_address(memory);
  using Ring = std::conditional_t<S::kFamily == Family::kSm75, RegisterRing<S>, CopyRing<S>>;

  const Work work = work_of_block<S>(p);
  Ring ring(p, shared, work);
  // Neither depends on the kernel before this one. Behind the weights the scales would come last, and be
  // needed first: 1x128 cost 2 % more so (H200, 28672 x 4096, m <= 8).
  TileScales<S> scales(p, work);
  ring.begin_weights();
  wait_for_inputs<S::kFamily>();
  ring.begin_x();
  let_next_kernel_start<S::kFamily>();

  const auto synchronise = [](bool far_apart) {
    if constexpr (S::kMayBeFarApart) return __syncthreads_or(far_apart) != 0;
    __syncthreads();
    return false;
  };
  TileSums<S> sums(p, shared, scales.base());
  TileProduct<S> product;
  int slot = 0;
  for (int tile = work.first_tile; tile < work.past_tile; ++tile) {
    sums.prefetch(tile);
    for (int step = work.first_step; step < work.last_step;) {
      scales.turn();
      const int turn = step, end = min(step + TileScales<S>::kStepsOfTurn, work.last_step);
      while (step < end) {
        ring.wait();
        const bool far_apart = synchronise(scales.begin_stage(step - turn));
        ring.refill();
        ++step;
        const uint32_t stage = shared + slot * S::kStageBytes;
        const bool group_ends =
            step == work.last_step || step * S::kDepth % (S::kGroup == 0 ? 64 : S::kGroup) == 0;
        if (far_apart) {
          product.template multiply<S::kMayBeFarApart>(ring, stage, scales, group_ends);
        } else {
          product.template multiply<false>(ring, stage, scales, group_ends);
        }
        ring.keep();
        slot = slot + 1 == S::kStages ? 0 : slot + 1;
      }
    }
    product.join();
    sums.finish(product.acc, tile, work.rank);
    product.clear();
  }
  if constexpr (S::kFamily != Family::kSm75) wait_copies<0>();
}

}  // namespace anyfp8::tile
