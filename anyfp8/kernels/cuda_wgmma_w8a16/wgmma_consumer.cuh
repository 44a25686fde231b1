#pragma once

#include <type_traits>
#include <utility>

#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_block_scales.cuh"
#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_output.cuh"
#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_scales.cuh"

// A warpgroup's products. Its 64 rows of a product are those that wgmma's fragments name, in an order of our
// own: lane (g, t) of a warp holds the rows
//
//   8 (g / 4) + 4 (g % 2) + 2 (g / 2 % 2)   and the one after it
//
// of 16, where wgmma counts g and g + 8. The two that are served together when a warp reads 16 bytes a lane
// (g even and odd) then lie 4 rows apart, which the swizzle puts in different banks; and a lane's two outputs
// lie side by side in y.
namespace anyfp8::wgmma {

template <class S>
class Consumer {
  // A group of two products is waited for at once: of both 64 rows, or of two steps of 16 k. H200, 64 rows,
  // by groups of two against one: 32 tokens 1 to 3 % faster, but 128 tokens 1 to 3 % slower unless their sums
  // of 128 k are scaled. Where 128 rows are rescaled, the groups are of either 64 rows in turns, so that
  // there are products of the others under way meanwhile.
  static constexpr bool kPairs = S::kRescales || (S::kRows64 == 1 && (S::kTokens <= 64 || S::kPromotes));
  static constexpr int kTurns = S::kRescales ? 2 : 1;
  static constexpr int kSteps = kPairs ? 2 : 1, kProducts = S::kRows64 / kTurns;  // of a group
  static constexpr int kGroups = 8 / kSteps * kTurns;                             // of a stage
  static constexpr int kAhead = S::kRescales ? 2 : 1;  // groups under way while the next one is decoded
  static __device__ constexpr int step_of(int group) { return group / kTurns * kSteps; }
  static __device__ constexpr int product_of(int group) { return group % kTurns; }

  using Scale = std::conditional_t<S::kRescales, BlockScale<S>, Scales<S>>;

  const Arguments& p_;
  const Ring<S> ring_;
  const Work& work_;
  const int lane_ = threadIdx.x % 32, warpgroup_ = static_cast<int>(threadIdx.x) / 128, row_;
  Slot<S> slot_;
  // Words of codes of a chunk of 64 k, one for each step, two rows for each product; a stage's chunks in
  // turn. (As uint4 the compiler keeps all of this object in local memory.)
  uint32_t codes_[2][S::kRows64][2][4];
  uint32_t fragments_[2 * kAhead][kSteps][kProducts][4];  // of the groups in turn
  Sums<S> acc_;
  float part_[S::kPromotes ? S::kRows64 : 1][S::kPromotes ? S::kTokens / 8 : 1][4];  // of a group of 128 k

 public:
  __device__ Consumer(const Arguments& p, const Ring<S>& ring, const Work& work)
      // By a shuffle, or ptxas finds the block's shared memory in the cluster's anew in each stage.
      : p_(p), ring_(__shfl_sync(0xFFFFFFFFu, ring.base, 0)), work_(work), row_(first_row_of_thread()) {}

  __forceinline__ __device__ void run() {
    __syncthreads();  // the barriers are there
    if (p_.splits > 1) arrive_in_cluster();
    Scale scales = make_scales();
    const Output<S> output(p_, ring_, row_, base_of(scales));
    tile::wait_for_inputs<tile::Family::kSm90>();
    Position<S> at(p_, work_);
    if (at.there()) {
      if constexpr (S::kFolds) scales.begin_step(0);
      if constexpr (S::kRescales) arrive_at_if(warpgroup_ == 1, kTurnBarrier, kConsumers);
      begin_stage(scales);
    }
#pragma unroll 1
    while (at.there()) {
      const int tile = at.tile;
      const bool shared = at.shared;
      typename Output<S>::Endings endings;
      if (!shared) output.fetch(endings, tile);
      multiply_tile(scales, at);
      if (shared) {
        wait_for_cluster();
        output.add_parts(acc_, tile);
        return;
      }
      output.write(acc_, endings, tile);
    }
    if (p_.splits > 1) {
      wait_for_cluster();
      arrive_in_cluster();
      wait_for_cluster();
    }
  }

 private:
  __device__ Scale make_scales() const {
    if constexpr (S::kRescales) {
      return BlockScale<S>(ring_);
    } else {
      return Scales<S>(p_, work_, row_);
    }
  }
  static __device__ int base_of(const Scale& scales) {
    if constexpr (S::kFolds) {
      return scales.base();
    } else {
      return 0;
    }
  }
  static __device__ int first_row_of_thread() {
    const int g = threadIdx.x % 32 / 4, warp = threadIdx.x / 32;
    return warp / 4 * S::kRows64 * 64 + warp % 4 * 16 + g / 4 * 8 + g % 2 * 4 + g / 2 % 2 * 2;
  }

