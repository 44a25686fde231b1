#include <cuda_fp8.h>

#include <algorithm>
#include <bit>

#include "anyfp8/device/check_cuda.h"
#include "anyfp8/kernels/common/activation_scale.h"
#include "anyfp8/kernels/common/fp8_decode.cuh"
#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/kernels/common/mx_scale_tiles.h"
#include "anyfp8/kernels/common/quad_transpose.cuh"
#include "anyfp8/kernels/common/quantize_activation.h"

// A thread takes units of 16 elements, a quarter of a 64-code chunk. Lane s of four has k = 16s .. 16s + 15,
// of which lane t stores k = 16s + 2t, + 8, + 1, + 9 as word s of its 16 bytes: a transposition of words.
// Codes under MX scales stay in order.
//
// Measured on an H200 and not taken: what is seldom done (e5m2, clamping, rows at odd addresses) in functions
// out of line, with two units a thread: 30.8 us instead of 17.7 for 4096 tokens of 4096.
namespace anyfp8 {
namespace {

using namespace device_code;

constexpr int kThreads = 256;
constexpr int kUnit = 16;
constexpr uint32_t kUnitsOfGroup = 128 / kUnit, kUnitsOfMx = 32 / kUnit;

enum class Scaling { kStored, kToken, kGroup, kTensor, kMx };

struct Work {
  const uint16_t* x;
  int64_t x_stride;
  uint32_t x_rows, k, units;  // units of a row with its padding
  bool x_aligned;             // rows begin at multiples of 16 bytes
  DType code;                 // no parameter of the templates: a branch for 16 codes costs nothing
  uint32_t row_begin, rows;   // of codes
  uint32_t first_rows;
  const float *stored_scale, *upper_bound;
  uint8_t* codes;
  void* scales;
  uint32_t* maxima;
  uint32_t maxima_count;
  uint32_t row_blocks;  // blockIdx.x beyond these: extras
  ProductExtras extras;
};

// Programmatic dependent launch: nothing is read or written before what was queued earlier is done.
__device__ inline void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The kernel that was queued next may begin, and come to its own wait.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// 16 elements of row `row` of x, in pairs; zeros beyond x.
__device__ inline void load_unit(const Work& w, uint32_t row, uint32_t unit, uint32_t (&x)[kUnit / 2]) {
  const uint32_t k = unit * kUnit;
  const uint16_t* const from = w.x + row * w.x_stride + k;
  const bool inside = row < w.x_rows && k < w.k;
  if (inside && w.x_aligned && k + kUnit <= w.k) {
    const uint4 low = __ldg(reinterpret_cast<const uint4*>(from));
    const uint4 high = __ldg(reinterpret_cast<const uint4*>(from) + 1);
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
    return;
  }
#pragma unroll
  for (uint32_t i = 0; i < kUnit / 2; ++i) {
    const uint32_t low = inside && k + 2 * i < w.k ? __ldg(from + 2 * i) : 0;
    const uint32_t high = inside && k + 2 * i + 1 < w.k ? __ldg(from + 2 * i + 1) : 0;
    x[i] = low | high << 16;
  }
}

template <DType kIn>
__device__ inline uint32_t larger_magnitudes(uint32_t a, uint32_t b) {
  if constexpr (kIn == DType::kBF16) {
    const auto pair = [](const uint32_t& v) { return *reinterpret_cast<const __nv_bfloat162*>(&v); };
    const __nv_bfloat162 larger = __hmax2(__habs2(pair(a)), __habs2(pair(b)));
    return *reinterpret_cast<const uint32_t*>(&larger);
  } else {
    const auto pair = [](const uint32_t& v) { return *reinterpret_cast<const __half2*>(&v); };
    const __half2 larger = __hmax2(__habs2(pair(a)), __habs2(pair(b)));
    return *reinterpret_cast<const uint32_t*>(&larger);
  }
}

// The 16 bits of the largest finite |x|, which are ordered as the numbers are.
template <DType kIn>
__device__ inline uint32_t finite_amax(const uint32_t (&x)[kUnit / 2]) {
  constexpr uint32_t kInfinity = kIn == DType::kBF16 ? 0x7F80 : 0x7C00;
  uint32_t pair = 0;
#pragma unroll
  for (const uint32_t v : x) pair = larger_magnitudes<kIn>(pair, v);
  uint32_t largest = max(pair & 0xFFFF, pair >> 16);
  if (largest < kInfinity) return largest;
  largest = 0;
  for (const uint32_t v : x) {
    for (const uint32_t bits : {v & 0x7FFF, v >> 16 & 0x7FFF}) {
      if (bits < kInfinity) largest = max(largest, bits);
    }
  }
  return largest;
}

template <DType kIn>
__device__ inline float2 unpack(uint32_t pair) {
  if constexpr (kIn == DType::kBF16) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u)};
  } else {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  }
}

