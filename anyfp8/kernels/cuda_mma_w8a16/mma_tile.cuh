#pragma once

#include "anyfp8/kernels/cuda_mma_w8a16/mma_arguments.h"
#include "anyfp8/kernels/cuda_mma_w8a16/mma_instructions.cuh"
#include "anyfp8/kernels/cuda_mma_w8a16/mma_shapes.h"

// y = x · Wᵀ by tiles: weights are operand a (rows of 16), tokens operand b (columns of 8), so that one token
// wastes seven columns and not fifteen rows.
//
//   a block's tile: kRows outputs x kTokens tokens          a stage of its ring in shared memory: kDepth of k
//
//            tokens ->                                        weight [kRows][kDepth] bytes, k64_shuffled
//          +--------+--------+                                x      [kTokens][kDepth] 16 bit
//    rows  | warp   | warp   |   kWarpsN x kWarpsM warps,     scales [groups][kRows] f32, where they change with k
//          +--------+--------+   each kTiles16 x kTiles8
//          | warp   | warp   |   products of 16 x 8,
//          +--------+--------+   times kWarpsK that share k
//
// Without a split the grid is persistent: a block walks its tiles one after the other, and the ring runs on across
// them. With one, `splits` blocks share the k of each tile and their sums are added in the order of k: on Hopper and
// newer they are a cluster and read each other's shared memory; elsewhere each writes its sums to scratch, and the
// last to arrive adds them all. No sum depends on who was last.
namespace anyfp8::mma {

template <Family kFamily_, Half kHalf_, Code kCode_, int kGroup_, ShapeId kShape_>
struct TileShape {
  static constexpr Shape kShape = kShapes[kShape_];
  static constexpr Family kFamily = kFamily_;
  static constexpr Half kHalf = kHalf_;
  static constexpr Code kCode = kCode_;
  static constexpr int kGroup = kGroup_;  // k of one scale: 128, 32, or 0 where a row has one
  static constexpr int kWarpsN = kShape.warps_n, kWarpsM = kShape.warps_m, kWarpsK = kShape.warps_k;
  static constexpr int kTiles16 = kShape.tiles16, kTiles8 = kShape.tiles8, kChunks = kShape.chunks;
  static constexpr int kThreads = kShape.threads(), kRows = kShape.rows(), kTokens = kShape.tokens();
  static constexpr int kDepth = kShape.depth();
  static constexpr int kStages = stages_of(kShape, kFamily, kGroup);
  static constexpr int kGroups = groups_of_stage(kShape, kGroup);
  static constexpr int kWeightBytes = kRows * kDepth, kXBytes = kTokens * kDepth * 2;
  static constexpr int kStageBytes = stage_bytes(kShape, kGroup), kSumPitch = sum_pitch(kShape);
  static constexpr int kSharedBytes = shared_bytes(kShape, kFamily, kGroup);
  static constexpr int kOutputs = kRows * kTokens;
  static constexpr int kSums = (kOutputs + kThreads - 1) / kThreads;  // of a thread, when the warps' are added up
  static_assert(kStages >= 2 && kGroup % 32 == 0);
  static_assert(kWeightBytes % (16 * kThreads) == 0 && (kOutputs % kThreads == 0 || kOutputs < kThreads));
};

template <class S>
class TileWorker {
  static constexpr bool kAsync = S::kFamily != Family::kSm75;
  // How the threads share a stage's 16-byte copies: a thread keeps its place in a row and goes down the rows.
  static constexpr int kUnitsOfRow = S::kDepth / 16, kRowsAtOnce = S::kThreads / kUnitsOfRow;
  static constexpr int kWeightUnits = S::kRows / kRowsAtOnce;
  static constexpr int kUnitsOfToken = S::kDepth / 8, kTokensAtOnce = S::kThreads / kUnitsOfToken;
  static constexpr int kXUnits = (S::kTokens + kTokensAtOnce - 1) / kTokensAtOnce;
  static constexpr int kScaleUnits = (S::kGroups * S::kRows + S::kThreads - 1) / S::kThreads;
  static_assert(kRowsAtOnce % 2 == 0 && kTokensAtOnce >= 1 && (kTokensAtOnce & (kTokensAtOnce - 1)) == 0);
  static_assert(S::kRows % kRowsAtOnce == 0 && S::kStageBytes % 128 == 0 && (S::kChunks & (S::kChunks - 1)) == 0);

