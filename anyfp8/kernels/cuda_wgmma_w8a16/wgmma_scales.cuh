#pragma once

#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_layout.cuh"

// Scales that change with k: a row has a word of them for each step of 128 k, an f32 or four e8m0 codes. They
// go from memory to the registers of the warp that needs them, four steps at once:
//
//   lane (g, t)   the words of its rows (row_ of the consumer and the one after it: h = 0 and 1) for the
//   steps t, 4 + t, 8 + t,
//   ...
//
// and those of the next four steps are on the way meanwhile, in the next tile too.
//
// Of e8m0 codes it holds the factors that decoding multiplies by, two in a word: which of them is part of the
// instruction, so that a step finds them by nothing but its shuffles.
namespace anyfp8::wgmma {

// The factors of groups 2 `pair` and 2 `pair` + 1 of the four of 32 k whose biased exponents are the bytes.
inline __device__ uint32_t mx_factors(uint32_t exponents, int pair) {
  return __byte_perm(exponents, 0, 0x4140 + 0x0202 * pair) << 7;
}
template <bool kUpper>
inline __device__ uint32_t multiply2_by_half(uint32_t v, uint32_t factors) {
  uint32_t r;
  asm("{\n.reg .b16 f<2>;\n.reg .b32 both;\nmov.b32 {f0, f1}, %2;\nmov.b32 both, {f%3, f%3};\n"
      "mul.rn.bf16x2 %0, %1, both;\n}"
      : "=r"(r)
      : "r"(v), "r"(factors), "n"(kUpper ? 1 : 0));
  return r;
}
// tile::decode() to bf16 by the upper or the lower one of each row's two factors.
template <Code kCode, bool kUpper>
inline __device__ void decode_by_half(uint32_t (&a)[4], uint32_t q0, uint32_t q1, uint32_t factors0,
                                      uint32_t factors1) {
  using Rule = tile::DecodeRule<kCode, Half::kBF16>;
  const auto low = [](uint32_t q) { return tile::with_signs<false>(q) << Rule::kLeft & Rule::kMask; };
  const auto high = [](uint32_t q) { return tile::with_signs<true>(q) << Rule::kLeft & Rule::kMask; };
  a[0] = multiply2_by_half<kUpper>(low(q0), factors0);
  a[1] = multiply2_by_half<kUpper>(low(q1), factors1);
  a[2] = multiply2_by_half<kUpper>(high(q0), factors0);
  a[3] = multiply2_by_half<kUpper>(high(q1), factors1);
}

template <class S>
class Scales {
  static constexpr bool kThere = S::kScaling != Scaling::kRow;
  static constexpr int kWords = S::kFolds ? 2 : 1;  // of a row for a step: its factors, or its scale
  using Words = uint32_t[S::kRows64][2][kWords];

  const Arguments& p_;
  const int row_;                  // of product 0, in the tile
  Position<S> next_;               // what is fetched next
  int base_ = 0;                   // of MX scales, see MxRule
  uint32_t begin_[S::kRows64][2];  // of the rows' scales in the tile of next_: fewer than 2^32 fit a card
  uint32_t ahead_[S::kRows64][2];  // as they lie in memory
  Words held_, word_;

 public:
  __device__ Scales(const Arguments& p, const Work& work, int row) : p_(p), row_(row), next_(p, work) {
    if constexpr (S::kFolds) base_ = rule().base(__float_as_uint(__ldg(p.max_scale)));
    if constexpr (kThere) {
      find_rows();
      fetch();
    }
  }
  __device__ int base() const { return base_; }

  // Before step `i` of a tile.
  __forceinline__ __device__ void begin_step(int i) {
    if (i % 4 == 0) {
      each([&](int r, int h) { hold(held_[r][h], ahead_[r][h]); });
      fetch();
    }
    const int lane = threadIdx.x % 32 / 4 * 4 + i % 4;
    each([&](int r, int h) {
#pragma unroll
      for (int w = 0; w < kWords; ++w) word_[r][h][w] = __shfl_sync(0xFFFFFFFFu, held_[r][h][w], lane);
    });
  }
  __device__ float scale(int r, int h) const { return __uint_as_float(word_[r][h][0]); }
  // Of the codes of the 16 k number kStep of the step: the upper half of the word, or the lower.
  template <int kStep>
  __device__ uint32_t factors(int r, int h) const {
    return word_[r][h][kStep / 4];
  }
  template <int kStep>
  static constexpr bool kUpper = kStep / 2 % 2 == 1;

 private:
  static __device__ constexpr tile::MxRule rule() { return tile::MxRule::of(S::kHalf, S::kCode); }
  template <class Use>
  static __device__ void each(const Use& use) {
#pragma unroll
    for (int r = 0; r < S::kRows64; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) use(r, h);
    }
  }
  __device__ void hold(uint32_t (&held)[kWords], uint32_t word) const {
    if constexpr (S::kFolds) {
      const uint32_t exponents = __vadd4(word, static_cast<uint32_t>(rule().offset(base_)) * 0x01010101u);
      held[0] = mx_factors(exponents, 0);
      held[1] = mx_factors(exponents, 1);
    } else {
      held[0] = __float_as_uint(scale_of_word(p_, word));
    }
  }
  // Not in fetch(), for the division in it.
  __forceinline__ __device__ void find_rows() {
    each([&](int r, int h) {
      const int n = min(next_.row + row_ + 64 * r + h, p_.n - 1);
      begin_[r][h] = static_cast<uint32_t>(scale_row(p_, n)) * static_cast<uint32_t>(p_.scale_columns);
    });
  }
  // Whatever lies behind the last step: weights are zero there, and any scale does.
  __forceinline__ __device__ void fetch() {
    const int column = next_.step + static_cast<int>(threadIdx.x) % 4;
    each([&](int r, int h) {
      ahead_[r][h] = S::kFolds ? codes_at(static_cast<const uint8_t*>(p_.scale) + begin_[r][h], column)
                               : word_of_scale(p_, begin_[r][h] + min(column, p_.scale_columns - 1));
    });
    if (next_.advance(4)) find_rows();
  }
  __device__ uint32_t codes_at(const uint8_t* codes, int column) const {
    const int last = p_.scale_columns - 1;
    if (p_.scale_fours) return __ldg(reinterpret_cast<const uint32_t*>(codes) + min(column, last / 4));
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) word |= uint32_t{codes[min(column * 4 + i, last)]} << i * 8;
    return word;
  }
};

}  // namespace anyfp8::wgmma
