#include <algorithm>

#include "anyfp8/device/check_cuda.h"
#include "anyfp8/kernels/common/cublaslt_gemm_cuda.h"
#include "anyfp8/kernels/common/fp8_decode.cuh"
#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/kernels/common/quad_transpose.cuh"
#include "anyfp8/kernels/cuda_dequant_w8a16/slab_power.h"
#include "anyfp8/kernels/cuda_dequant_w8a16/slab_split.h"

namespace anyfp8 {
namespace {

using namespace device_code;

constexpr int kThreads = 256;
constexpr int kRowsEach = 4;  // of a thread: so many loads are on their way at once

// Rows of a weight and where they go.
struct Slab {
  const uint8_t* weight;  // its first row, k64_shuffled
  uint32_t rows, units;   // 16-byte units of a row
  int64_t k, pitch;
  const void* scale;  // of the whole weight
  DType scale_dtype;
  uint32_t group_rows, group_cols;  // 0: the whole extent
  int64_t scale_cols;
  uint32_t first_row;      // of the weight
  uint16_t* out;           // [rows, k]
  const float* max_scale;  // fp16 alone: see slab_power.h
  float* factors;          // and what cuBLASLt makes of it: 2^-p of the sums, 0 of the old y
};

// magnitude * scale, both not negative, so that rounding it again to 16 bit is rounding once: of the two fp32
// around the product the odd one, which says that something was cut off (round to odd). If they differ and
// the lower one is even, the upper one is that with its last bit set.
__device__ inline float product_to_odd(float magnitude, float scale) {
  const uint32_t below = __float_as_uint(__fmul_rz(magnitude, scale));
  const uint32_t above = __float_as_uint(__fmul_ru(magnitude, scale));
  return __uint_as_float(below | (above & 1));
}

template <DType kOut>
__device__ inline uint32_t pack_rounded(float low, float high) {
  if constexpr (kOut == DType::kBF16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// A thread loads 16 bytes of a row, lane t of four those at 16t of a chunk, and stores k = 8t .. 8t + 7 and
// 32 + 8t .. 32 + 8t + 7, so that each store of a warp fills whole sectors. In a word that lanes exchange
// stand two codes of the first and two of the second. kWide: the scale is the same for such 8 k.
template <DType kWeight, DType kOut, bool kWide>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(const Slab slab) {
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t unit = index % slab.units, row_begin = index / slab.units * kRowsEach;
  if (row_begin >= slab.rows) return;  // all four lanes of a chunk

  uint4 loaded[kRowsEach];
#pragma unroll
  for (int r = 0; r < kRowsEach; ++r) {
    const uint32_t row = min(row_begin + r, slab.rows - 1);
    loaded[r] = __ldcs(reinterpret_cast<const uint4*>(slab.weight + row * slab.pitch) + unit);
  }

  float power = 1;
  if constexpr (kOut == DType::kF16) {
    const int p = slab_power(kWeight, __float_as_uint(*slab.max_scale));
    power = __uint_as_float(bits_of_power(p));
    if (index == 0) {
      slab.factors[0] = __uint_as_float(bits_of_power(-p));
      slab.factors[1] = 0;
    }
  }

  const uint32_t k_begin = unit / 4 * 64 + unit % 4 * 8;
  const auto scale_at = [&](uint32_t scale_row, uint32_t k) {
    const uint32_t column = slab.group_cols == 0 ? 0 : k / slab.group_cols;
    return load_scale(slab.scale, slab.scale_dtype, scale_row * slab.scale_cols + column) * power;
  };
  // One division for all rows, which follow each other; and their scales before the first is needed.
  uint32_t scale_rows[kRowsEach];
  float scales[kRowsEach][2];
  const uint32_t first_row = slab.first_row + row_begin;
  uint32_t scale_row = slab.group_rows == 0 ? 0 : first_row / slab.group_rows;
  uint32_t next_at = (scale_row + 1) * slab.group_rows;
#pragma unroll
  for (int r = 0; r < kRowsEach; ++r) {
    if (slab.group_rows != 0 && first_row + r == next_at) {
      ++scale_row;
      next_at += slab.group_rows;
    }
    scale_rows[r] = scale_row;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t k = k_begin + 32 * half;
      const bool there = kWide && row_begin + r < slab.rows && k < slab.k;
      scales[r][half] = there ? scale_at(scale_row, k) : 0;
    }
  }

#pragma unroll
  for (int r = 0; r < kRowsEach; ++r) {
    uint32_t words[4] = {
        __byte_perm(loaded[r].x, loaded[r].z, 0x6420), __byte_perm(loaded[r].x, loaded[r].z, 0x7531),
        __byte_perm(loaded[r].y, loaded[r].w, 0x6420), __byte_perm(loaded[r].y, loaded[r].w, 0x7531)};
    transpose_quad(words);
    const uint32_t row = row_begin + r;
    if (row >= slab.rows) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t k = k_begin + 32 * half;
      if (k >= slab.k) continue;  // the row's padding; k and slab.k are multiples of 8
      uint32_t result[4];
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const uint32_t codes = __byte_perm(words[pair], 0, half == 0 ? 0x1404 : 0x3424);  // in bytes 1 and 3
        const float2 value = __half22float2(magnitudes_of_odd_bytes<kWeight>(codes));
        const auto scale = [&](uint32_t at) { return kWide ? scales[r][half] : scale_at(scale_rows[r], at); };
        const float low = product_to_odd(value.x, scale(k + 2 * pair));
        const float high = product_to_odd(value.y, scale(k + 2 * pair + 1));
        result[pair] = pack_rounded<kOut>(low, high) | (codes & 0x80008000u);
      }
      *reinterpret_cast<uint4*>(slab.out + row * slab.k + k) =
          make_uint4(result[0], result[1], result[2], result[3]);
    }
  }
}

__global__ void round_bias_kernel(const float* bias, void* out, DType dtype, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) store_rounded(out, dtype, i, bias[i]);
}