  // What is copied next: a step of a tile, and this thread's first unit of it.
  struct Loader {
    int tile, step;
    int rows, tokens;  // from this thread's first row and token to the end of W and x
    const uint8_t* weight;
    const uint16_t* x;
    int scale_row[kScaleUnits > 0 ? kScaleUnits : 1];
  };

  const MmaArguments& p_;
  const int thread_ = threadIdx.x, lane_ = threadIdx.x % 32, g_ = lane_ / 4, t_ = lane_ % 4;
  const int warp_n_, warp_m_, warp_k_;
  const uint32_t shared_;
  uint32_t copy_weight_, copy_x_;  // in a stage: where this thread's first unit goes
  uint32_t read_weight_, read_x_;  // in a stage: where this lane's fragments begin
  // One product waits for the one before it in the same sums, and a warp of a single tile has no other work: then
  // odd steps have sums of their own.
  static constexpr int kChains = S::kTiles16 * S::kTiles8 == 1 && S::kGroup == 0 ? 2 : 1;
  float acc_[S::kTiles16][S::kTiles8][4], odd_[kChains == 2 ? S::kTiles16 : 1][kChains == 2 ? S::kTiles8 : 1][4];
  // Sums of the current group of k, before its scale.
  float part_[S::kGroup == 0 ? 1 : S::kTiles16][S::kGroup == 0 ? 1 : S::kTiles8][4];
  float scale_ahead_[kScaleUnits > 0 ? kScaleUnits : 1];
  uint4 weight_ahead_[kAsync ? 1 : kWeightUnits], x_ahead_[kAsync ? 1 : kXUnits];

 public:
  __device__ TileWorker(const MmaArguments& p, uint8_t* shared)
      : p_(p),
        warp_n_(threadIdx.x / 32 % S::kWarpsN),
        warp_m_(threadIdx.x / 32 / S::kWarpsN % S::kWarpsM),
        warp_k_(threadIdx.x / 32 / S::kWarpsN / S::kWarpsM),
        shared_(shared_address(shared)) {
    copy_weight_ = weight_place(thread_ / kUnitsOfRow, thread_ % kUnitsOfRow);
    copy_x_ = S::kWeightBytes + x_place(thread_ / kUnitsOfToken, thread_ % kUnitsOfToken);
    read_weight_ = weight_place(warp_n_ * S::kTiles16 * 16 + g_, warp_k_ * S::kChunks * 4 + t_);
    // ldmatrix: with one tile of 8 tokens, matrices are two steps' halves; else one step's halves of two tiles.
    const int matrix = lane_ / 8;
    const int token = warp_m_ * S::kTiles8 * 8 + lane_ % 8 + (S::kTiles8 == 1 ? 0 : matrix / 2 * 8);
    const int unit = warp_k_ * S::kChunks * 8 + (S::kTiles8 == 1 ? matrix : matrix % 2);
    read_x_ = S::kWeightBytes + x_place(token, unit);
  }

  __device__ void run() {
    const bool alone = p_.splits == 1;
    const int rank = alone ? 0 : blockIdx.x % p_.splits;
    int tile = alone ? static_cast<int>(static_cast<int64_t>(p_.tiles) * blockIdx.x / gridDim.x) : blockIdx.x / p_.splits;
    const int past = alone ? static_cast<int>(static_cast<int64_t>(p_.tiles) * (blockIdx.x + 1) / gridDim.x) : tile + 1;
    const int first_step = part_begin(rank), last_step = part_begin(rank + 1);
    const int count = (past - tile) * (last_step - first_step);
    Loader load = loader_at(tile, first_step);

    if constexpr (kAsync) {
      Loader ahead = load;  // weights do not depend on the kernel before this one
      for (int s = 0; s < S::kStages - 1 && s < count; ++s) {
        copy_weight(stage(s), ahead);
        fetch_scales(ahead);
        keep_scales(stage(s));
        advance(ahead);
      }
      wait_for_inputs<S::kFamily>();
      for (int s = 0; s < S::kStages - 1; ++s) {
        if (s < count) {
          copy_x(stage(s), load);
          advance(load);
        }
        commit_copies();
      }
      let_next_kernel_start<S::kFamily>();
    } else {
      fetch_all(load);
      fetch_scales(load);
      keep_all(stage(0));
      keep_scales(stage(0));
      advance(load);
    }

    clear();
    bool scales_wait = false;
    int step = first_step, slot = 0, load_slot = S::kStages - 1;
    for (int i = 0; i < count; ++i) {
      if constexpr (kAsync) {
        wait_copies<S::kStages - 2>();
        if (S::kGroup != 0 && scales_wait) keep_scales(stage(load_slot == 0 ? S::kStages - 1 : load_slot - 1));
      }
      __syncthreads();
      const bool more = i + S::kStages - 1 < count;
      if constexpr (kAsync) {
        if (more) {
          copy_weight(stage(load_slot), load);
          copy_x(stage(load_slot), load);
          fetch_scales(load);
          advance(load);
        }
        commit_copies();
        scales_wait = more;
      } else if (more) {
        fetch_all(load);
        fetch_scales(load);
        advance(load);
      }
      ++step;
      multiply(stage(slot), step == last_step || step * S::kDepth % (S::kGroup == 0 ? 64 : S::kGroup) == 0);
      if constexpr (!kAsync) {
        if (more) {
          keep_all(stage(load_slot));
          keep_scales(stage(load_slot));
        }
      }
      slot = slot + 1 == S::kStages ? 0 : slot + 1;
      load_slot = load_slot + 1 == S::kStages ? 0 : load_slot + 1;
      if (step == last_step) {
        finish(tile, rank);
        clear();
        step = first_step;
        ++tile;
      }
    }
    if constexpr (kAsync) wait_copies<0>();
  }

