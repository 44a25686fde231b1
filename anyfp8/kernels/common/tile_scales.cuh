#pragma once

#include "anyfp8/kernels/common/tile_sums.cuh"

// Scales that change with k. For 128 k a row has one word of them: an f32, or four e8m0 codes. They come
// straight from memory to the registers of the warp that needs them, four words of a row at once:
//
//   lane (g, t)   words of the rows g and g + 8 of its products, of the stages t, 4 + t, 8 + t, ... of a part
//
// and those of the next four stages are on the way meanwhile, in the next tile too. In the ring each stage
// waited for its scales before the next was asked for, and fetched 32 bytes for every 4 of them.
namespace anyfp8::tile {

template <class S>
class TileScales {
  // A word is of two stages where these have 64 k.
  static constexpr int kStepsOfWord = S::kDepth < 128 ? 128 / S::kDepth : 1, kWordsAtOnce = 4;
  static constexpr int kStepsAtOnce = kWordsAtOnce * kStepsOfWord;
  static_assert(S::kGroup == 0 || S::kChunks * 64 * kStepsOfWord == 128);
  using Words = uint32_t[S::kTiles16][2];

  const TileArguments& p_;
  const WarpPlace<S> place_;
  int tile_, step_;  // what is fetched next; and where that begins again and ends:
  const int past_, first_step_, last_step_;
  int rows_[S::kTiles16][2];  // of scales
  uint32_t exponents_ = 0;    // of MX factors, see mx_exponents()
  Words next_, held_, word_;

 public:
  // For `past - tile` tiles, of each the stages from first_step to last_step.
  __device__ TileScales(const TileArguments& p, int tile, int past, int first_step, int last_step)
      : p_(p), tile_(tile), step_(first_step), past_(past), first_step_(first_step), last_step_(last_step) {
    if constexpr (S::kFolds) {
      exponents_ = mx_exponents(S::kMxPower, mx_base(S::kMxPower, __float_as_uint(__ldg(p.max_scale))));
    }
    if constexpr (S::kGroup != 0) fetch();
  }

  // For every stage, in order.
  __device__ void begin_stage(int step) {
    if constexpr (S::kGroup != 0) {
      const int i = step - first_step_;
      if (i % kStepsAtOnce == 0) {
        each([&](int r, int h) { held_[r][h] = next_[r][h] + exponents_; });
        fetch();
      }
      const int lane = (place_.lane & ~3) + i / kStepsOfWord % kWordsAtOnce;
      each([&](int r, int h) {
        word_[r][h] = __shfl_sync(0xFFFFFFFFu, held_[r][h], lane);
        if (S::kGroup == 32 && i % kStepsOfWord != 0) word_[r][h] >>= 16;
      });
    }
  }

  // Of row g (h = 0) or g + 8 (h = 1) of product r, and the 16-wide step `s` of this warp's part of the
  // stage: the factor of its codes; the scale of its sums.
  __device__ uint32_t factor(int r, int h, int s) const { return mx_factor(word_[r][h], s / 2); }
  __device__ float scale(int r, int h, int s) const {
    if (S::kGroup == 128) return __uint_as_float(word_[r][h]);
    return scale_of_e8m0(word_[r][h] >> s / 2 * 8 & 0xFF);
  }

 private:
  template <class Use>
  static __device__ void each(const Use& use) {
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) use(r, h);
    }
  }

  __device__ void fetch() {
    if (tile_ == past_) return;
    if (step_ == first_step_) {
      each([&](int r, int h) {
        const int row = min(first_row<S>(p_, tile_) + place_.row(r) + place_.g + 8 * h, p_.n - 1);
        rows_[r][h] = S::kGroup == 32 ? row : scale_row(p_, row);
      });
    }
    const int word = (step_ / kStepsOfWord + place_.t) * S::kWarpsK + place_.warp_k;
    each([&](int r, int h) { next_[r][h] = load(rows_[r][h], word); });
    step_ += kStepsAtOnce;
    if (step_ >= last_step_) {
      step_ = first_step_;
      ++tile_;
    }
  }
  __device__ uint32_t load(int row, int word) const {
    if constexpr (S::kGroup == 128) {
      return word < p_.scale_columns ? __float_as_uint(scale_at(p_, row, word)) : 0;
    } else {
      const int column = word * 4;
      const auto* const from =
          static_cast<const uint8_t*>(p_.scale) + static_cast<int64_t>(row) * p_.scale_columns + column;
      uint32_t codes = 0;
      if (p_.scale_fours) {
        if (column < p_.scale_columns) codes = __ldg(reinterpret_cast<const uint32_t*>(from));
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (column + i < p_.scale_columns) codes |= static_cast<uint32_t>(from[i]) << i * 8;
        }
      }
      return codes;
    }
  }
};

}  // namespace anyfp8::tile
