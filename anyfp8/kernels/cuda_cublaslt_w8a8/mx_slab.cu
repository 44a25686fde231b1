#include "anyfp8/kernels/cuda_cublaslt_w8a8/mx_slab.h"

#include "anyfp8/device/check_cuda.h"
#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/kernels/common/mx_scale_tiles.h"

namespace anyfp8::w8a8 {
namespace {

constexpr int kThreads = 256;
constexpr uint32_t kNeutral = 127;  // 2^0

struct Slab {
  const uint4* from;      // its rows
  const uint8_t* scales;  // [rows, groups] e8m0
  uint4* codes;
  uint32_t* tiles;
  int64_t chunks;        // in all rows
  int64_t rows, groups;  // groups of a row of scales
  int64_t words;         // of a row of tiles; covers the row's padding too
};

// A thread has a chunk of 64 codes, then a word of four scales.
__global__ void __launch_bounds__(kThreads) copy_slab(const Slab slab) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < slab.chunks) {
    uint32_t from[16], to[16];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint4 v = slab.from[4 * i + j];
      from[4 * j] = v.x, from[4 * j + 1] = v.y, from[4 * j + 2] = v.z, from[4 * j + 3] = v.w;
    }
    unshuffle_words(from, to);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      slab.codes[4 * i + j] = make_uint4(to[4 * j], to[4 * j + 1], to[4 * j + 2], to[4 * j + 3]);
  }
  if (i >= mx_scale_rows(slab.rows) * slab.words) return;
  const int64_t row = i / slab.words, word = i % slab.words;
  uint32_t four = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t group = 4 * word + j;
    const bool there = row < slab.rows && group < slab.groups;
    four |= (there ? slab.scales[row * slab.groups + group] : kNeutral) << 8 * j;
  }
  slab.tiles[mx_scale_place(row, word, slab.words)] = four;
}

}  // namespace

void copy_mx_slab(const PlacedWeight& weight, int64_t begin, int64_t rows, void* codes, void* scales,
                  Stream stream) {
  const int64_t pitch = shuffled_pitch(weight.config.k), groups = weight.grid.cols;
  Slab slab{
      .from = reinterpret_cast<const uint4*>(static_cast<const std::byte*>(weight.data) + begin * pitch),
      .scales = static_cast<const uint8_t*>(weight.scale) + begin * groups,
      .codes = static_cast<uint4*>(codes),
      .tiles = static_cast<uint32_t*>(scales),
      .chunks = rows * (pitch / kShuffleChunk),
      .rows = rows,
      .groups = groups,
      .words = mx_scale_words(pitch / 32)};
  const int64_t threads = std::max(slab.chunks, mx_scale_rows(rows) * slab.words);
  ANYFP8_CUDA_CHECK(launch(copy_slab, static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads,
                           stream.handle, slab));
}

}  // namespace anyfp8::w8a8
