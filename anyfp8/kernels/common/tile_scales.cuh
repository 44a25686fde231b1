#pragma once

#include "anyfp8/kernels/common/tile_sums.cuh"

// Scales that change with k. A row has a word of them for each 128 k: an f32, or four e8m0 codes. (Or for
// each 32 k, an f32.) They come straight from memory to the registers of the warp that needs them, four words
// of a row in one turn:
//
//   lane (g, t)   words of the rows g and g + 8 of its products, of the stages t, 4 + t, 8 + t, ... of a part
//
// and the words of the next turn are on their way meanwhile, in the next tile too. Through the ring they cost
// 3 to 10 % (H200, 128 x 128, m <= 16; now 3 at most): each stage waited for its own before it asked for the
// next.
namespace anyfp8::tile {

template <class S>
class TileScales {
  static constexpr bool kThere = S::kScaling != Scaling::kRow;
  static constexpr bool kWordOf32 = S::kScaling == Scaling::k32;
  // A word is of two stages where these have 64 k; four of 32 k are one stage's.
  static constexpr int kStepsOfWord = S::kDepth < 128 ? 128 / S::kDepth : 1;
  static_assert(!kThere || S::kChunks * 64 * kStepsOfWord == 128);
  static_assert(!kWordOf32 || kStepsOfWord == 1);
  using Words = uint32_t[S::kTiles16][2];

  const TileArguments& p_;
  const Work& work_;
  const WarpPlace<S> place_;
  int tile_, step_;           // what is fetched next
  int rows_[S::kTiles16][2];  // of scales
  int base_ = 0;              // of MX scales, see MxRule
  bool far_apart_ = false;
  Words next_, held_, word_;

 public:
  // Stages for which a lane holds words.
  static constexpr int kStepsOfTurn = !kThere ? 1 << 30 : kWordOf32 ? 1 : 4 * kStepsOfWord;

  __device__ TileScales(const TileArguments& p, const Work& work)
      : p_(p), work_(work), tile_(work.first_tile), step_(work.first_step) {
    if constexpr (S::kFolds) base_ = S::mx_rule().base(__float_as_uint(__ldg(p.max_scale)));
    if constexpr (kThere) fetch();
  }
  __device__ int base() const { return base_; }

  // Before the first of every kStepsOfTurn stages of a tile.
  __device__ void turn() {
    if constexpr (kThere) {
      hold();
      fetch();
    }
  }
  // Before stage `i` of a turn. Returns whether this lane holds scales that fp16's exponents do not reach: if
  // one in the block does, all take the long way, so that a row's bits do not depend on the shape.
  __device__ bool begin_stage(int i) {
    if constexpr (kThere && !kWordOf32) {
      each([&](int r, int h) {
        word_[r][h] = of_lane(held_[r][h], i / kStepsOfWord);
        if (S::kFolds && i % kStepsOfWord != 0) word_[r][h] >>= 16;
      });
    }
    return far_apart_;
  }

  // Of row g (h = 0) or g + 8 (h = 1) of product r, and the 16-wide step `s` of this warp's part of the
  // stage: the scale of its sums,
  __device__ float scale(int r, int h, int s) const {
    return __uint_as_float(kWordOf32 ? of_lane(held_[r][h], s / 2) : word_[r][h]);
  }
  // the factor of its codes,
  __device__ uint32_t factor(int r, int h, int s) const { return mx_factor<S::kHalf>(word_[r][h], s / 2); }
  // and on the long way the same and what its sums are shifted by.
  __device__ uint32_t shifted_factor(int r, int h, int s) const {
    return mx_factor<S::kHalf>(S::mx_rule().shifted_exponent(relative_scale(r, h, s)), 0);
  }
  __device__ int shift(int r, int h, int s) const { return S::mx_rule().shift(relative_scale(r, h, s)); }

 private:
  template <class Use>
  static __device__ void each(const Use& use) {
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) use(r, h);
    }
  }
  // What lane t of this row has.
  __device__ uint32_t of_lane(uint32_t word, int t) const {
    return __shfl_sync(0xFFFFFFFFu, word, (place_.lane & ~3) + t);
  }
  static __device__ uint32_t four(int byte) { return static_cast<uint32_t>(byte) * 0x01010101u; }
  __device__ int relative_scale(int r, int h, int s) const {
    const uint32_t code = ((word_[r][h] >> s / 2 * 8) - S::mx_rule().offset(base_)) & 0xFF;
    return static_cast<int>(code) - S::mx_rule().neutral(base_);
  }

  __device__ void hold() {
    far_apart_ = false;
    each([&](int r, int h) {
      uint32_t word = next_[r][h];
      if constexpr (S::kFolds) {
        word = __vadd4(word, four(S::mx_rule().offset(base_)));
      } else if (p_.scale_e8m0) {
        word = __float_as_uint(scale_of_e8m0(word));
      }
      held_[r][h] = word;
      if constexpr (S::kMayBeFarApart) {
        far_apart_ |= (__vcmpltu4(word, four(S::mx_rule().exponent(S::mx_rule().bottom))) |
                       __vcmpgtu4(word, four(S::mx_rule().exponent(S::mx_rule().top)))) != 0;
      }
    });
  }

  // Asks for the words of the next turn, or for others that nobody uses: whether there is a next one must not
  // be a branch around the loads, or the compiler moves what came, and so waits for it, in this turn.
  __device__ void fetch() {
    if (step_ == work_.first_step && tile_ < work_.past_tile) {
      each([&](int r, int h) {
        const int row = min(first_row<S>(p_, tile_) + place_.row(r) + place_.g + 8 * h, p_.n - 1);
        rows_[r][h] = S::kGroup == 32 ? row : scale_row(p_, row);
      });
    }
    const int step = step_ / kStepsOfWord + (kWordOf32 ? 0 : place_.t);
    const int of_128 = step * S::kWarpsK + place_.warp_k;
    each([&](int r, int h) { load(next_[r][h], rows_[r][h], of_128); });
    step_ += kStepsOfTurn;
    if (step_ >= work_.last_step) {
      step_ = work_.first_step;
      ++tile_;
    }
  }
  // The scales of these 128 k, as they lie there. Where there are none the weights are zero, and any do.
  __device__ void load(uint32_t& word, int row, int of_128) const {
    const int64_t begin = static_cast<int64_t>(row) * p_.scale_columns;
    if constexpr (S::kFolds) {
      const auto* const codes = static_cast<const uint8_t*>(p_.scale) + begin;
      const int last = p_.scale_columns - 1;
      if (p_.scale_fours) {
        word = load_of_line(reinterpret_cast<const uint32_t*>(codes) + min(of_128, last / 4));
      } else {
        word = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) word |= uint32_t{codes[min(of_128 * 4 + i, last)]} << i * 8;
      }
    } else {
      const int64_t index = begin + min(kWordOf32 ? of_128 * 4 + place_.t : of_128, p_.scale_columns - 1);
      word = p_.scale_e8m0 ? __ldg(static_cast<const uint8_t*>(p_.scale) + index)
                           : load_of_line(static_cast<const uint32_t*>(p_.scale) + index);
    }
  }
};

}  // namespace anyfp8::tile
