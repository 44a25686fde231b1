#pragma once

#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_block_scales.cuh"

// One warp fills the ring: a thread of it asks TMA, or all gather x where TMA cannot read it. Where sums are
// rescaled another one says to what. The rest of the group only takes part in the cluster's barrier.
namespace anyfp8::wgmma {

template <class S>
class Producer {
  const Arguments& p_;
  const Ring<S> ring_;
  const Work& work_;
  const int lane_ = threadIdx.x % 32;

 public:
  __device__ Producer(const Arguments& p, const Ring<S>& ring, const Work& work)
      : p_(p), ring_(ring), work_(work) {}

  __device__ void run() {
    const bool asks = threadIdx.x / 32 == kConsumers / 32;
    Position<S> weights(p_, work_);
    if (asks) {
      prepare_barriers();
      // Before the kernel before this one has ended: no kernel writes weights.
      if (lane_ == 0 && p_.x_by_tma) {
#pragma unroll 1
        for (int slot = 0; slot < S::kStages && weights.there(); ++slot, weights.advance())
          ask_weight(weights, slot);
      }
      __syncwarp();
    }
    __syncthreads();
    if (p_.splits > 1) arrive_in_cluster();
    tile::wait_for_inputs<tile::Family::kSm90>();
    if (asks) {
      if (!p_.x_by_tma) {
        gather_all();
      } else if (lane_ == 0) {
        ask_all();
      }
      __syncwarp();
    }
    if constexpr (S::kRescales) {
      if (threadIdx.x / 32 == kConsumers / 32 + 1) BlockScales<S>(p_, ring_, work_).run();
    }
    if (p_.splits > 1) {  // the two of the consumers
      wait_for_cluster();
      arrive_in_cluster();
      wait_for_cluster();
    }
  }

 private:
  __device__ void prepare_barriers() const {
    if (lane_ < S::kStages) {
      init_barrier(ring_.full(lane_), S::kRescales ? 2 : 1);
      init_barrier(ring_.empty(lane_), kConsumers / 32);
    } else if (lane_ == S::kStages) {
      init_barrier(ring_.freed(), p_.splits);
      init_barrier(ring_.came(), 1);
    }
    publish_barriers();
    publish_to_async();
    __syncwarp();
  }
  __device__ void ask_weight(const Position<S>& at, int slot) const {
    arrive_expecting(ring_.full(slot), S::kStageBytes);
    copy_box(ring_.weight(slot), p_.weight, at.step * 128, at.row, ring_.full(slot));
  }
  __device__ void ask_x(const Position<S>& at, int slot) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      copy_box(ring_.x(slot) + half * S::kTokens * 128, p_.x, at.step * 128 + half * 64, at.token,
               ring_.full(slot));
    }
  }

  // The weights of the first stages are asked for.
  __device__ void ask_all() const {
    Position<S> at(p_, work_);
    Slot<S> slot;
#pragma unroll 1
    for (int i = 0; at.there(); ++i, at.advance(), slot.advance()) {
      if (i >= S::kStages) {
        wait_phase(ring_.empty(slot.index), slot.parity ^ 1);
        ask_weight(at, slot.index);
      }
      ask_x(at, slot.index);
      if (i == 0) tile::let_next_kernel_start<tile::Family::kSm90>();
    }
  }

  // The same where TMA cannot read x: the warp gathers it, element by element.
  __device__ void gather_all() const {
    Position<S> at(p_, work_);
    Slot<S> slot;
#pragma unroll 1
    for (int i = 0; at.there(); ++i, at.advance(), slot.advance()) {
      if (i >= S::kStages) wait_phase(ring_.empty(slot.index), slot.parity ^ 1);
      gather(at, slot.index);
      publish_to_async();
      __syncwarp();
      if (lane_ == 0) {
        arrive_expecting(ring_.full(slot.index), S::kWeightBytes);
        copy_box(ring_.weight(slot.index), p_.weight, at.step * 128, at.row, ring_.full(slot.index));
      }
    }
  }
  __device__ void gather(const Position<S>& at, int slot) const {
    const int m0 = at.token;
#pragma unroll 1
    for (int i = lane_; i < S::kTokens * 16; i += 32) {
      const int token = i / 16, unit = i % 16, k = at.step * 128 + unit * 8, m = m0 + token;
      uint32_t words[4] = {0, 0, 0, 0};
      if (m < p_.m) {
        const uint16_t* const from = p_.x_data + m * p_.x_stride + k;
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          if (k + e < p_.k) words[e / 2] |= uint32_t{from[e]} << e % 2 * 16;
        }
      }
      tile::store_shared16(
          ring_.x(slot) + unit / 8 * S::kTokens * 128 + token * 128 + ((unit ^ token) & 7) * 16,
          {words[0], words[1], words[2], words[3]});
    }
  }
};

}  // namespace anyfp8::wgmma
