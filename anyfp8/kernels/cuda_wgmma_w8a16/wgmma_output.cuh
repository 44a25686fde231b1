#pragma once

#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_layout.cuh"

// What becomes of a tile's sums. acc[r][j] of lane (g, t): outputs row + 64 r (first two) and the one after
// it, of tokens 8 j + 2 t, + 1.
namespace anyfp8::wgmma {

template <class S>
using Sums = float[S::kRows64][S::kTokens / 8][4];

template <class S>
class Output {
  const Arguments& p_;
  const Ring<S> ring_;
  const int row_, token_;  // of this thread's sums, in the tile
  const int base_;         // y is 2^base times the sums of MX weights

 public:
  __device__ Output(const Arguments& p, const Ring<S>& ring, int row, int base)
      : p_(p), ring_(ring), row_(row), token_(2 * (static_cast<int>(threadIdx.x) % 4)), base_(base) {}

  // Which of a thread's sums: [kRow, kRowEnd) of acc's first index, [kColumn, kColumnEnd) of its second.
  // Halves are of the outputs where there are two products of them, else of the tokens.
  struct Whole {
    static constexpr int kRow = 0, kRowEnd = S::kRows64, kColumn = 0, kColumnEnd = S::kTokens / 8;
  };
  template <int kHalf>
  struct HalfOf {
    static constexpr bool kOfRows = S::kRows64 == 2;
    static constexpr int kColumns = S::kTokens / 16;
    static constexpr int kRow = kOfRows ? kHalf : 0, kRowEnd = kRow + 1;
    static constexpr int kColumn = kOfRows ? 0 : kHalf * kColumns;
    static constexpr int kColumnEnd = kOfRows ? Whole::kColumnEnd : kColumn + kColumns;
    static constexpr int kFours = (kRowEnd - kRow) * (kColumnEnd - kColumn);
  };

  // What an output's sum is multiplied by, and what is added then: y = sum * factor + bias.
  struct Ending {
    float factor, bias;
  };
  using Endings = Ending[S::kRows64][2];
  // Asked for before the products, so that memory answers meanwhile.
  __forceinline__ __device__ void fetch(Endings& endings, int tile) const {
#pragma unroll
    for (int r = 0; r < S::kRows64; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) endings[r][h] = ending_of(first_row<S>(p_, tile) + row_ + 64 * r + h);
    }
  }

  // The sums are whole. Most tiles lie inside of y's rows, which is asked once and not for each pair: that
  // and one pointer for each token were 3 us of a tile of 256 x 128.
  template <class Part = Whole>
  __forceinline__ __device__ void write(const Sums<S>& acc, const Endings& endings, int tile) const {
    const int n0 = first_row<S>(p_, tile), m0 = first_token<S>(p_, tile);
    if (p_.y_pairs && n0 + S::kRows <= p_.n) {
      write_pairs<true, Part>(acc, endings, n0 + row_, m0 + token_);
    } else {
      write_pairs<false, Part>(acc, endings, n0 + row_, m0 + token_);
    }
  }

  // The sums are of this block's part of k.
  __forceinline__ __device__ void add_parts(const Sums<S>& acc, int tile) const {
    if (p_.splits == 2) {
      if (cluster_rank() == 0) {
        add_half<0>(acc, tile);
      } else {
        add_half<1>(acc, tile);
      }
    } else if constexpr (S::kMostSplits > 2) {
      add_groups(acc, tile);
    }
  }