  // The first codes of the stage at slot_ and the fragments of its first group.
  __forceinline__ __device__ void begin_stage(Scale& scales) {
    wait_phase(ring_.full(slot_.index), slot_.parity);
    load_codes<0>(slot_.index);
    if constexpr (S::kRescales) {
      scales.load(slot_.index);
      scales.begin_decoding();
      scales.begin_sums();
    }
    decode_group<0>(scales);
    if constexpr (kAhead == 2) decode_group<1>(scales);
  }
  template <int kChunk>
  __forceinline__ __device__ void load_codes(int slot) {
#pragma unroll
    for (int r = 0; r < S::kRows64; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = row_ + h, unit = (kChunk * 4 + lane_ % 4) ^ (row & 7);
        const uint4 v = tile::load_shared16(ring_.weight(slot) + (row + 64 * r) * 128 + unit * 16);
        auto& words = codes_[kChunk][r][h];
        words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
      }
    }
  }
  template <int kGroup>
  __forceinline__ __device__ void decode_group(const Scale& scales) {
    decode_step<kGroup, 0>(scales);
    if constexpr (kPairs) decode_step<kGroup, 1>(scales);
  }
  // Fragments of step kInGroup of a group's 16 k.
  template <int kGroup, int kInGroup>
  __forceinline__ __device__ void decode_step(const Scale& scales) {
    constexpr int kStep = step_of(kGroup) + kInGroup;
#pragma unroll
    for (int product = 0; product < kProducts; ++product) {
      auto& fragment = fragments_[kGroup % (2 * kAhead)][kInGroup][product];
      const int r = product_of(kGroup) + product;
      const uint32_t q0 = codes_[kStep / 4][r][0][kStep % 4], q1 = codes_[kStep / 4][r][1][kStep % 4];
      if constexpr (S::kRescales) {
        tile::decode<tile::Family::kSm90, S::kHalf, S::kCode>(fragment, q0, q1, scales.factor(),
                                                              scales.factor());
      } else if constexpr (S::kFolds) {
        decode_by_half<S::kCode, Scale::template kUpper<kStep>>(
            fragment, q0, q1, scales.template factors<kStep>(r, 0), scales.template factors<kStep>(r, 1));
      } else {
        tile::decode<tile::Family::kSm90, S::kHalf, S::kCode>(fragment, q0, q1);
      }
    }
  }

  // When a stage is given back (H200):
  //   kLast    behind its last group, when the next stage's first is decoded
  //   kLater   behind the next stage's first group, so that the tensor cores always have work. Not compared
  //            to kLast in one run: against cuBLAS, from run to run, they are equal with 128 tokens. With
  //            fewer, where memory is what one waits for, 5 % slower.
  //   kFirst   before one waits for the next: 64 tokens with scales of 128 k, 28672 x 4096 in 42.7 us, by
  //            kLast 45.4 in the same run
  //   kTurn    when its products are there, which rescaling waits for anyway
  enum class Leave { kLast, kLater, kFirst, kTurn };
  static constexpr Leave kLeave = S::kRescales                       ? Leave::kTurn
                                  : S::kTokens > 64 && !S::kPromotes ? Leave::kLater
                                  : S::kTokens <= 64 && S::kPromotes ? Leave::kFirst
                                                                     : Leave::kLast;

  // The products of a tile, and on to the next.
  __forceinline__ __device__ void multiply_tile(Scale& scales, Position<S>& at) {
    const int first = at.step, last = at.last_step - 1;
    at.advance_tile();
    const bool last_tile = !at.there();
    if constexpr (S::kPromotes) clear();
#pragma unroll 1
    for (int step = first; step <= last; ++step) {
      multiply_stage(scales, step - first, step == last, last_tile && step == last);
    }
    if constexpr (kLeave == Leave::kLater) {
      wait_wgmma<0>();
      arrive_if(lane_ == 0, ring_.empty(slot_.before()));
    }
  }