 private:
  // The first step of a part of a tile. Parts begin at multiples of 128 k, or of a longer stage: at the same k in
  // every shape of up to 128, which is what makes a row's bits independent of the shape.
  __device__ int part_begin(int rank) const {
    constexpr int kUnit = S::kDepth < 128 ? 128 / S::kDepth : 1;
    const int units = (p_.steps + kUnit - 1) / kUnit;
    return min(static_cast<int>(static_cast<int64_t>(units) * rank / p_.splits) * kUnit, p_.steps);
  }
  __device__ int first_row(int tile) const { return tile / p_.token_tiles * S::kRows; }
  __device__ int first_token(int tile) const { return tile % p_.token_tiles * S::kTokens; }
  __device__ uint32_t stage(int slot) const { return shared_ + slot * S::kStageBytes; }

  __device__ Loader loader_at(int tile, int step) const {
    const int row = first_row(tile) + thread_ / kUnitsOfRow, token = first_token(tile) + thread_ / kUnitsOfToken;
    const int k = step * S::kDepth;
    Loader load{tile, step, p_.n - row, p_.m - token,
                p_.weight + row * p_.pitch + (k + thread_ % kUnitsOfRow * 16),
                p_.x + token * p_.x_stride + (k + thread_ % kUnitsOfToken * 8)};
#pragma unroll
    for (int i = 0; i < kScaleUnits; ++i) {
      const int n = min(first_row(tile) + (thread_ + i * S::kThreads) % S::kRows, p_.n - 1);
      load.scale_row[i] = p_.group_rows == 0 ? 0 : n / p_.group_rows;
    }
    return load;
  }
  __device__ void advance(Loader& load) const {
    load.weight += S::kDepth;
    load.x += S::kDepth;
    if (++load.step == p_.steps) load = loader_at(load.tile + 1, 0);
  }

  // Chunks of a row change places by its parity, so that the 8 lanes of a 16-byte access meet all banks once.
  static __device__ uint32_t weight_place(int row, int unit) {
    const int chunk = S::kDepth >= 128 ? (unit / 4) ^ (row & 1) : 0;
    return row * S::kDepth + chunk * 64 + unit % 4 * 16;
  }
  static __device__ uint32_t x_place(int token, int unit) {
    return token * S::kDepth * 2 + (unit ^ (token & 7)) * 16;
  }