struct Divisor {
  float scale, inverse, limit;  // of fast_clamped_quotient()
};

__device__ inline Divisor make_divisor(const Work& w, float scale, bool clamps) {
  return {scale, __frcp_rn(scale), clamps ? 2 * largest_code(w.code) : kNoUpperBound};
}

template <DType kIn, DType kScale = DType::kF32>
__device__ inline Divisor dynamic_divisor(const Work& w, uint32_t amax_bits) {
  const float amax = unpack<kIn>(amax_bits).x;
  const float bound = w.upper_bound == nullptr ? kNoUpperBound : *w.upper_bound;
  return make_divisor(w, activation_scale(amax, bound, w.code, kScale),
                      clamps_infinity(ScaleSource::kDynamic, w.upper_bound != nullptr));
}

// Quotients as codes: of a pair, the first in the low byte.
template <__nv_fp8_interpretation_t kFormat>
__device__ inline void convert(const float2 (&pairs)[8], uint32_t (&words)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t first = __nv_cvt_float2_to_fp8x2(pairs[2 * i], __NV_SATFINITE, kFormat);
    const uint32_t second = __nv_cvt_float2_to_fp8x2(pairs[2 * i + 1], __NV_SATFINITE, kFormat);
    words[i] = first | second << 16;
  }
}

// Every lane of a warp comes here. kFast: the scale is one of fast_clamped_quotient().
template <DType kIn, bool kShuffled = true, bool kFast = true>
__device__ inline void store_codes(const Work& w, uint32_t row, uint32_t unit, const uint32_t (&x)[kUnit / 2],
                                   const Divisor& by) {
  const auto quotient = [&](float value) {
    return kFast ? fast_clamped_quotient(value, by.scale, by.inverse, by.limit) : __fdiv_rn(value, by.scale);
  };
  const auto quotients = [&](uint32_t pair) -> float2 {
    const float2 values = unpack<kIn>(pair);
    return {quotient(values.x), quotient(values.y)};
  };
  float2 pairs[8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (kShuffled) {
      const float2 low = quotients(x[i]), high = quotients(x[i + 4]);  // k = 2i, 2i + 1 and 8 more
      pairs[2 * i] = {low.x, high.x}, pairs[2 * i + 1] = {low.y, high.y};
    } else {
      pairs[2 * i] = quotients(x[2 * i]), pairs[2 * i + 1] = quotients(x[2 * i + 1]);
    }
  }
  uint32_t words[4];
  if (w.code == DType::kE4M3) {
    convert<__NV_E4M3>(pairs, words);
  } else {
    convert<__NV_E5M2>(pairs, words);
  }
  if constexpr (kShuffled) transpose_quad(words);
  if (row >= w.rows || unit >= w.units) return;
  auto* const to = w.codes + (int64_t{row} * w.units + unit) * kUnit;
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

// By thread `thread` of so many that do all of it.
__device__ inline void write_extras(const ProductExtras& e, uint32_t thread, uint32_t threads) {
  for (uint32_t i = thread; i < e.bias_count; i += threads)
    store_rounded(e.rounded_bias, e.bias_dtype, i, e.bias[i]);
  for (uint32_t i = thread; i < e.scale_rows * e.scale_cols; i += threads) {
    e.pitched_scale[i / e.scale_cols * e.scale_pitch + i % e.scale_cols] = e.scale[i];
  }
}

// The largest of part `part` of the block, each of so many whole warps.
__device__ inline uint32_t max_of_part(uint32_t value, uint32_t part, uint32_t warps) {
  __shared__ uint32_t of_warps[kThreads / 32];
  value = __reduce_max_sync(kAllLanes, value);
  if (warps == 1) return value;
  const uint32_t thread = threadIdx.y * blockDim.x + threadIdx.x;
  if (thread % 32 == 0) of_warps[thread / 32] = value;
  __syncthreads();
  for (uint32_t i = 0; i < warps; ++i) value = max(value, of_warps[part * warps + i]);
  return value;
}

// The largest finite |x| of what each block sees, for quantize_rows of the tensor.
template <DType kIn>
__global__ void __launch_bounds__(kThreads) tensor_amax(const Work w) {
  wait_for_inputs();
  let_next_begin();  // x is there, which quantize_rows loads before it waits
  constexpr int kAtOnce = 4;
  const uint32_t step = gridDim.x * kThreads, total = w.x_rows * w.units;
  uint32_t largest = 0;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < total; i += kAtOnce * step) {
    uint32_t x[kAtOnce][kUnit / 2];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) load_unit(w, (i + u * step) / w.units, (i + u * step) % w.units, x[u]);
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) largest = max(largest, finite_amax<kIn>(x[u]));
  }
  largest = max_of_part(largest, 0, kThreads / 32);
  if (threadIdx.x == 0) w.maxima[blockIdx.x] = largest;
}