 private:
  // Two blocks: this one adds up the half kHalf. It sends the other as it lies in registers, so that what
  // comes is in the order of its own:
  //
  //   ring   sums sent [four][thread][4]   sums that came
  template <int kHalf>
  __forceinline__ __device__ void add_half(const Sums<S>& acc, int tile) const {
    using Mine = HalfOf<kHalf>;
    using Other = HalfOf<1 - kHalf>;
    constexpr int kBytes = Mine::kFours * kConsumers * 16, kChunk = 4096;
    static_assert(2 * kBytes <= S::kStages * S::kStageBytes);
    const int thread = threadIdx.x;
    const uint32_t sent = ring_.stages() + thread * 16, came = sent + kBytes;
    Endings endings;
    fetch(endings, tile);
    synchronise_consumers();  // nobody reads the ring any more
    if (thread == 0) arrive_expecting(ring_.came(), kBytes);
    if (thread < 2) arrive_in(ring_.freed(), thread);
    each_four<Other>([&](int r, int j, int i) {
      const auto& four = acc[r][j];
      tile::store_shared16(sent + i * kConsumers * 16, {__float_as_uint(four[0]), __float_as_uint(four[1]),
                                                        __float_as_uint(four[2]), __float_as_uint(four[3])});
    });
    publish_to_async();
    synchronise_consumers();
    if (thread < kBytes / kChunk) {
      wait_phase(ring_.freed(), 0);
      const uint32_t chunk = ring_.stages() + thread * kChunk;
      copy_to_block(1 - kHalf, chunk + kBytes, chunk, kChunk, ring_.came());
    }
    __syncwarp();
    wait_phase(ring_.came(), 0);
    __syncwarp();
    arrive_in_cluster();  // what the other sent here has left its shared memory
    Sums<S> sums;
    each_four<Mine>([&](int r, int j, int i) {
      const uint4 v = tile::load_shared16(came + i * kConsumers * 16);
      sums[r][j][0] = acc[r][j][0] + __uint_as_float(v.x);
      sums[r][j][1] = acc[r][j][1] + __uint_as_float(v.y);
      sums[r][j][2] = acc[r][j][2] + __uint_as_float(v.z);
      sums[r][j][3] = acc[r][j][3] + __uint_as_float(v.w);
    });
    write<Mine>(sums, endings, tile);
    __syncwarp();
    wait_for_cluster();  // and what this block sent its own: it may end
  }
  template <class Part, class Use>
  static __forceinline__ __device__ void each_four(const Use& use) {
#pragma unroll
    for (int r = Part::kRow; r < Part::kRowEnd; ++r) {
#pragma unroll
      for (int j = Part::kColumn; j < Part::kColumnEnd; ++j) {
        use(r, j, (r - Part::kRow) * (Part::kColumnEnd - Part::kColumn) + j - Part::kColumn);
      }
    }
  }

  // More than two. Groups of 8 tokens go to the block that adds them up, group j to number j % splits:
  //
  //   ring   own sums [group][8][pitch]   sums that came [part][group / splits][8][pitch]
  //
  // TMA copies them (4 or 8 KB at once, where storing them at the other block took three times as long,
  // H200), and barriers in shared memory stand for those of the cluster, which would flush every write to the
  // card.
  __forceinline__ __device__ void add_groups(const Sums<S>& acc, int tile) const {
    const int part = cluster_rank(), parts = p_.splits, thread = threadIdx.x;
    const int most = (kGroups + parts - 1) / parts, here = (kGroups - part + parts - 1) / parts;
    const int fours = thread % (S::kRows / 4), n = first_row<S>(p_, tile) + fours * 4,
              m0 = first_token<S>(p_, tile);
    Ending endings[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) endings[i] = ending_of(n + i);

    synchronise_consumers();  // nobody reads the ring any more
    if (thread == 0) arrive_expecting(ring_.came(), here * (parts - 1) * kGroupBytes);
    if (thread < parts) arrive_in(ring_.freed(), thread);
    share(acc);
    publish_to_async();
    synchronise_consumers();
    if (thread < kGroups && thread % parts != part) {
      wait_phase(ring_.freed(), 0);
      copy_to_block(thread % parts, came(part, thread / parts, most), own(thread), kGroupBytes, ring_.came());
    }
    __syncwarp();
    wait_phase(ring_.came(), 0);
    __syncwarp();
    arrive_in_cluster();  // what others sent here has left their shared memory
#pragma unroll 1
    for (int token = thread / (S::kRows / 4); token < here * 8; token += kConsumers / (S::kRows / 4)) {
      const int group = token / 8 * parts + part;
      float4 sum{0, 0, 0, 0};
#pragma unroll 1
      for (int k = 0; k < parts; ++k) {
        const uint32_t from = k == part ? own(group) : came(k, token / 8, most);
        const uint4 v = tile::load_shared16(from + (token % 8 * S::kSumPitch + fours * 4) * 4);
        sum.x += __uint_as_float(v.x), sum.y += __uint_as_float(v.y);
        sum.z += __uint_as_float(v.z), sum.w += __uint_as_float(v.w);
      }
      const float sums[4] = {ended(sum.x, endings[0]), ended(sum.y, endings[1]), ended(sum.z, endings[2]),
                             ended(sum.w, endings[3])};
      write_four(n, m0 + group * 8 + token % 8, sums);
    }
    __syncwarp();
    wait_for_cluster();  // and what this block sent its own: it may end
  }