  // use(i, place, from, wanted): this thread's units of a stage. Rows and tokens past the end are left as they are: what
  // comes of them is in rows and columns of the product that are not stored.
  template <class Use>
  __device__ void each_weight(const Loader& load, const Use& use) const {
    const uint8_t* from = load.weight;
#pragma unroll
    for (int i = 0; i < kWeightUnits; ++i) {
      use(i, copy_weight_ + i * kRowsAtOnce * S::kDepth, from, i * kRowsAtOnce < load.rows);
      from += kRowsAtOnce * p_.pitch;
    }
  }
  template <class Use>
  __device__ void each_x(const Loader& load, const Use& use) const {
    const uint16_t* from = load.x;
#pragma unroll
    for (int i = 0; i < kXUnits; ++i) {
      constexpr int kEnd = S::kTokens < kTokensAtOnce ? S::kTokens * kUnitsOfToken : S::kThreads;
      const uint32_t place = (copy_x_ ^ (i * kTokensAtOnce % 8 * 16)) + i * kTokensAtOnce * S::kDepth * 2;
      use(i, place, from, i * kTokensAtOnce < load.tokens && (kEnd == S::kThreads || thread_ < kEnd));
      from += kTokensAtOnce * p_.x_stride;
    }
  }

  // Of the last step of a tile something may lie behind k: it must be zero in both operands.
  __device__ bool is_inside(const Loader& load) const { return (load.step + 1) * S::kDepth <= p_.k; }
  __device__ bool weight_inside(const Loader& load) const {
    return load.step * S::kDepth + thread_ % kUnitsOfRow * 16 < p_.pitch;
  }
  __device__ int x_bytes(const Loader& load) const {
    return min(max(p_.k - load.step * S::kDepth - thread_ % kUnitsOfToken * 8, 0), 8) * 2;
  }

  __device__ void copy_weight(uint32_t base, const Loader& load) const {
    if (is_inside(load)) {
      each_weight(load, [&](int, uint32_t place, const uint8_t* from, bool wanted) {
        copy16_async(base + place, from, wanted);
      });
    } else {
      const bool inside = weight_inside(load);
      each_weight(load, [&](int, uint32_t place, const uint8_t* from, bool wanted) {
        copy16_async(base + place, from, wanted && inside);
        if (!inside) store_shared16(base + place, {0, 0, 0, 0});
      });
    }
  }
  __device__ void copy_x(uint32_t base, const Loader& load) const {
    if (p_.x_aligned && is_inside(load)) {
      each_x(load, [&](int, uint32_t place, const uint16_t* from, bool wanted) {
        copy16_async(base + place, from, wanted);
      });
    } else {
      const int bytes = x_bytes(load);
      each_x(load, [&](int, uint32_t place, const uint16_t* from, bool wanted) {
        if (wanted) store_shared16(base + place, gather(from, bytes));
      });
    }
  }
  // 16 bytes of which the first `bytes` lie at `from`, by elements: what is not aligned, or the end of a row.
  static __device__ uint4 gather(const uint16_t* from, int bytes) {
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      words[w] = (4 * w < bytes ? from[2 * w] : 0u) | (4 * w + 2 < bytes ? from[2 * w + 1] : 0u) << 16;
    }
    return {words[0], words[1], words[2], words[3]};
  }
  __device__ void fetch_all(const Loader& load) {
    const bool inside = weight_inside(load);
    each_weight(load, [&](int i, uint32_t, const uint8_t* from, bool wanted) {
      weight_ahead_[i] = inside && wanted ? load_stream(from) : uint4{0, 0, 0, 0};
    });
    const int bytes = x_bytes(load);
    const bool whole = p_.x_aligned && bytes == 16;
    each_x(load, [&](int i, uint32_t, const uint16_t* from, bool wanted) {
      if (!wanted) return;
      x_ahead_[i] = whole ? *reinterpret_cast<const uint4*>(from) : gather(from, bytes);
    });
  }
  __device__ void keep_all(uint32_t base) const {
    const Loader everything{0, 0, S::kRows, S::kTokens, nullptr, nullptr};
    each_weight(everything, [&](int i, uint32_t place, const uint8_t*, bool) {
      store_shared16(base + place, weight_ahead_[i]);
    });
    each_x(everything, [&](int i, uint32_t place, const uint16_t*, bool wanted) {
      if (wanted) store_shared16(base + place, x_ahead_[i]);
    });
  }