// The scale of lanes 2g, 2g + 1 is that of group g: four groups are a word of the tiles.
__device__ inline void store_mx_scales(const Work& w, uint32_t row, uint32_t unit, float scale) {
  constexpr uint32_t kUnitsOfWord = 4 * kUnitsOfMx;
  uint32_t word = __float_as_uint(scale) >> 23 << unit % kUnitsOfWord / kUnitsOfMx * 8;
  for (uint32_t other = kUnitsOfMx; other < kUnitsOfWord; other *= 2)
    word |= __shfl_xor_sync(kAllLanes, word, other);
  if (unit % kUnitsOfWord != 0 || unit >= w.units || row >= mx_scale_rows(w.rows)) return;
  const int64_t words = mx_scale_words(w.units / kUnitsOfMx);
  static_cast<uint32_t*>(w.scales)[mx_scale_place(row, unit / kUnitsOfWord, words)] = word;
}

// blockDim.y rows a block. Of a token, a block has the whole row, kUnits of a thread in registers between its
// maximum and its codes and what is longer read twice; else one unit a thread, blockIdx.y along the row.
template <DType kIn, Scaling kScaling, int kUnits>
__global__ void __launch_bounds__(kThreads) quantize_rows(const Work w) {
  const uint32_t thread = threadIdx.y * blockDim.x + threadIdx.x;
  if (kScaling != Scaling::kTensor || blockIdx.x >= w.row_blocks) wait_for_inputs();
  let_next_begin();  // few_tokens loads weights before it waits
  if (blockIdx.x >= w.row_blocks) {
    const uint32_t block = blockIdx.x - w.row_blocks, blocks = gridDim.x - w.row_blocks;
    if (blockIdx.y == 0) write_extras(w.extras, block * kThreads + thread, blocks * kThreads);
    return;
  }
  const uint32_t row = blockIdx.x * blockDim.y + threadIdx.y, x_row = w.row_begin + row;
  const uint32_t first = blockIdx.y * blockDim.x + threadIdx.x;
  const bool writes_scale = row < w.rows && first == 0;
  float* const scales = static_cast<float*>(w.scales);
  uint32_t x[kUnits][kUnit / 2];
#pragma unroll
  for (int u = 0; u < kUnits; ++u) load_unit(w, x_row, first + u * blockDim.x, x[u]);
  static_assert(kScaling == Scaling::kToken || kUnits == 1);

  if constexpr (kScaling == Scaling::kStored) {
    const float scale = *w.stored_scale;
    const Divisor by = make_divisor(w, scale, clamps_infinity(ScaleSource::kStored, false));
    if (writes_scale) scales[row] = scale;
    if (scale >= kActivationScaleFloor && scale <= kFastScaleEnd) {
      store_codes<kIn>(w, row, first, x[0], by);
    } else {
      store_codes<kIn, true, false>(w, row, first, x[0], by);
    }
  } else if constexpr (kScaling == Scaling::kTensor) {
    wait_for_inputs();
    uint32_t largest = 0;
    for (uint32_t i = thread; i < w.maxima_count; i += kThreads) largest = max(largest, w.maxima[i]);
    const Divisor by = dynamic_divisor<kIn>(w, max_of_part(largest, 0, kThreads / 32));
    if (writes_scale) scales[row] = by.scale;
    store_codes<kIn>(w, row, first, x[0], by);
  } else if constexpr (kScaling == Scaling::kGroup || kScaling == Scaling::kMx) {
    constexpr bool kOf128 = kScaling == Scaling::kGroup;
    constexpr uint32_t kOfGroup = kOf128 ? kUnitsOfGroup : kUnitsOfMx;
    uint32_t largest = finite_amax<kIn>(x[0]);
    for (uint32_t other = 1; other < kOfGroup; other *= 2)
      largest = max(largest, __shfl_xor_sync(kAllLanes, largest, other));
    const Divisor by = dynamic_divisor < kIn, kOf128 ? DType::kF32 : DType::kE8M0 > (w, largest);
    if constexpr (!kOf128) {
      store_mx_scales(w, row, first, by.scale);
    } else if (row < w.rows && first < w.units && first % kUnitsOfGroup == 0) {
      // In two matrices [groups, rows], one behind the other.
      const uint32_t of_first = w.first_rows == 0 ? w.rows : w.first_rows, groups = (w.k + 127) / 128;
      const uint32_t group = first / kUnitsOfGroup;
      scales[row < of_first ? int64_t{group} * of_first + row
                            : int64_t{groups} * of_first + int64_t{group} * (w.rows - of_first) + row -
                                  of_first] = by.scale;
    }
    store_codes<kIn, kOf128>(w, row, first, x[0], by);
  } else {
    uint32_t largest = 0;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) largest = max(largest, finite_amax<kIn>(x[u]));
    uint32_t again[kUnit / 2];
    for (uint32_t unit = first + kUnits * blockDim.x; unit < w.units; unit += blockDim.x) {
      load_unit(w, x_row, unit, again);
      largest = max(largest, finite_amax<kIn>(again));
    }
    const Divisor by = dynamic_divisor<kIn>(w, max_of_part(largest, threadIdx.y, blockDim.x / 32));
    if (writes_scale) scales[row] = by.scale;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) store_codes<kIn>(w, row, first + u * blockDim.x, x[u], by);
    for (uint32_t begin = kUnits * blockDim.x; begin < w.units; begin += blockDim.x) {
      load_unit(w, x_row, begin + threadIdx.x, again);
      store_codes<kIn>(w, row, begin + threadIdx.x, again, by);
    }
  }
}