  // The stage at slot_, whose first groups (kAhead) are decoded. While a group is multiplied the next but as
  // many is decoded, behind the last those of the next stage.
  __forceinline__ __device__ void multiply_stage(Scale& scales, int step, bool last_of_tile, bool last) {
    const uint64_t tokens = token_descriptor(ring_.x(slot_.index));
    const int slot = slot_.index;
    if constexpr (!S::kRescales) load_codes<1>(slot);
    [&]<int... kGroup>(std::integer_sequence<int, kGroup...>) __attribute__((always_inline)) {
      (multiply_group<kGroup>(scales, tokens, step, last_of_tile, last), ...);
    }
    (std::make_integer_sequence<int, kGroups>{});
    if constexpr (kLeave == Leave::kLast) leave(slot);
    if constexpr (S::kPromotes) add_group(scales);
  }
  // Its products are there: the producer may fill it again.
  __forceinline__ __device__ void leave(int slot) const {
    wait_wgmma<0>();
    if (lane_ == 0) arrive(ring_.empty(slot));
  }
  template <int kGroup>
  __forceinline__ __device__ void multiply_group(Scale& scales, uint64_t tokens, int step, bool last_of_tile,
                                                 bool last) {
    constexpr bool kLastGroup = kGroup == kGroups - 1;
    const bool first_of_tile = step == 0;
    if constexpr (S::kRescales && kGroup == 0) wait_at(kTurnBarrier + warpgroup_, kConsumers);
    begin_wgmma();
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int k16 = step_of(kGroup) + i;
      const uint64_t of_step = tokens + k16 / 4 * (S::kTokens * 128 / 16) + k16 % 4 * 2;
#pragma unroll
      for (int product = 0; product < kProducts; ++product) {
        const auto& fragment = fragments_[kGroup % (2 * kAhead)][i][product];
        const int r = product_of(kGroup) + product;
        if constexpr (S::kPromotes) {
          multiply_add<S::kHalf>(part_[r], fragment, of_step, k16 > 0);
        } else {
          multiply_add<S::kHalf>(acc_[r], fragment, of_step, k16 > 0 || !first_of_tile);
        }
      }
    }
    commit_wgmma();
    if constexpr (S::kRescales && kGroup == 0) load_codes<1>(slot_.index);
    if constexpr (kLastGroup && kLeave == Leave::kFirst) leave(slot_.index);
    if constexpr (kGroup == kGroups - (!S::kRescales && (kPairs || kLeave == Leave::kFirst) ? 1 : 2)) {
      slot_.advance();
      if (!last) {
        wait_phase(ring_.full(slot_.index), slot_.parity);
        load_codes<0>(slot_.index);
        if constexpr (S::kRescales) scales.load(slot_.index);
      }
    }
    if constexpr (S::kRescales && kGroup == kGroups / 2) {
      arrive_at_if(warpgroup_ == 0 || !last, kTurnBarrier + (warpgroup_ ^ 1), kConsumers);
    }
    if constexpr (S::kPromotes && kGroup == 1) scales.begin_step(step);
    if constexpr (S::kFolds && kLastGroup) scales.begin_step(last_of_tile ? 0 : step + 1);
    if constexpr (!kLastGroup || kLeave != Leave::kFirst) wait_wgmma<kAhead>();
    if constexpr (kLeave == Leave::kLater && kGroup == 0) {
      arrive_if(!first_of_tile && lane_ == 0, ring_.empty(slot_.before()));
    }
    if constexpr (S::kRescales && kGroup == kGroups - kAhead) scales.begin_decoding();
    decode_group<(kGroup + kAhead) % kGroups>(scales);
    if constexpr (S::kRescales && kLastGroup) turn(scales);
  }

  // Sums to units of the next stage's scale: the first 64 rows' while the others' last group is multiplied.
  // Products of neither are under way behind this, as ptxas asks for: else it waits for each product alone.
  // So the other warpgroup has to have some, and begins each stage in the middle of one of this (H200,
  // products and decoding without copies: 2070 cycles a stage of 256 x 128, 2334 where both turn at the same
  // time, and 2048 are the products).
  __forceinline__ __device__ void turn(Scale& scales) {
    wait_wgmma<1>();
    rescale<0>(scales);
    wait_wgmma<0>();
    arrive_if(lane_ == 0, ring_.empty(slot_.before()));
    rescale<1>(scales);
    scales.begin_sums();
  }
  static constexpr int kTurnBarrier = 2;  // and the next: where warpgroups 0 and 1 wait to begin a stage
  template <int kProduct>
  __forceinline__ __device__ void rescale(const Scale& scales) {
    const float turn = scales.turn();
    if (turn == 1) return;  // of neighbours that are powers of two below 4 always
#pragma unroll
    for (int j = 0; j < S::kTokens / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc_[kProduct][j][i] *= turn;
    }
  }
  __forceinline__ __device__ void clear() {
#pragma unroll
    for (int r = 0; r < S::kRows64; ++r) {
#pragma unroll
      for (int j = 0; j < S::kTokens / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc_[r][j][i] = 0;
      }
    }
  }
  __forceinline__ __device__ void add_group(const Scale& scales) {
#pragma unroll
    for (int r = 0; r < S::kRows64; ++r) {
#pragma unroll
      for (int j = 0; j < S::kTokens / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          acc_[r][j][i] = __fmaf_rn(scales.scale(r, i / 2), part_[r][j][i], acc_[r][j][i]);
        }
      }
    }
  }
};

}  // namespace anyfp8::wgmma
