#pragma once

#include "anyfp8/kernels/common/tile_layout.cuh"

// The sums of a tile and what becomes of them: the warps that share k are added, then the blocks, then y is
// written.
namespace anyfp8::tile {

// acc[r][j]: lane (g, t) holds outputs g (first two) and g + 8 of tokens 2t, 2t + 1.
template <class S>
using Fragments = float[S::kTiles16][S::kTiles8][4];

template <class S>
class TileSums {
  const TileArguments& p_;
  const WarpPlace<S> place_;
  const uint32_t shared_;
  const int base_;

 public:
  // base: y is 2^base times the sums of MX weights.
  __device__ TileSums(const TileArguments& p, uint32_t shared, int base)
      : p_(p), shared_(shared), base_(base) {}

  // What a tile needs behind its products comes from memory meanwhile.
  __device__ void prefetch(int tile) const {
    const int n = first_row<S>(p_, tile) + static_cast<int>(threadIdx.x);
    if (threadIdx.x >= S::kRows || n >= p_.n) return;
    if (S::kGroup == 0) {
      prefetch_to_l2(static_cast<const char*>(p_.scale) +
                     static_cast<int64_t>(scale_row(p_, n)) * p_.scale_columns * (p_.scale_e8m0 ? 1 : 4));
    }
    if (p_.bias != nullptr) prefetch_to_l2(p_.bias + n);
  }

  // `rank`: of this block's part of the tile's k.
  __device__ void finish(Fragments<S>& acc, int tile, int rank) const {
    if constexpr (S::kFamily >= Family::kSm90) {
      if (p_.splits > 1) return add_cluster(acc, tile, rank);
    }
    if constexpr (S::kWarpsK == 1) {
      auto& sums = reinterpret_cast<float(&)[S::kSums]>(acc);
      if (parts_meet_in_scratch() && !add_parts(sums, tile, rank)) return;
      write_fragments(acc, first_row<S>(p_, tile), first_token<S>(p_, tile));
    } else {
      share(acc);
      __syncthreads();
      float sums[S::kSums];
      add_warps(sums);
      if (parts_meet_in_scratch() && !add_parts(sums, tile, rank)) return;
      write_sums(sums, first_row<S>(p_, tile), first_token<S>(p_, tile));
    }
  }

 private:
  __device__ bool parts_meet_in_scratch() const { return S::kFamily < Family::kSm90 && p_.splits > 1; }