using Launch = void (*)(Work);

template <DType kIn>
Launch kernel_of_type(Scaling scaling, uint32_t units_of_thread) {
  switch (scaling) {
    case Scaling::kStored: return quantize_rows<kIn, Scaling::kStored, 1>;
    case Scaling::kGroup: return quantize_rows<kIn, Scaling::kGroup, 1>;
    case Scaling::kMx: return quantize_rows<kIn, Scaling::kMx, 1>;
    case Scaling::kTensor: return quantize_rows<kIn, Scaling::kTensor, 1>;
    default: break;
  }
  if (units_of_thread <= 1) return quantize_rows<kIn, Scaling::kToken, 1>;
  if (units_of_thread <= 2) return quantize_rows<kIn, Scaling::kToken, 2>;
  if (units_of_thread <= 4) return quantize_rows<kIn, Scaling::kToken, 4>;
  return quantize_rows<kIn, Scaling::kToken, 8>;
}

Launch kernel_for(DType in, Scaling scaling, uint32_t units_of_thread) {
  return in == DType::kBF16 ? kernel_of_type<DType::kBF16>(scaling, units_of_thread)
                            : kernel_of_type<DType::kF16>(scaling, units_of_thread);
}

Launch amax_for(DType in) {
  return in == DType::kBF16 ? tensor_amax<DType::kBF16> : tensor_amax<DType::kF16>;
}

Scaling scaling_of(const QuantKey& key) {
  if (key.source == ScaleSource::kStored) return Scaling::kStored;
  return key.group == kPerTensor ? Scaling::kTensor
         : key.group == kPerRow  ? Scaling::kToken
         : key.group == kMx32    ? Scaling::kMx
                                 : Scaling::kGroup;
}

uint32_t divided_up(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

void launch_dependent(Launch kernel, dim3 grid, dim3 block, Work work, const Device& device, Stream stream) {
  cudaLaunchAttribute dependent{};
  dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  dependent.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = static_cast<cudaStream_t>(stream.handle);
  config.attrs = &dependent;
  // From 9.0 on the code waits by itself, see wait_for_inputs().
  config.numAttrs = device.cc >= ComputeCapability{9, 0} ? 1 : 0;
  void* parameters[] = {&work};
  ANYFP8_CUDA_CHECK(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), parameters));
}

