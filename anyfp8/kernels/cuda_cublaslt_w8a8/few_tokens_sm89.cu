#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "anyfp8/device/check_cuda.h"
#include "anyfp8/kernels/common/fused_launch.h"
#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/kernels/cuda_cublaslt_w8a8/few_tokens.h"

// A block has 16 outputs, and each of its warps every eighth group of 128 k; their sums meet in shared
// memory. Of a chunk of 64 codes lane (g, t) loads 16 bytes, words 0 to 3, of outputs g and g + 8, and of
// token g. Two words of each are a product's fragments, m16n8k32: both operands have their k in the same
// order, so it does not matter which.
namespace anyfp8::w8a8 {
namespace {

constexpr int kWarps = 8, kRows = 16, kColumns = 8;

struct Work {
  const uint8_t *w, *x;
  const float *w_scale, *x_scale;
  int64_t pitch;
  int n, groups, tokens;
  uint16_t* y;
  int64_t y_stride;
  const uint16_t* bias;
  bool y_bf16;
};

struct E4M3xE4M3 {
  __device__ static void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};
struct E5M2xE4M3 {
  __device__ static void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};
struct E4M3xE5M2 {
  __device__ static void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

// 16 bytes of this lane in chunk `chunk` of 64 codes; zeros beyond the row's end.
__device__ inline uint4 load_chunk(const Work& p, const uint8_t* row, int chunk) {
  if (chunk * kShuffleChunk >= p.pitch) return make_uint4(0, 0, 0, 0);
  return __ldg(reinterpret_cast<const uint4*>(row + chunk * kShuffleChunk + threadIdx.x % 4 * 16));
}

__device__ inline float as_f32(uint16_t bits, bool bf16) {
  return bf16 ? __uint_as_float(uint32_t{bits} << 16) : __half2float(__ushort_as_half(bits));
}
__device__ inline uint16_t rounded(float value, bool bf16) {
  return bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(value)) : __half_as_ushort(__float2half_rn(value));
}

template <class Product>
__global__ void __launch_bounds__(kWarps * 32) few_tokens(const Work p) {
  __shared__ float sums[kWarps][kColumns][kRows];
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int n0 = blockIdx.x * kRows;
  const uint8_t* rows[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) rows[h] = p.w + min(n0 + g + 8 * h, p.n - 1) * p.pitch;
  const uint8_t* const token = p.x + min(g, p.tokens - 1) * p.pitch;
  const float* const w_scale = p.w_scale + static_cast<int64_t>(n0 / 128) * p.groups;

  float sum[4] = {0, 0, 0, 0};
  bool waited = false;
#pragma unroll 2
  for (int group = warp; group < p.groups; group += kWarps) {
    uint4 w[2][2], x[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int h = 0; h < 2; ++h) w[c][h] = load_chunk(p, rows[h], 2 * group + c);
    }
    if (!waited) {
      // Programmatic dependent launch: weights are there, x is what the kernel before this one writes.
#if __CUDA_ARCH__ >= 900
      asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
      waited = true;
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      x[c] = *reinterpret_cast<const uint4*>(
          token + min(2 * group + c, static_cast<int>(p.pitch / 64) - 1) * kShuffleChunk + t * 16);
    }
    float part[4] = {0, 0, 0, 0};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      Product::multiply_add(part, {w[c][0].x, w[c][1].x, w[c][0].y, w[c][1].y}, {x[c].x, x[c].y});
      Product::multiply_add(part, {w[c][0].z, w[c][1].z, w[c][0].w, w[c][1].w}, {x[c].z, x[c].w});
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = min(2 * t + i % 2, p.tokens - 1);
      const float scale = w_scale[group] * p.x_scale[group * p.tokens + column];
      sum[i] = __fmaf_rn(scale, part[i], sum[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[warp][2 * t + i % 2][g + i / 2 * 8] = sum[i];
  __syncthreads();
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");  // y may be what the kernel before this one reads
#endif
  const int row = threadIdx.x % kRows, column = threadIdx.x / kRows, n = n0 + row;
  if (column >= p.tokens || n >= p.n) return;
  float y = 0;
  for (int i = 0; i < kWarps; ++i) y += sums[i][column][row];
  if (p.bias != nullptr) y += as_f32(p.bias[n], p.y_bf16);
  p.y[column * p.y_stride + n] = rounded(y, p.y_bf16);
}

const void* kernel_for(const LinearConfig& config) {
  const bool e5m2_weight = config.scheme.weight.dtype == DType::kE5M2;
  if (e5m2_weight) return reinterpret_cast<const void*>(few_tokens<E5M2xE4M3>);
  return config.scheme.activation->dtype == DType::kE5M2
             ? reinterpret_cast<const void*>(few_tokens<E4M3xE5M2>)
             : reinterpret_cast<const void*>(few_tokens<E4M3xE4M3>);
}

}  // namespace

void prepare_few_tokens(const LinearConfig& config) {
  cudaFuncAttributes ignored{};
  ANYFP8_CUDA_CHECK(cudaFuncGetAttributes(&ignored, kernel_for(config)));
}

void multiply_few_tokens(const PlacedWeight& weight, const FewTokens& few, Stream stream) {
  const LinearConfig& config = weight.config;
  Work work{.w = static_cast<const uint8_t*>(weight.data),
            .x = few.codes,
            .w_scale = static_cast<const float*>(weight.scale),
            .x_scale = few.scales,
            .pitch = shuffled_pitch(config.k),
            .n = static_cast<int>(config.n),
            .groups = static_cast<int>(weight.grid.cols),
            .tokens = few.tokens,
            .y = few.y,
            .y_stride = few.y_stride,
            .bias = static_cast<const uint16_t*>(few.bias),
            .y_bf16 = config.out == DType::kBF16};
  launch_fused({.kernel = kernel_for(config),
                .blocks = (config.n + kRows - 1) / kRows,
                .threads = kWarps * 32,
                .shared_bytes = 0,
                .cluster = 1,
                .overlaps = true},
               &work, stream);
}

}  // namespace anyfp8::w8a8
