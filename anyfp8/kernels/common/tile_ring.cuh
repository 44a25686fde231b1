#pragma once

#include "anyfp8/kernels/common/tile_layout.cuh"

// What fills the ring of stages, in two forms with the same calls:
//   - begin_weights() asks for weights of the first stages, before the kernel's inputs are there
//   - begin_x() asks for their x
//   - wait(): this thread's part of the next stage is there; the block's barrier follows
//   - refill() asks for one more stage, whose place every warp has left
//   - keep(), after a stage's products: x goes from registers to shared memory, in the form that needs it
namespace anyfp8::tile {

// A place in the list of steps, tile after tile.
struct Position {
  int tile, step;
  int first_step, last_step;
  // Whether a new tile begins.
  __device__ bool advance() {
    if (++step < last_step) return false;
    ++tile;
    step = first_step;
    return true;
  }
};

// What is asked for next, where it goes, and how much is left to ask for.
template <class S>
struct Requests {
  Position at;
  int left;
  int slot = 0;
  // Whether a new tile begins.
  __device__ bool advance() {
    --left;
    slot = slot + 1 == S::kStages ? 0 : slot + 1;
    return at.advance();
  }
};

// 16 bytes of which the first `bytes` lie at `from`, by elements: what is not aligned, or the end of a row.
inline __device__ uint4 gather(const uint16_t* from, int bytes) {
  uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    words[w] = (4 * w < bytes ? from[2 * w] : 0u) | (4 * w + 2 < bytes ? from[2 * w + 1] : 0u) << 16;
  }
  return {words[0], words[1], words[2], words[3]};
}

// The threads share a stage's 16-byte units: each keeps its place in a row and goes down the rows.
template <class S>
class UnitsOfThread {
 protected:
  static constexpr int kUnitsOfRow = S::kDepth / 16, kRowsAtOnce = S::kThreads / kUnitsOfRow;
  static constexpr int kUnitsOfToken = S::kDepth / 8, kTokensAtOnce = S::kThreads / kUnitsOfToken;
  static constexpr int kWeightUnits = S::kRows / kRowsAtOnce;
  static constexpr int kXUnits = (S::kTokens + kTokensAtOnce - 1) / kTokensAtOnce;
  static constexpr int kXThreads = S::kTokens < kTokensAtOnce ? S::kTokens * kUnitsOfToken : S::kThreads;
  static_assert(kRowsAtOnce % 2 == 0 && kTokensAtOnce >= 1 && (kTokensAtOnce & (kTokensAtOnce - 1)) == 0);
  static_assert(S::kRows % kRowsAtOnce == 0);

  const TileArguments& p_;
  const uint32_t shared_;
  Requests<S> next_;
  int rows_, tokens_;  // from this thread's first row and token to the end of W and x
  const uint8_t* weight_;
  const uint16_t* x_;

  __device__ UnitsOfThread(const TileArguments& p, uint32_t shared, const Work& work)
      : p_(p),
        shared_(shared),
        next_{{work.first_tile, work.first_step, work.first_step, work.last_step}, work.stages()} {
    begin_tile();
  }
  static __device__ int thread() { return threadIdx.x; }
  __device__ uint32_t stage() const { return shared_ + next_.slot * S::kStageBytes; }
  __device__ void begin_tile() {
    const Position& at = next_.at;
    const int row = first_row<S>(p_, at.tile) + thread() / kUnitsOfRow;
    const int token = first_token<S>(p_, at.tile) + thread() / kUnitsOfToken;
    rows_ = p_.n - row;
    tokens_ = p_.m - token;
    weight_ = p_.weight + row * p_.pitch + (at.step * S::kDepth + thread() % kUnitsOfRow * 16);
    x_ = p_.x + token * p_.x_stride + (at.step * S::kDepth + thread() % kUnitsOfToken * 8);
  }
  __device__ void advance() {
    weight_ += S::kDepth;
    x_ += S::kDepth;
    if (next_.advance()) begin_tile();
  }

