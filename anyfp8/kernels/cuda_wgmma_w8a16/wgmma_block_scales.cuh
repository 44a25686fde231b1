#pragma once

#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_layout.cuh"

// One scale of 128 k that the 128 rows of a warpgroup share, where a second set of sums has no room. The sums
// are kept in units of the scale under way:
//
//   scale(i)               = unit(i) * 2^e, unit in [2^-6, 2^-5) for scales below 4; 2^e goes into the factor
//                            that decoding multiplies by anyway
//   sums of steps 0 to i   in units of unit(i)
//   behind step i          sums *= turn(i) = unit(i) / unit(i + 1), behind the last of a tile unit(i)
//
// So no scale is rounded: of zero the factor is zero, weights under scales below 2^-126 are off by 2^-134 at
// most, and of those from 4 on the unit keeps what the factor cannot hold. Sums may be 64 times those of y,
// so up to 2^122 they stay in the range of fp32.
//
// A warp of the producer's group finds factor and turn and puts them beside the stage: in the consumers' own
// stream of instructions that took 10 % of the time (H200).
namespace anyfp8::wgmma {

template <class S>
class BlockScales {
  static constexpr int kLeast = -6;  // exponent of units

  const Arguments& p_;
  const Ring<S> ring_;
  const int lane_ = threadIdx.x % 32, row_;  // the first of warpgroup lane_, in the tile
  Position<S> next_;                         // of what is fetched next
  uint32_t begin_;                           // of its row of scales
  uint32_t ahead_;                           // as it lies in memory
  float unit_;
  uint32_t factor_;

 public:
  __device__ BlockScales(const Arguments& p, const Ring<S>& ring, const Work& work)
      : p_(p), ring_(ring), row_(lane_ % 2 * S::kRows64 * 64), next_(p, work) {}

  __device__ void run() {
    Position<S> at = next_;
    Slot<S> slot;
    find_row();
    fetch();
    split();
    fetch();
#pragma unroll 1
    for (int i = 0; at.there(); ++i, slot.advance()) {
      const float unit = unit_;
      const uint32_t factor = factor_;
      split();
      fetch();
      const float turn = at.advance() ? unit : __fdiv_rn(unit, unit_);
      if (i >= S::kStages) wait_phase(ring_.empty(slot.index), slot.parity ^ 1);
      if (lane_ < 2) {
        asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(ring_.scale(slot.index, lane_)), "r"(factor),
                     "f"(turn)
                     : "memory");
      }
      __syncwarp();
      if (lane_ == 0) arrive(ring_.full(slot.index));
    }
  }

 private:
  __device__ void split() {
    const float scale = scale_of_word(p_, ahead_);
    const bool small = fabsf(scale) < 0x1p-60f;  // so that its exponent can be read, also of 2^-149
    const int shift = small ? 64 : 0;
    const uint32_t bits = __float_as_uint(small ? scale * 0x1p64f : scale);
    const int exponent = static_cast<int>(bits >> 23 & 0xFF) - 127;  // 128: not a finite number
    constexpr int kPower = tile::MxRule::of(S::kHalf, S::kCode).power;
    const int e = exponent == 128 ? 0 : min(exponent - shift - kLeast, 127 - kPower);
    unit_ = __uint_as_float(bits - (static_cast<uint32_t>(e + shift) << 23));
    factor_ = static_cast<uint32_t>(max(kPower + 127 + e, 0)) * 0x00800080u;
    if (scale == 0) unit_ = 0x1p-6f, factor_ = 0;
  }
  __device__ void find_row() {
    const int row = min(next_.row + row_, p_.n - 1);
    begin_ = static_cast<uint32_t>(scale_row(p_, row)) * static_cast<uint32_t>(p_.scale_columns);
  }
  __device__ void fetch() {
    ahead_ = word_of_scale(p_, begin_ + min(next_.step, p_.scale_columns - 1));
    if (next_.advance()) find_row();
  }
};

// The consumer's side: what decoding a stage multiplies by, and what the sums are multiplied by behind it.
template <class S>
class BlockScale {
  const Ring<S> ring_;
  uint32_t factor_, next_factor_;
  float turn_, next_turn_;

 public:
  __device__ BlockScale(const Ring<S>& ring) : ring_(ring) {}
  __device__ uint32_t factor() const { return factor_; }
  __device__ float turn() const { return turn_; }
  // Those of the next stage, which is there.
  __device__ void load(int slot) {
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];"
                 : "=r"(next_factor_), "=f"(next_turn_)
                 : "r"(ring_.scale(slot, static_cast<int>(threadIdx.x) / 128))
                 : "memory");
  }
  // Its first codes are decoded next; the sums of the stage before it have been rescaled.
  __device__ void begin_decoding() { factor_ = next_factor_; }
  __device__ void begin_sums() { turn_ = next_turn_; }
};

}  // namespace anyfp8::wgmma