void launch_amax(DType in, Work& work, const Device& device, Stream stream) {
  constexpr uint32_t kBlocksEachSm = 4;
  const auto most = std::min(static_cast<uint32_t>(device.sm_count) * kBlocksEachSm, uint32_t{kMaxima});
  work.maxima_count = std::min(divided_up(work.x_rows * work.units, kThreads), most);
  launch_dependent(amax_for(in), work.maxima_count, kThreads, work, device, stream);
}

// Threads of a row, or of a part of it. H200, over a copy of as many bytes at m = 4096: two units a thread
// for a token of 4096 1.05, one 1.18 (at m = 128 1.44 and 1.35); and where 256 threads do not divide a row,
// as of k = 14336, 1x128 in parts of 128 1.05, of 256 1.15.
uint32_t columns_for(Scaling scaling, const Work& work) {
  if (scaling == Scaling::kToken) {
    constexpr uint32_t kMany = 512;
    const uint32_t units = work.rows < kMany ? 1 : 2;
    return std::clamp(std::bit_ceil(divided_up(work.units, units)), 32u, uint32_t{kThreads});
  }
  return work.units % kThreads == 0 ? kThreads : std::clamp(std::bit_ceil(work.units), 32u, 128u);
}

void launch_rows(DType in, Scaling scaling, Work work, const Device& device, Stream stream) {
  const uint32_t columns = columns_for(scaling, work);
  const dim3 block(columns, kThreads / columns);
  const uint32_t along_row = divided_up(work.units, columns);
  const int64_t rows = scaling == Scaling::kMx ? mx_scale_rows(work.rows) : work.rows;
  work.row_blocks = divided_up(static_cast<uint32_t>(rows), block.y);
  const uint32_t extras = std::max(work.extras.bias_count, work.extras.scale_rows * work.extras.scale_cols);
  constexpr uint32_t kMostExtraBlocks = 32;
  const uint32_t extra_blocks = std::min(divided_up(extras, kThreads), kMostExtraBlocks);
  const dim3 grid(work.row_blocks + extra_blocks, scaling == Scaling::kToken ? 1 : along_row);
  launch_dependent(kernel_for(in, scaling, along_row), grid, block, work, device, stream);
}

}  // namespace

void prepare_quantize_activation(const QuantKey& key, DType in) {
  const auto load = [](Launch kernel) {
    cudaFuncAttributes ignored{};
    ANYFP8_CUDA_CHECK(cudaFuncGetAttributes(&ignored, reinterpret_cast<const void*>(kernel)));
  };
  const Scaling scaling = scaling_of(key);
  for (const uint32_t units_of_thread : {1, 2, 4, 8}) load(kernel_for(in, scaling, units_of_thread));
  if (scaling == Scaling::kTensor) load(amax_for(in));
}

void quantize_activation(const ActivationRows& activations, const Device& device, Stream stream) {
  const TensorView& x = activations.x;
  Work work{
      .x = static_cast<const uint16_t*>(x.data),
      .x_stride = x.row_stride,
      .x_rows = static_cast<uint32_t>(x.rows),
      .k = static_cast<uint32_t>(x.cols),
      .units = static_cast<uint32_t>(shuffled_pitch(x.cols) / kUnit),
      .x_aligned = reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.row_stride % 8 == 0,
      .code = activations.key.dtype,
      .row_begin = static_cast<uint32_t>(activations.row_begin),
      .rows = static_cast<uint32_t>(activations.rows),
      .first_rows = static_cast<uint32_t>(activations.first_rows),
      .stored_scale = activations.stored_scale,
      .upper_bound = activations.upper_bound,
      .codes = activations.codes,
      .scales = activations.scales,
      .maxima = activations.maxima,
      .maxima_count = 0,
      .row_blocks = 0,
      .extras = activations.extras,
  };
  const Scaling scaling = scaling_of(activations.key);
  if (scaling == Scaling::kTensor) launch_amax(x.dtype, work, device, stream);
  launch_rows(x.dtype, scaling, work, device, stream);
}

}  // namespace anyfp8