using Launch = void (*)(Slab);

template <DType kWeight, DType kOut>
Launch kernel_for(Group group) {
  return group.cols % 8 == 0 ? dequantize_kernel<kWeight, kOut, true>
                             : dequantize_kernel<kWeight, kOut, false>;
}

Launch kernel_for(DType weight, DType out, Group group) {
  if (weight == DType::kE4M3) {
    return out == DType::kBF16 ? kernel_for<DType::kE4M3, DType::kBF16>(group)
                               : kernel_for<DType::kE4M3, DType::kF16>(group);
  }
  return out == DType::kBF16 ? kernel_for<DType::kE5M2, DType::kBF16>(group)
                             : kernel_for<DType::kE5M2, DType::kF16>(group);
}

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

void dequantize_slab(const PlacedWeight& placed, int64_t row_begin, int64_t rows, void* out, float* factors,
                     Stream stream) {
  const QuantKey& key = placed.config.scheme.weight;
  const int64_t pitch = shuffled_pitch(placed.config.k);
  const Slab slab{
      .weight = static_cast<const uint8_t*>(placed.data) + row_begin * pitch,
      .rows = static_cast<uint32_t>(rows),
      .units = static_cast<uint32_t>(pitch / 16),
      .k = placed.config.k,
      .pitch = pitch,
      .scale = placed.scale,
      .scale_dtype = key.scale_dtype,
      .group_rows = static_cast<uint32_t>(key.group.rows),
      .group_cols = static_cast<uint32_t>(key.group.cols),
      .scale_cols = placed.grid.cols,
      .first_row = static_cast<uint32_t>(row_begin),
      .out = static_cast<uint16_t*>(out),
      .max_scale = placed.max_scale,
      .factors = factors,
  };
  const int64_t threads = (rows + kRowsEach - 1) / kRowsEach * int64_t{slab.units};
  const Launch kernel = kernel_for(key.dtype, placed.config.in, key.group);
  ANYFP8_CUDA_CHECK(launch(kernel, blocks_for(threads), kThreads, stream.handle, slab));
}

// y[token, columns] = sums + bias.
__global__ void add_bias_kernel(const float* sums, const float* bias, void* y, DType dtype, int64_t y_stride,
                                uint32_t columns) {
  const uint32_t column = blockIdx.y * kThreads + threadIdx.x;
  if (column >= columns) return;
  const int64_t token = blockIdx.x;
  store_rounded(y, dtype, token * y_stride + column, sums[token * columns + column] + bias[column]);
}

// y[:, row_begin ...] of the weight's rows at `w`, without bias.
CublasGemm product(const LinearConfig& config, const TensorView& x, const TensorView& y, const void* w,
                   int64_t row_begin, int64_t rows) {
  return {.m = x.rows,
          .n = rows,
          .k = config.k,
          .dtype = x.dtype,
          .out = y.dtype,
          .x = x.data,
          .x_stride = x.row_stride,
          .w = w,
          .w_stride = config.k,
          .y = static_cast<uint8_t*>(y.data) + row_begin * 2,
          .y_stride = y.row_stride};
}

