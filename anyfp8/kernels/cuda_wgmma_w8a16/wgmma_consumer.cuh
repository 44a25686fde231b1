#pragma once

#include <utility>

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
  // of 128 k are scaled.
  static constexpr bool kPairs = S::kRows64 == 1 && (S::kTokens <= 64 || S::kPromotes);
  static constexpr int kSteps = kPairs ? 2 : 1, kGroups = 8 / kSteps;  // of a group; of a stage

  const Arguments& p_;
  const Ring<S> ring_;
  const Work work_;
  const int lane_ = threadIdx.x % 32, row_;
  Slot<S> slot_;
  // Words of codes of a chunk of 64 k, one for each step, two rows for each product; a stage's chunks in
  // turn. (As uint4 the compiler keeps all of this object in local memory.)
  uint32_t codes_[2][S::kRows64][2][4];
  uint32_t fragments_[2][kSteps][S::kRows64][4];  // of the groups in turn
  Sums<S> acc_;
  float part_[S::kPromotes ? S::kRows64 : 1][S::kPromotes ? S::kTokens / 8 : 1][4];  // of a group of 128 k

 public:
  __device__ Consumer(const Arguments& p, const Ring<S>& ring, const Work& work)
      : p_(p), ring_(ring), work_(work), row_(first_row_of_thread()) {}

  __forceinline__ __device__ void run() {
    __syncthreads();  // the barriers are there
    if (p_.splits > 1) arrive_in_cluster();
    Scales<S> scales(p_, work_, row_);
    const Output<S> output(p_, ring_, work_, row_, scales.base());
    tile::wait_for_inputs<tile::Family::kSm90>();
    if (work_.first_tile < work_.tiles) {
      if constexpr (S::kFolds) scales.begin_step(0);
      begin_stage(scales);
    }
#pragma unroll 1
    for (int tile = work_.first_tile; tile < work_.tiles; tile += work_.stride) {
      typename Output<S>::Endings endings;
      if (p_.splits == 1) output.fetch(endings, tile);
      if constexpr (S::kPromotes) clear();
      const bool last_tile = tile + work_.stride >= work_.tiles;
#pragma unroll 1
      for (int step = work_.first_step; step < work_.last_step; ++step) {
        multiply_stage(scales, step, last_tile && step + 1 == work_.last_step);
      }
      if constexpr (kLeave == Leave::kLater) {
        wait_wgmma<0>();
        arrive_if(lane_ == 0, ring_.empty(slot_.before()));
      }
      if (p_.splits == 1) output.write(acc_, endings, tile);
    }
    if (p_.splits > 1) {
      wait_for_cluster();
      output.add_parts(acc_, work_.first_tile);
    }
  }

 private:
  static __device__ int first_row_of_thread() {
    const int g = threadIdx.x % 32 / 4, warp = threadIdx.x / 32;
    return warp / 4 * S::kRows64 * 64 + warp % 4 * 16 + g / 4 * 8 + g % 2 * 4 + g / 2 % 2 * 2;
  }

  // The first codes of the stage at slot_ and the fragments of its first group.
  __forceinline__ __device__ void begin_stage(const Scales<S>& scales) {
    wait_phase(ring_.full(slot_.index), slot_.parity);
    load_codes<0>(slot_.index);
    decode_group<0>(scales);
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
  __forceinline__ __device__ void decode_group(const Scales<S>& scales) {
    decode_step<kGroup * kSteps>(scales);
    if constexpr (kPairs) decode_step<kGroup * kSteps + 1>(scales);
  }
  // Fragments of step kStep (0 to 7) of 16 k.
  template <int kStep>
  __forceinline__ __device__ void decode_step(const Scales<S>& scales) {
#pragma unroll
    for (int r = 0; r < S::kRows64; ++r) {
      auto& fragment = fragments_[kStep / kSteps % 2][kStep % kSteps][r];
      const uint32_t q0 = codes_[kStep / 4][r][0][kStep % 4], q1 = codes_[kStep / 4][r][1][kStep % 4];
      if constexpr (S::kFolds) {
        decode_by_half<S::kCode, Scales<S>::template kUpper<kStep>>(
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
  enum class Leave { kLast, kLater, kFirst };
  static constexpr Leave kLeave = S::kTokens > 64 ? (S::kPromotes ? Leave::kLast : Leave::kLater)
                                  : S::kPromotes  ? Leave::kFirst
                                                  : Leave::kLast;

  // The stage at slot_, whose first group is decoded. While a group is multiplied the next is decoded, behind
  // the last the first of the next stage.
  __forceinline__ __device__ void multiply_stage(Scales<S>& scales, int step, bool last) {
    const bool first_of_tile = step == work_.first_step;
    const uint64_t tokens = token_descriptor(ring_.x(slot_.index));
    const int slot = slot_.index;
    load_codes<1>(slot);
    [&]<int... kGroup>(std::integer_sequence<int, kGroup...>) __attribute__((always_inline)) {
      (multiply_group<kGroup>(scales, tokens, step, first_of_tile, last), ...);
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
  __forceinline__ __device__ void multiply_group(Scales<S>& scales, uint64_t tokens, int step,
                                                 bool first_of_tile, bool last) {
    constexpr bool kLastGroup = kGroup == kGroups - 1;
    begin_wgmma();
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int k16 = kGroup * kSteps + i;
      const uint64_t of_step = tokens + k16 / 4 * (S::kTokens * 128 / 16) + k16 % 4 * 2;
#pragma unroll
      for (int r = 0; r < S::kRows64; ++r) {
        const auto& fragment = fragments_[kGroup % 2][i][r];
        if constexpr (S::kPromotes) {
          multiply_add<S::kHalf>(part_[r], fragment, of_step, k16 > 0);
        } else {
          multiply_add<S::kHalf>(acc_[r], fragment, of_step, k16 > 0 || !first_of_tile);
        }
      }
    }
    commit_wgmma();
    if constexpr (kLastGroup && kLeave == Leave::kFirst) leave(slot_.index);
    if constexpr (kGroup == kGroups - (kPairs || kLeave == Leave::kFirst ? 1 : 2)) {
      slot_.advance();
      if (!last) {
        wait_phase(ring_.full(slot_.index), slot_.parity);
        load_codes<0>(slot_.index);
      }
    }
    if constexpr (S::kPromotes && kGroup == 1) scales.begin_step(step - work_.first_step);
    if constexpr (S::kFolds && kLastGroup) {
      scales.begin_step(step + 1 == work_.last_step ? 0 : step + 1 - work_.first_step);
    }
    if constexpr (!kLastGroup || kLeave != Leave::kFirst) wait_wgmma<1>();
    if constexpr (kLeave == Leave::kLater && kGroup == 0) {
      arrive_if(!first_of_tile && lane_ == 0, ring_.empty(slot_.before()));
    }
    decode_group<(kGroup + 1) % kGroups>(scales);
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
  __forceinline__ __device__ void add_group(const Scales<S>& scales) {
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
