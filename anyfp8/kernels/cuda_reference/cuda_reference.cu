#include <algorithm>

#include "anyfp8/device/check_cuda.h"
#include "anyfp8/kernels/common/fp8_decode.cuh"
#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/kernels/kernel.h"

namespace anyfp8 {
namespace {

using namespace device_code;

// A warp has a few rows of the weight and a few tokens. Lane l sums k = l, l + 32, ... in this order and the
// lanes are added as a butterfly, so what a sum looks like depends on k alone.
constexpr int kWarps = 4, kRows = 4, kTokens = 8;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// Position of `k` (0..63) in a shuffled chunk: the inverse of shuffled_k().
__device__ inline int shuffled_position(int k) {
  return (k >> 1 & 3) * 16 + (k >> 4) * 4 + (k & 1) * 2 + (k >> 3 & 1);
}

template <DType kWeight>
__device__ inline float load_weight(const void* data, int64_t row, int64_t k, int64_t pitch) {
  if constexpr (kWeight == DType::kE4M3 || kWeight == DType::kE5M2) {
    const int64_t chunk = k & ~int64_t{63};
    return load_f32<kWeight>(data, row * pitch + chunk + shuffled_position(static_cast<int>(k & 63)));
  } else {
    return load_f32<kWeight>(data, row * pitch + k);
  }
}

struct Work {
  int64_t n, k, m, pitch;
  const void* weight;
  const void* scale;
  const float* bias;
  DType scale_dtype;
  uint32_t group_rows, group_cols;  // 0: the whole extent
  int64_t scale_cols;
  const void* x;
  int64_t x_stride;
  void* y;
  int64_t y_stride;
  DType out;
};

template <DType kWeight, DType kIn>
__global__ void __launch_bounds__(32 * kWarps) reference_kernel(const Work work) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row_begin = (int64_t{blockIdx.x} * kWarps + threadIdx.x / 32) * kRows;
  if (row_begin >= work.n) return;
  int64_t row[kRows], scale_row[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    row[r] = min(row_begin + r, work.n - 1);
    scale_row[r] = work.group_rows == 0 ? 0 : row[r] / work.group_rows * work.scale_cols;
  }
  for (int64_t first = int64_t{blockIdx.y} * kTokens; first < work.m; first += int64_t{gridDim.y} * kTokens) {
    const int tokens = static_cast<int>(min(work.m - first, int64_t{kTokens}));
    float sums[kTokens][kRows] = {};
    for (int64_t k = lane; k < work.k; k += 32) {
      float weight[kRows];
      const int64_t scale_col = work.group_cols == 0 ? 0 : k / work.group_cols;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        weight[r] = load_weight<kWeight>(work.weight, row[r], k, work.pitch);
        if constexpr (kWeight == DType::kE4M3 || kWeight == DType::kE5M2)
          weight[r] *= load_scale(work.scale, work.scale_dtype, scale_row[r] + scale_col);
      }
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        if (t >= tokens) break;
        const float x = load_f32<kIn>(work.x, (first + t) * work.x_stride + k);
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[t][r] = fmaf(x, weight[r], sums[t][r]);
      }
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= tokens) break;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float sum = sums[t][r];
        for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
        if (lane != 0 || row_begin + r >= work.n) continue;
        if (work.bias != nullptr) sum += work.bias[row[r]];
        store_rounded(work.y, work.out, (first + t) * work.y_stride + row[r], sum);
      }
    }
  }
}

using Launch = void (*)(Work);

template <DType kWeight>
Launch kernel_for(DType in) {
  switch (in) {
    case DType::kBF16: return reference_kernel<kWeight, DType::kBF16>;
    case DType::kF16: return reference_kernel<kWeight, DType::kF16>;
    default: return reference_kernel<kWeight, DType::kF32>;
  }
}

Launch kernel_for(DType weight, DType in) {
  switch (weight) {
    case DType::kE4M3: return kernel_for<DType::kE4M3>(in);
    case DType::kE5M2: return kernel_for<DType::kE5M2>(in);
    case DType::kBF16: return kernel_for<DType::kBF16>(in);
    case DType::kF16: return kernel_for<DType::kF16>(in);
    default: return kernel_for<DType::kF32>(in);
  }
}

}  // namespace

void apply_cuda_reference(const PlacedWeight& placed, const TensorView& x, const TensorView& y, Scratch,
                          Stream stream) {
  const LinearConfig& config = placed.config;
  const QuantKey& key = config.scheme.weight;
  if (x.rows == 0 || config.n == 0) return;
  const Work work{
      .n = config.n,
      .k = config.k,
      .m = x.rows,
      .pitch = is_float8(key.dtype) ? shuffled_pitch(config.k) : config.k,
      .weight = placed.data,
      .scale = placed.scale,
      .bias = placed.bias,
      .scale_dtype = key.scale_dtype,
      .group_rows = static_cast<uint32_t>(key.group.rows),
      .group_cols = static_cast<uint32_t>(key.group.cols),
      .scale_cols = placed.grid.cols,
      .x = x.data,
      .x_stride = x.row_stride,
      .y = y.data,
      .y_stride = y.row_stride,
      .out = y.dtype,
  };
  constexpr int64_t kMostGridY = 65535;  // of CUDA; blocks take several turns beyond
  const auto blocks = [](int64_t count, int64_t each) { return (count + each - 1) / each; };
  const dim3 grid(static_cast<unsigned>(blocks(config.n, int64_t{kWarps} * kRows)),
                  static_cast<unsigned>(std::min(blocks(x.rows, kTokens), kMostGridY)));
  ANYFP8_CUDA_CHECK(launch(kernel_for(key.dtype, x.dtype), grid, 32 * kWarps, stream.handle, work));
}

}  // namespace anyfp8