  // use(i, place, from, wanted). Rows and tokens past the end are left as they are: what comes of them is in
  // rows and columns of the product that are not stored.
  template <class Use>
  __device__ void each_weight(const Use& use) const {
    const uint32_t place = weight_place<S>(thread() / kUnitsOfRow, thread() % kUnitsOfRow);
    const uint8_t* from = weight_;
#pragma unroll
    for (int i = 0; i < kWeightUnits; ++i) {
      use(i, place + i * kRowsAtOnce * S::kDepth, from, i * kRowsAtOnce < rows_);
      from += kRowsAtOnce * p_.pitch;
    }
  }
  template <class Use>
  __device__ void each_x(const Use& use) const {
    const uint32_t first = S::kWeightBytes + x_place<S>(thread() / kUnitsOfToken, thread() % kUnitsOfToken);
    constexpr int kPitch = S::kDepth * 2;
    const uint16_t* from = x_;
#pragma unroll
    for (int i = 0; i < kXUnits; ++i) {
      const uint32_t place = (first ^ (i * kTokensAtOnce % 8 * 16)) + i * kTokensAtOnce * kPitch;
      use(i, place, from, i * kTokensAtOnce < tokens_ && (kXThreads == S::kThreads || thread() < kXThreads));
      from += kTokensAtOnce * p_.x_stride;
    }
  }

  // Of the last step of a tile something may lie behind k: it must be zero in both operands.
  __device__ bool is_inside() const { return (next_.at.step + 1) * S::kDepth <= p_.k; }
  __device__ bool weight_inside() const {
    return next_.at.step * S::kDepth + thread() % kUnitsOfRow * 16 < p_.pitch;
  }
  __device__ int x_bytes() const {
    return min(max(p_.k - next_.at.step * S::kDepth - thread() % kUnitsOfToken * 8, 0), 8) * 2;
  }
};

// cp.async: Ampere and newer.
template <class S>
class CopyRing : UnitsOfThread<S> {
  using Base = UnitsOfThread<S>;
  using Base::next_, Base::p_;
  static constexpr int kPrefetchStages = S::kStages - 1;

 public:
  __device__ CopyRing(const TileArguments& p, uint32_t shared, const Work& work) : Base(p, shared, work) {}
  __device__ void begin_weights() {
    CopyRing ahead = *this;
    for (int s = 0; s < kPrefetchStages && ahead.next_.left > 0; ++s) {
      ahead.copy_weight();
      ahead.advance();
    }
  }
  __device__ void begin_x() {
    for (int s = 0; s < kPrefetchStages; ++s) {
      if (next_.left > 0) {
        copy_x();
        Base::advance();
      }
      commit_copies();
    }
  }
  __device__ void wait() { wait_copies<kPrefetchStages - 1>(); }
  __device__ void refill() {
    if (next_.left > 0) {
      copy_weight();
      copy_x();
      Base::advance();
    }
    commit_copies();
  }
  __device__ void keep() {}

 private:
  __device__ void copy_weight() const {
    const uint32_t stage = Base::stage();
    if (Base::is_inside()) {
      Base::each_weight([&](int, uint32_t place, const uint8_t* from, bool wanted) {
        copy16_async(stage + place, from, wanted);
      });
    } else {
      const bool inside = Base::weight_inside();
      Base::each_weight([&](int, uint32_t place, const uint8_t* from, bool wanted) {
        copy16_async(stage + place, from, wanted && inside);
        if (!inside) store_shared16(stage + place, {0, 0, 0, 0});
      });
    }
  }
  __device__ void copy_x() const {
    const uint32_t stage = Base::stage();
    if (p_.x_aligned && Base::is_inside()) {
      Base::each_x([&](int, uint32_t place, const uint16_t* from, bool wanted) {
        copy16_async(stage + place, from, wanted);
      });
    } else {
      const int bytes = Base::x_bytes();
      Base::each_x([&](int, uint32_t place, const uint16_t* from, bool wanted) {
        if (wanted) store_shared16(stage + place, gather(from, bytes));
      });
    }
  }
};