  static constexpr int kGroups = S::kTokens / 8, kGroupBytes = 8 * S::kSumPitch * 4;

  static __device__ void synchronise_consumers() {
    asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
  }
  __device__ uint32_t own(int group) const { return ring_.stages() + group * kGroupBytes; }
  __device__ uint32_t came(int part, int index, int most) const {
    return ring_.stages() + (kGroups + part * most + index) * kGroupBytes;
  }
  __forceinline__ __device__ void share(const Sums<S>& acc) const {
    const uint32_t first = ring_.stages() + (token_ * S::kSumPitch + row_) * 4;
#pragma unroll
    for (int r = 0; r < S::kRows64; ++r) {
#pragma unroll
      for (int j = 0; j < S::kTokens / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          asm volatile(
              "st.shared.v2.f32 [%0], {%1, %2};" ::"r"(first + ((8 * j + i) * S::kSumPitch + 64 * r) * 4),
              "f"(acc[r][j][i]), "f"(acc[r][j][2 + i])
              : "memory");
        }
      }
    }
  }

  __device__ Ending ending_of(int n) const {
    n = min(n, p_.n - 1);
    Ending ending{1, p_.bias == nullptr ? -0.0f : __ldg(p_.bias + n)};  // adding -0 changes nothing
    if constexpr (S::kFolds) ending.factor = __uint_as_float(static_cast<uint32_t>(base_ + 127) << 23);
    if constexpr (S::kScaling == Scaling::kRow) {
      ending.factor = scale_of_word(p_, word_of_scale(p_, scale_row(p_, n)));
    }
    return ending;
  }
  // Not left to the compiler to fuse or not: a row's bits must be those of every other shape.
  static __device__ float ended(float sum, const Ending& ending) {
    return __fadd_rn(S::kScaling == Scaling::k128 ? sum : __fmul_rn(sum, ending.factor), ending.bias);
  }

  static __device__ uint32_t pack(float first, float second) {
    return tile::pack2<tile::Family::kSm90, S::kHalf>(first, second);
  }
  __device__ uint16_t* at(int n, int m) const { return p_.y + m * p_.y_stride + n; }
  template <bool kPairs, class Part>
  __forceinline__ __device__ void write_pairs(const Sums<S>& acc, const Endings& endings, int n0,
                                              int m0) const {
    uint16_t* to = at(n0, m0 + 8 * Part::kColumn);
#pragma unroll
    for (int j = Part::kColumn; j < Part::kColumnEnd; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (m0 + 8 * j + i >= p_.m) continue;
#pragma unroll
        for (int r = Part::kRow; r < Part::kRowEnd; ++r) {
          const uint32_t pair =
              pack(ended(acc[r][j][i], endings[r][0]), ended(acc[r][j][2 + i], endings[r][1]));
          uint16_t* const here = to + i * p_.y_stride + 64 * r;
          if constexpr (kPairs) {
            *reinterpret_cast<uint32_t*>(here) = pair;
          } else {
            if (n0 + 64 * r < p_.n) here[0] = static_cast<uint16_t>(pair);
            if (n0 + 64 * r + 1 < p_.n) here[1] = static_cast<uint16_t>(pair >> 16);
          }
        }
      }
      to += 8 * p_.y_stride;
    }
  }
  __device__ void write_four(int n, int m, const float (&sums)[4]) const {
    if (m >= p_.m) return;
    if (p_.y_fours && n + 3 < p_.n) {
      *reinterpret_cast<uint2*>(at(n, m)) = {pack(sums[0], sums[1]), pack(sums[2], sums[3])};
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (n + i < p_.n) *at(n + i, m) = static_cast<uint16_t>(pack(sums[i], sums[i]));
    }
  }
};

}  // namespace anyfp8::wgmma