  // Scales of a stage go through registers, one turn of the loop ahead: they come in any type and alignment.
  __device__ void fetch_scales(const Loader& load) {
    if constexpr (S::kGroup != 0) {
#pragma unroll
      for (int i = 0; i < kScaleUnits; ++i) {
        const int index = thread_ + i * S::kThreads;
        const int column = load.step * S::kDepth / S::kGroup + index / S::kRows;
        const bool inside = index < S::kGroups * S::kRows && column < p_.scale_columns;
        scale_ahead_[i] = inside ? scale_at(load.scale_row[i], column) : 0.0f;
      }
    }
  }
  __device__ void keep_scales(uint32_t base) const {
    if constexpr (S::kGroup != 0) {
#pragma unroll
      for (int i = 0; i < kScaleUnits; ++i) {
        const int index = thread_ + i * S::kThreads;
        if (index < S::kGroups * S::kRows) {
          store_shared4(base + S::kWeightBytes + S::kXBytes + index * 4, scale_ahead_[i]);
        }
      }
    }
  }
  __device__ float scale_at(int row, int column) const {
    const int64_t index = static_cast<int64_t>(row) * p_.scale_columns + column;
    if (!p_.scale_e8m0) return static_cast<const float*>(p_.scale)[index];
    const uint32_t code = static_cast<const uint8_t*>(p_.scale)[index];
    return __uint_as_float(code == 0 ? 0x00400000u : code << 23);  // 2^(code - 127); 2^-127 is subnormal
  }

  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
      for (int j = 0; j < S::kTiles8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc_[r][j][i] = 0;
        if constexpr (kChains == 2) {
#pragma unroll
          for (int i = 0; i < 4; ++i) odd_[r][j][i] = 0;
        }
        if constexpr (S::kGroup != 0) {
#pragma unroll
          for (int i = 0; i < 4; ++i) part_[r][j][i] = 0;
        }
      }
    }
  }

  // One stage: this warp's rows and tokens of its chunks. The sums of a group of k are added to the others with its
  // scale where it ends: inside the stage, or behind it if `group_ends` says so.
  __device__ void multiply(uint32_t base, bool group_ends) {
    constexpr int kStepsOfGroup = S::kGroup == 0 ? 1 : S::kGroup / 16;
#pragma unroll
    for (int c = 0; c < S::kChunks; ++c) {
      uint4 q[S::kTiles16][2];
#pragma unroll
      for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          q[r][h] = load_shared16(((base + read_weight_) ^ (c * 64)) + (16 * r + 8 * h) * S::kDepth);
        }
      }
      uint32_t two_steps[4];
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        uint32_t b[S::kTiles8][2];
        load_tokens(b, two_steps, base, c, s);