  // This warp's sums in shared memory: [kWarpsK][kTokens][kSumPitch], behind the ring, or over it where only
  // blocks are added: then nothing is in the ring any more.
  __device__ uint32_t shared_place(int warp_k, int token, int row) const {
    constexpr int kOffset = S::kWarpsK == 1 ? 0 : S::kSumsOffset;
    return shared_ + kOffset + ((warp_k * S::kTokens + token) * S::kSumPitch + row) * 4;
  }
  __device__ void share(const Fragments<S>& acc) const {
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
      for (int j = 0; j < S::kTiles8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = place_.row(r) + place_.g + i / 2 * 8,
                    token = place_.token(j) + 2 * place_.t + i % 2;
          store_shared4(shared_place(place_.warp_k, token, row), acc[r][j][i]);
        }
      }
    }
  }

  // Each block of the cluster adds and writes its share of the tile, 4 outputs at a time.
  __device__ void add_cluster(const Fragments<S>& acc, int tile, int rank) const {
    wait_copies<0>();
    __syncthreads();  // nobody reads the ring any more
    share(acc);
    synchronise_cluster();
    const int n0 = first_row<S>(p_, tile), m0 = first_token<S>(p_, tile);
    const int fours = min(S::kTokens, p_.m - m0) * (S::kRows / 4);
    for (int i = rank * S::kThreads + threadIdx.x; i < fours; i += p_.splits * S::kThreads) {
      const int token = i / (S::kRows / 4), row = i % (S::kRows / 4) * 4;
      float4 sum{0, 0, 0, 0};
      for (int block = 0; block < p_.splits; ++block) {
#pragma unroll
        for (int w = 0; w < S::kWarpsK; ++w) {
          const float4 part = load_cluster16(shared_place(w, token, row), block);
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

  // Sums of the warps that share k, in the order of the warps; sum i of a thread is of output index(i).
  static __device__ int index(int i) { return threadIdx.x + i * S::kThreads; }
  __device__ void add_warps(float (&sums)[S::kSums]) const {
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) {
      const int row = index(i) % S::kRows, token = index(i) / S::kRows;
      sums[i] = 0;
      if (index(i) >= S::kOutputs) continue;
#pragma unroll
      for (int w = 0; w < S::kWarpsK; ++w) sums[i] += load_shared4(shared_place(w, token, row));
    }
  }

  // This block's part of a tile goes to scratch. The last block to arrive returns true with the sum over all
  // parts in the order of k.
  __device__ bool add_parts(float (&sums)[S::kSums], int tile, int rank) const {
    float* const parts = p_.partials + static_cast<int64_t>(tile) * p_.splits * S::kOutputs;
    float* const mine = parts + static_cast<int64_t>(rank) * S::kOutputs;
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) {
      if (index(i) < S::kOutputs) __stcg(mine + index(i), sums[i]);
    }
    __threadfence();
    __syncthreads();
    // The ring is done with; its first word tells the block.
    if (threadIdx.x == 0) {
      const bool last = atomicAdd(p_.arrived + tile, 1u) == static_cast<uint32_t>(p_.splits - 1);
      store_shared4(shared_, last ? 1.0f : 0.0f);
      __threadfence();
    }
    __syncthreads();
    const bool last = load_shared4(shared_) != 0;
    if (!last) return false;
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) sums[i] = 0;
    for (int part = 0; part < p_.splits; ++part) {
      const float* const from = parts + static_cast<int64_t>(part) * S::kOutputs;
#pragma unroll
      for (int i = 0; i < S::kSums; ++i) {
        if (index(i) < S::kOutputs) sums[i] += __ldcg(from + index(i));
      }
    }
    return true;
  }

  // What the sums of an output still have to be multiplied by.
  __device__ float row_scale(int n) const {
    if constexpr (S::kPromotes) return 1;
    if constexpr (S::kFolds) return power_of_2(base_);
    return scale_at(p_, scale_row(p_, n), 0);
  }
  // Not left to the compiler to fuse or not: a row's bits must be those of every other shape.
  static __device__ float scaled(float sum, float scale, float bias) {
    return __fadd_rn(S::kPromotes ? sum : __fmul_rn(sum, scale), bias);
  }
  __device__ float scaled(float sum, int n) const {
    return scaled(sum, row_scale(n), p_.bias == nullptr ? -0.0f : p_.bias[n]);
  }
  __device__ void store(int m, int n, float value) const {
    p_.y[static_cast<int64_t>(m) * p_.y_stride + n] =
        static_cast<uint16_t>(pack2<S::kFamily, S::kHalf>(value, value));
  }
  __device__ void write_sums(const float (&sums)[S::kSums], int n0, int m0) const {
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) {
      const int n = n0 + index(i) % S::kRows, m = m0 + index(i) / S::kRows;
      if (n < p_.n && m < p_.m && index(i) < S::kOutputs) store(m, n, scaled(sums[i], n));
    }
  }
  // Lane (g, t) of a product holds outputs g, g + 8 of tokens 2t, 2t + 1. Transposed it holds outputs 2t, 2t
  // + 1 of token g, which lie side by side in y.
  __device__ void write_fragments(const Fragments<S>& acc, int n0, int m0) const {
#pragma unroll
    for (int r = 0; r < S::kTiles16; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int tile_n = n0 + place_.row(r) + 8 * h;
        const int row = min(tile_n + place_.g, p_.n - 1);
        const float scale = row_scale(row);
        const float bias = p_.bias == nullptr ? -0.0f : p_.bias[row];  // adding -0 changes nothing
#pragma unroll
        for (int j = 0; j < S::kTiles8; ++j) {
          const float* sum = acc[r][j] + 2 * h;
          const uint32_t pair = transpose8x8(
              pack2<S::kFamily, S::kHalf>(scaled(sum[0], scale, bias), scaled(sum[1], scale, bias)));
          const int m = m0 + place_.token(j) + place_.g, n = tile_n + 2 * place_.t;
          if (m < p_.m && n < p_.n) {
            uint16_t* const to = p_.y + m * p_.y_stride + n;
            if (p_.y_pairs && n + 1 < p_.n) {
              *reinterpret_cast<uint32_t*>(to) = pair;
            } else {
              to[0] = static_cast<uint16_t>(pair);
              if (n + 1 < p_.n) to[1] = static_cast<uint16_t>(pair >> 16);
            }
          }
          __syncwarp();  // the transposition is of the whole warp
        }
      }
    }
  }
};

}  // namespace anyfp8::tile