// Scratch: the slab, two factors for fp16, the bias in 16 bit, and what is left of it for cuBLASLt.
void apply_8bit(const PlacedWeight& placed, const TensorView& x, const TensorView& y, Scratch scratch,
                Stream stream) {
  const LinearConfig& config = placed.config;
  const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  const int64_t slab = slab_rows(config.n, config.k), slab_bytes = slab * config.k * 2;
  const int64_t factors_at = aligned(slab_bytes);
  const int64_t bias_at = factors_at + aligned(x.dtype == DType::kF16 ? 2 * sizeof(float) : 0);
  const int64_t blas_at = bias_at + aligned(config.bias ? config.n * 2 : 0);
  const auto blas_bytes = static_cast<size_t>(static_cast<int64_t>(kCublasBytes) + slab_bytes - blas_at);
  auto* const memory = static_cast<uint8_t*>(scratch.data);
  auto* const factors = reinterpret_cast<float*>(memory + factors_at);
  if (config.bias) {
    ANYFP8_CUDA_CHECK(launch(round_bias_kernel, blocks_for(config.n), kThreads, stream.handle, placed.bias,
                             memory + bias_at, y.dtype, config.n));
  }
  for (int64_t row = 0; row < config.n; row += slab) {
    const int64_t rows = std::min(slab, config.n - row);
    dequantize_slab(placed, row, rows, memory, factors, stream);
    CublasGemm gemm = product(config, x, y, memory, row, rows);
    if (x.dtype == DType::kF16) gemm.factors = factors;
    if (config.bias) gemm.bias = memory + bias_at + row * 2;
    cublaslt_gemm(gemm, {memory + blas_at, blas_bytes}, stream);
  }
}

// Scratch: cuBLASLt's, and before it room for fp32 sums where there is a bias.
void apply_16bit(const PlacedWeight& placed, const TensorView& x, const TensorView& y, Scratch scratch,
                 Stream stream) {
  const LinearConfig& config = placed.config;
  auto* const memory = static_cast<uint8_t*>(scratch.data);
  if (!config.bias)
    return cublaslt_gemm(product(config, x, y, placed.data, 0, config.n), {memory, kCublasBytes}, stream);
  constexpr int64_t kMostTokens = 1024;
  const int64_t tokens = std::min(x.rows, kMostTokens);
  const int64_t fit = static_cast<int64_t>(kSlabBytes / sizeof(float)) / tokens;
  const int64_t slab = std::min(config.n, fit / kSlabGranule * kSlabGranule);
  const auto at = [](const TensorView& view, int64_t row) {
    return static_cast<uint8_t*>(view.data) + row * view.row_stride * 2;
  };
  for (int64_t m = 0; m < x.rows; m += tokens) {
    const int64_t count = std::min(tokens, x.rows - m);
    const TensorView part{at(x, m), x.dtype, count, x.cols, x.row_stride};
    for (int64_t row = 0; row < config.n; row += slab) {
      const int64_t rows = std::min(slab, config.n - row);
      const auto* w = static_cast<const uint8_t*>(placed.data) + row * config.k * 2;
      const TensorView sums{memory, DType::kF32, count, rows, rows};
      cublaslt_gemm(product(config, part, sums, w, 0, rows), {memory + kSlabBytes, kCublasBytes}, stream);
      const dim3 grid(static_cast<unsigned>(count), blocks_for(rows));
      ANYFP8_CUDA_CHECK(launch(add_bias_kernel, grid, kThreads, stream.handle,
                               reinterpret_cast<const float*>(memory), placed.bias + row, at(y, m) + row * 2,
                               y.dtype, y.row_stride, static_cast<uint32_t>(rows)));
    }
  }
}

}  // namespace

void apply_cuda_dequant_w8a16(const PlacedWeight& placed, const TensorView& x, const TensorView& y,
                              Scratch scratch, Stream stream) {
  if (x.rows == 0 || placed.config.n == 0) return;
  const bool dequantize = is_float8(placed.config.scheme.weight.dtype);
  (dequantize ? apply_8bit : apply_16bit)(placed, x, y, scratch, stream);
}

}  // namespace anyfp8