#pragma unroll
        for (int r = 0; r < S::kTiles16; ++r) {
          uint32_t a[4];
          decode<S::kFamily, S::kHalf, S::kCode>(a, word(q[r][0], s), word(q[r][1], s));
#pragma unroll
          for (int j = 0; j < S::kTiles8; ++j) {
            if constexpr (S::kGroup == 0) {
              auto& sums = kChains == 2 && s % 2 == 1 ? odd_[0][0] : acc_[r][j];
              multiply_add<S::kFamily, S::kHalf>(sums, a, b[j][0], b[j][1], sums);
            } else {
              multiply_add<S::kFamily, S::kHalf>(part_[r][j], a, b[j][0], b[j][1], part_[r][j]);
            }
          }
        }
        if constexpr (S::kGroup != 0) {
          const bool last_of_stage = c + 1 == S::kChunks && s == 3;
          if ((c * 4 + s + 1) % kStepsOfGroup == 0 || (last_of_stage && (S::kWarpsK > 1 || group_ends))) {
            const int k = (warp_k_ * S::kChunks + c) * 64 + s * 16;
            add_group(base + S::kWeightBytes + S::kXBytes + (S::kGroups > 1 ? k / S::kGroup : 0) * S::kRows * 4);
          }
        }
      }
    }
  }
  static __device__ uint32_t word(const uint4& q, int s) { return s == 0 ? q.x : s == 1 ? q.y : s == 2 ? q.z : q.w; }

  __device__ void add_group(uint32_t scales) {
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
      const uint32_t row = scales + ((warp_n_ * S::kTiles16 + r) * 16 + g_) * 4;
      const float scale[2] = {load_shared4(row), load_shared4(row + 32)};
#pragma unroll
      for (int j = 0; j < S::kTiles8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          acc_[r][j][i] += scale[i / 2] * part_[r][j][i];
          part_[r][j][i] = 0;
        }
      }
    }
  }

  // Operand b of step s of a chunk. One ldmatrix brings two steps of 8 tokens, or one step of 16.
  __device__ void load_tokens(uint32_t (&b)[S::kTiles8][2], uint32_t (&two_steps)[4], uint32_t base, int c,
                              int s) const {
    static_assert(S::kTiles8 % 2 == 0 || S::kTiles8 == 1);
    const uint32_t from = ((base + read_x_) ^ (s * 32)) + c * 128;
    if constexpr (S::kTiles8 == 1) {
      if (s % 2 == 0) load_matrix4(two_steps, from);
      b[0][0] = two_steps[s % 2 * 2];
      b[0][1] = two_steps[s % 2 * 2 + 1];
    } else {
#pragma unroll
      for (int j = 0; j < S::kTiles8; j += 2) {
        uint32_t two[4];
        load_matrix4(two, from + j * 8 * S::kDepth * 2);
        b[j][0] = two[0];
        b[j][1] = two[1];
        b[j + 1][0] = two[2];
        b[j + 1][1] = two[3];
      }
    }
  }

  // The sums of a tile, or of this block's part of it, are complete.
  __device__ void finish(int tile, int rank) {
    if constexpr (kChains == 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc_[0][0][i] += odd_[0][0][i];
    }
    if constexpr (S::kFamily == Family::kSm90) {
      if (p_.splits > 1) return add_cluster(tile, rank);
    }
    if constexpr (S::kWarpsK == 1) {
      auto& sums = reinterpret_cast<float(&)[S::kSums]>(acc_);
      if (p_.splits > 1 && !add_parts(sums, tile, rank)) return;
      write_fragments(first_row(tile), first_token(tile));
    } else {
      const uint32_t all = stage(S::kStages);
      share_sums(all);
      __syncthreads();
      float sums[S::kSums];
      add_warps(sums, all);
      if (p_.splits > 1 && !add_parts(sums, tile, rank)) return;
      write_sums(sums, first_row(tile), first_token(tile));
    }
  }

  // This warp's sums to [kWarpsK][kTokens][kSumPitch] in shared memory.
  static __device__ uint32_t sum_place(int warp_k, int token, int row) {
    return ((warp_k * S::kTokens + token) * S::kSumPitch + row) * 4;
  }
  __device__ void share_sums(uint32_t all) const {
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
      for (int j = 0; j < S::kTiles8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = (warp_n_ * S::kTiles16 + r) * 16 + g_ + i / 2 * 8;
          const int token = (warp_m_ * S::kTiles8 + j) * 8 + 2 * t_ + i % 2;
          store_shared4(all + sum_place(warp_k_, token, row), acc_[r][j][i]);
        }
      }
    }
  }

  // Each block of the cluster adds and writes its share of the tile, 4 outputs at a time.
  __device__ void add_cluster(int tile, int rank) const {
    wait_copies<0>();
    __syncthreads();  // nobody reads the ring any more: the sums may lie in it
    const uint32_t all = S::kWarpsK == 1 ? stage(0) : stage(S::kStages);
    share_sums(all);
    synchronise_cluster();
    const int n0 = first_row(tile), m0 = first_token(tile);
    const int fours = min(S::kTokens, p_.m - m0) * (S::kRows / 4);
    for (int i = rank * S::kThreads + thread_; i < fours; i += p_.splits * S::kThreads) {
      const int token = i / (S::kRows / 4), row = i % (S::kRows / 4) * 4;
      float4 sum{0, 0, 0, 0};
      for (int block = 0; block < p_.splits; ++block) {
#pragma unroll
        for (int w = 0; w < S::kWarpsK; ++w) {
          const float4 part = load_cluster16(all + sum_place(w, token, row), block);
          sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
        }
      }
      write_four(sum, n0 + row, m0 + token);
    }
    synchronise_cluster();  // nobody leaves while another reads its sums
  }
  __device__ void write_four(const float4& sum, int n, int m) const {
    const float sums[4] = {sum.x, sum.y, sum.z, sum.w};
    if (p_.y_fours && n + 3 < p_.n) {
      const uint2 halves{pack2<S::kFamily, S::kHalf>(scaled(sums[0], n), scaled(sums[1], n + 1)),
                         pack2<S::kFamily, S::kHalf>(scaled(sums[2], n + 2), scaled(sums[3], n + 3))};
      *reinterpret_cast<uint2*>(p_.y + m * p_.y_stride + n) = halves;
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (n + i < p_.n) store(m, n + i, scaled(sums[i], n + i));
    }
  }

  // Sums of the warps that share k, in the order of the warps; sum i of a thread is of output place(i).
  static __device__ int place(int i) { return threadIdx.x + i * S::kThreads; }
  __device__ void add_warps(float (&sums)[S::kSums], uint32_t all) const {
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) {
      const int row = place(i) % S::kRows, token = place(i) / S::kRows;
      sums[i] = 0;
      if (place(i) >= S::kOutputs) continue;
#pragma unroll
      for (int w = 0; w < S::kWarpsK; ++w) sums[i] += load_shared4(all + sum_place(w, token, row));
    }
  }

  // This block's part of a tile goes to scratch. The last block to arrive returns true with the sum over all parts
  // in the order of k.
  __device__ bool add_parts(float (&sums)[S::kSums], int tile, int rank) const {
    float* const parts = p_.partials + static_cast<int64_t>(tile) * p_.splits * S::kOutputs;
    float* const mine = parts + static_cast<int64_t>(rank) * S::kOutputs;
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) {
      if (place(i) < S::kOutputs) __stcg(mine + place(i), sums[i]);
    }
    __threadfence();
    __syncthreads();
    __shared__ bool last;
    if (thread_ == 0) {
      last = atomicAdd(p_.arrived + tile, 1u) == static_cast<uint32_t>(p_.splits - 1);
      __threadfence();
    }
    __syncthreads();
    if (!last) return false;
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) sums[i] = 0;
    for (int part = 0; part < p_.splits; ++part) {
      const float* const from = parts + static_cast<int64_t>(part) * S::kOutputs;
#pragma unroll
      for (int i = 0; i < S::kSums; ++i) {
        if (place(i) < S::kOutputs) sums[i] += __ldcg(from + place(i));
      }
    }
    return true;
  }

  __device__ float row_scale(int n) const { return scale_at(p_.group_rows == 0 ? 0 : n / p_.group_rows, 0); }
  __device__ float scaled(float sum, int n) const {
    if (S::kGroup == 0) sum *= row_scale(n);
    return p_.bias == nullptr ? sum : sum + p_.bias[n];
  }
  __device__ void store(int m, int n, float value) const {
    p_.y[static_cast<int64_t>(m) * p_.y_stride + n] = static_cast<uint16_t>(pack2<S::kFamily, S::kHalf>(value, value));
  }
  __device__ void write_sums(const float (&sums)[S::kSums], int n0, int m0) const {
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) {
      const int n = n0 + place(i) % S::kRows, m = m0 + place(i) / S::kRows;
      if (n < p_.n && m < p_.m && place(i) < S::kOutputs) store(m, n, scaled(sums[i], n));
    }
  }
  // Lane (g, t) of a product holds outputs g, g + 8 of tokens 2t, 2t + 1. Transposed it holds outputs 2t, 2t + 1
  // of token g, which lie side by side in y.
  __device__ void write_fragments(int n0, int m0) const {
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int tile_n = n0 + (warp_n_ * S::kTiles16 + r) * 16 + 8 * h;
        const int row = min(tile_n + g_, p_.n - 1);
        const float scale = S::kGroup == 0 ? row_scale(row) : 1.0f;
        const float bias = p_.bias == nullptr ? 0.0f : p_.bias[row];
#pragma unroll
        for (int j = 0; j < S::kTiles8; ++j) {
          const float* sum = acc_[r][j] + 2 * h;
          const float first = S::kGroup == 0 ? sum[0] * scale : sum[0];
          const float second = S::kGroup == 0 ? sum[1] * scale : sum[1];
          const uint32_t pair = transpose8x8(
              p_.bias == nullptr ? pack2<S::kFamily, S::kHalf>(first, second)
                                 : pack2<S::kFamily, S::kHalf>(first + bias, second + bias));
          const int m = m0 + (warp_m_ * S::kTiles8 + j) * 8 + g_, n = tile_n + 2 * t_;
          if (m >= p_.m || n >= p_.n) continue;
          uint16_t* const to = p_.y + m * p_.y_stride + n;
          if (p_.y_pairs && n + 1 < p_.n) {
            *reinterpret_cast<uint32_t*>(to) = pair;
          } else {
            to[0] = static_cast<uint16_t>(pair);
            if (n + 1 < p_.n) to[1] = static_cast<uint16_t>(pair >> 16);
          }
        }
      }
    }
  }
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kShape.blocks) mma_w8a16(const __grid_constant__ MmaArguments p) {
  extern __shared__ __align__(128) uint8_t shared[];
  TileWorker<S>(p, shared).run();
}

}  // namespace anyfp8::mma