// Turing: no cp.async. Weights go straight to the registers of the warp that multiplies them, as k64_shuffled
// has them, kAhead stages before; x by way of registers to shared memory, one stage ahead.
template <class S>
class RegisterRing : UnitsOfThread<S> {
  using Base = UnitsOfThread<S>;
  using Base::next_, Base::p_;
  using Codes = uint4[S::kChunks][S::kTiles16][2];
  static constexpr int kAhead = S::kTiles16 == 1 && !S::kFolds ? 2 : 1;  // as registers allow
  const WarpPlace<S> place_;
  Requests<S> weights_;
  const uint8_t* rows_[S::kTiles16][2];  // where this lane's codes of a stage begin
  Codes now_, ahead_[kAhead];
  uint4 x_ahead_[Base::kXUnits];
  uint32_t stage_ = 0;  // of x_ahead_
  bool x_comes_ = false;

 public:
  __device__ RegisterRing(const TileArguments& p, uint32_t shared, const Work& work)
      : Base(p, shared, work), weights_(next_) {
    find_rows();
  }
  __device__ void begin_weights() {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) ask(ahead_[i]);
  }
  __device__ void begin_x() {
    ask_x();
    keep();
  }
  __device__ void wait() {}
  __device__ void refill() {
    copy(now_, ahead_[0]);
#pragma unroll
    for (int i = 1; i < kAhead; ++i) copy(ahead_[i - 1], ahead_[i]);
    ask(ahead_[kAhead - 1]);
    ask_x();
  }
  __device__ void keep() {
    if (!x_comes_) return;
    Base::each_x([&](int i, uint32_t place, const uint16_t*, bool) {
      if (Base::kXThreads == S::kThreads || threadIdx.x < Base::kXThreads)
        store_shared16(stage_ + place, x_ahead_[i]);
    });
    x_comes_ = false;
  }
  // Of this lane's row g (h = 0) or g + 8 of product r: chunk c of the stage that refill() made the present.
  __device__ const uint4& codes(int c, int r, int h) const { return now_[c][r][h]; }

 private:
  template <class Use>
  static __device__ void each(const Use& use) {
#pragma unroll
    for (int c = 0; c < S::kChunks; ++c) {
#pragma unroll
      for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
        for (int h = 0; h < 2; ++h) use(c, r, h);
      }
    }
  }
  // Sets of registers that take turns, with code for each, were slower: 13.0 and 38.5 us, not 10.9 and 30.2,
  // of 4096 x 4096 and 4096 x 14336 (compute_75 on an H200). So was Ampere with weights in registers, 8.8,
  // not 7.2.
  static __device__ void copy(Codes& to, const Codes& from) {
    each([&](int c, int r, int h) { to[c][r][h] = from[c][r][h]; });
  }
  // Rows behind the last are the last: what comes of them is not stored.
  __device__ void find_rows() {
    const Position& at = weights_.at;
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = min(first_row<S>(p_, at.tile) + place_.row(r) + place_.g + 8 * h, p_.n - 1);
        rows_[r][h] = p_.weight + row * p_.pitch + (at.step * S::kDepth + first_column());
      }
    }
  }
  __device__ int first_column() const { return place_.warp_k * S::kChunks * 64 + place_.t * 16; }
  __device__ void ask(Codes& codes) {
    if (weights_.left == 0) return;
    const int column = weights_.at.step * S::kDepth + first_column();
    each([&](int c, int r, int h) {
      codes[c][r][h] = column + c * 64 < p_.pitch ? load_stream(rows_[r][h] + c * 64) : uint4{0, 0, 0, 0};
    });
    if (weights_.advance()) {
      find_rows();
    } else {
#pragma unroll
      for (int r = 0; r < S::kTiles16; ++r) rows_[r][0] += S::kDepth, rows_[r][1] += S::kDepth;
    }
  }
  __device__ void ask_x() {
    if (next_.left == 0) return;
    const int bytes = Base::x_bytes();
    const bool whole = p_.x_aligned && bytes == 16;
    Base::each_x([&](int i, uint32_t, const uint16_t* from, bool wanted) {
      if (wanted) x_ahead_[i] = whole ? *reinterpret_cast<const uint4*>(from) : gather(from, bytes);
    });
    stage_ = Base::stage();
    x_comes_ = true;
    Base::advance();
  }
};

}  // namespace anyfp8::tile
