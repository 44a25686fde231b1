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
  // What an output's sum is multiplied by, and what is added then.
  struct Ending {
    float scale, bias;
  };
  // Of a thread: see row_of_ending().
  static constexpr int kEndings = S::kFamily >= Family::kSm90 ? 4 : S::kWarpsK > 1 ? 1 : 2 * S::kTiles16;
  static_assert(kEndings >= 2 * S::kTiles16 || S::kWarpsK > 1);
  static_assert(S::kThreads % (S::kWarpsK > 1 ? S::kRows : S::kRows / 4) == 0);
  // Before a tile's products, so that memory answers meanwhile, where there are registers for it.
  static constexpr bool kFetchesEarly = S::kTokens <= 32;
  Ending endings_[kEndings];

 public:
  // base: y is 2^base times the sums of MX weights.
  __device__ TileSums(const TileArguments& p, uint32_t shared, int base)
      : p_(p), shared_(shared), base_(base) {}

  __device__ void prefetch(int tile) {
    if constexpr (kFetchesEarly) fetch(tile);
  }

  // `rank`: of this block's part of the tile's k.
  __device__ void finish(Fragments<S>& acc, int tile, int rank) {
    if constexpr (!kFetchesEarly) fetch(tile);
    if (parts_meet_in_cluster()) return add_cluster(acc, tile, rank);
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
  __device__ bool parts_meet_in_cluster() const { return S::kFamily >= Family::kSm90 && p_.splits > 1; }
  __device__ bool parts_meet_in_scratch() const { return S::kFamily < Family::kSm90 && p_.splits > 1; }

  // All at once: asked for one after the other, where they are used, four scales were 1 us of 28672 x 4096 at
  // m = 16 (H200).
  __device__ void fetch(int tile) {
#pragma unroll
    for (int i = 0; i < kEndings; ++i) {
      const int n = min(first_row<S>(p_, tile) + row_of_ending(i), p_.n - 1);
      if constexpr (S::kGroup == 0) endings_[i].scale = scale_at(p_, scale_row(p_, n), 0);
      endings_[i].bias = p_.bias == nullptr ? -0.0f : p_.bias[n];  // adding -0 changes nothing
    }
  }

  // In the tile: of four neighbours that add_cluster() writes, of the fragments' rows, or of the one row of
  // which write_sums() has several tokens.
  __device__ int row_of_ending(int i) const {
    const int thread = threadIdx.x;
    if (parts_meet_in_cluster()) return thread % (S::kRows / 4) * 4 + i;
    if constexpr (S::kWarpsK > 1) return thread % S::kRows;
    return place_.row(i / 2) + place_.g + i % 2 * 8;
  }

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
    const float sums[4] = {ended(sum.x, endings_[0]), ended(sum.y, endings_[1]), ended(sum.z, endings_[2]),
                           ended(sum.w, endings_[3])};
    if (p_.y_fours && n + 3 < p_.n) {
      const uint2 halves{pack2<S::kFamily, S::kHalf>(sums[0], sums[1]),
                         pack2<S::kFamily, S::kHalf>(sums[2], sums[3])};
      *reinterpret_cast<uint2*>(p_.y + m * p_.y_stride + n) = halves;
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (n + i < p_.n) store(m, n + i, sums[i]);
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

  // Not left to the compiler to fuse or not: a row's bits must be those of every other shape.
  __device__ float ended(float sum, const Ending& ending) const {
    if constexpr (S::kGroup == 0) sum = __fmul_rn(sum, ending.scale);
    if constexpr (S::kFolds) sum = __fmul_rn(sum, power_of_2(base_));
    return __fadd_rn(sum, ending.bias);
  }
  __device__ void store(int m, int n, float value) const {
    p_.y[static_cast<int64_t>(m) * p_.y_stride + n] =
        static_cast<uint16_t>(pack2<S::kFamily, S::kHalf>(value, value));
  }
  __device__ void write_sums(const float (&sums)[S::kSums], int n0, int m0) const {
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) {
      const int n = n0 + index(i) % S::kRows, m = m0 + index(i) / S::kRows;
      if (n < p_.n && m < p_.m && index(i) < S::kOutputs) store(m, n, ended(sums[i], endings_[0]));
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
        const Ending& ending = endings_[2 * r + h];
#pragma unroll
        for (int j = 0; j < S::kTiles8; ++j) {
          const float* sum = acc[r][j] + 2 * h;
          const uint32_t pair =
              transpose8x8(pack2<S::kFamily, S::kHalf>(ended(sum[0], ending), ended(sum[1], ending)));
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
