#include "anyfp8/kernels/common/w8a16_dot.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "anyfp8/base/element.h"
#include "anyfp8/base/float_mode.h"
#include "anyfp8/base/threads.h"

namespace anyfp8 {
namespace {

int64_t padded_stride(int64_t k) { return (k + kDotPad - 1) / kDotPad * kDotPad + kDotPad; }

// x can be read where it lies. With more tokens than one tile a copy is cheaper than rows of a power of two
// that meet in the same sets of the cache.
bool usable_in_place(const TensorView& x) {
  constexpr int64_t kTokensOfOneTile = 6;
  return x.dtype == DType::kF32 && x.cols % kDotPad == 0 && x.rows <= kTokensOfOneTile;
}

// Waking a thread costs about 5 us; a core decodes about 16 codes in 4 ns or does 16 products in 0.3 ns.
int useful_threads(int64_t m, int64_t n, int64_t k) {
  constexpr double kNsPerCode = 0.06, kNsPerProduct = 0.012, kNsPerThread = 10000;
  const double work_ns = static_cast<double>(n) * k * (kNsPerCode + kNsPerProduct * m);
  return static_cast<int>(std::clamp(work_ns / kNsPerThread, 1.0, static_cast<double>(num_threads())));
}

// Scales that stay the same along k are applied to the sums.
struct RowScales {
  const PlacedWeight& weight;
  bool along_k;
  double unit;

  double factor(int64_t row) const {
    if (weight.scale == nullptr || along_k) return unit;
    const QuantKey& key = weight.config.scheme.weight;
    // In double: scale * 2^8 may leave the range of fp32 where the product with the sum does not.
    return unit * load_element(weight.scale, key.scale_dtype, key.group.rows == 0 ? 0 : row / key.group.rows);
  }
};

struct Worker {
  const DotIsa& isa;
  const DotJob& job;
  const RowScales& scales;
  const float* bias;
  const TensorView& y;

  void run(int64_t row_begin, int64_t row_end) const {
    alignas(64) float sums[kDotTokens * kDotRows];
    for (int64_t token = 0; token < y.rows; token += kDotTokens) {
      const int tokens = static_cast<int>(std::min<int64_t>(kDotTokens, y.rows - token));
      for (int64_t row = row_begin; row < row_end; row += kDotRows) {
        const int rows = static_cast<int>(std::min<int64_t>(kDotRows, row_end - row));
        isa.dot(job, token, tokens, row, rows, sums);
        finish(token, tokens, row, rows, sums);
      }
    }
  }

  void finish(int64_t token, int tokens, int64_t row, int rows, const float* sums) const {
    double factor[kDotRows], offset[kDotRows];
    for (int r = 0; r < rows; ++r) {
      factor[r] = scales.factor(row + r);
      offset[r] = bias == nullptr ? 0 : bias[row + r];
    }
    for (int t = 0; t < tokens; ++t) {
      const int64_t out = (token + t) * y.row_stride + row;
      for (int r = 0; r < rows; ++r) {
        const double value = sums[t * kDotRows + r] * factor[r] + offset[r];
        store_element(y.data, y.dtype, out + r, static_cast<float>(value));
      }
    }
  }
};

void widen_tokens(const DotIsa& isa, const TensorView& x, int64_t begin, int64_t end, float* to) {
  const int64_t stride = padded_stride(x.cols);
  for (int64_t token = begin; token < end; ++token) {
    const auto* from = static_cast<const std::byte*>(x.data) + token * x.row_stride * dtype_bytes(x.dtype);
    float* row = to + token * stride;
    isa.widen(from, x.dtype, x.cols, row);
    std::fill(row + x.cols, row + stride, 0.0f);
  }
}

}  // namespace

size_t dot_workspace_bytes(const LinearConfig& config, const Device&, int64_t m) {
  size_t bytes = 0;
  const size_t row_bytes = static_cast<size_t>(padded_stride(config.k)) * sizeof(float);
  return __builtin_mul_overflow(static_cast<size_t>(m), row_bytes, &bytes) ? SIZE_MAX : bytes;
}

void apply_dot(const DotIsa& isa, const PlacedWeight& weight, const TensorView& x, const TensorView& y,
               Scratch scratch) {
  const LinearConfig& config = weight.config;
  const QuantKey& key = config.scheme.weight;
  if (x.rows == 0 || config.n == 0) return;

  const bool in_place = usable_in_place(x);
  float* wide = static_cast<float*>(scratch.data);
  const RowScales scales{weight, weight.scale != nullptr && key.group.cols != 0,
                         key.dtype == DType::kE4M3 ? kE4M3Unit : 1.0};
  const DotJob job{.weight = weight.data,
                   .weight_dtype = key.dtype,
                   .k = config.k,
                   .scale = scales.along_k ? weight.scale : nullptr,
                   .scale_is_e8m0 = key.scale_dtype == DType::kE8M0,
                   .group = key.group,
                   .grid_cols = weight.grid.cols,
                   .x = in_place ? static_cast<const float*>(x.data) : wide,
                   .x_stride = in_place ? x.row_stride : padded_stride(config.k)};
  const Worker worker{isa, job, scales, weight.bias, y};

  const int threads = useful_threads(x.rows, config.n, config.k);
  const bool widen_together = !in_place && x.rows >= 2 * threads;
  const DefaultFloatMode mode;
  if (!in_place && (threads == 1 || !widen_together)) widen_tokens(isa, x, 0, x.rows, wide);
  if (threads == 1) return worker.run(0, config.n);
#pragma omp parallel num_threads(threads)
  {
    const DefaultFloatMode thread_mode;
    const int part = omp_get_thread_num(), parts = omp_get_num_threads();
    if (widen_together) {
      const auto [begin, end] = static_split(x.rows, 1, part, parts);
      widen_tokens(isa, x, begin, end, wide);
#pragma omp barrier
    }
    const auto [begin, end] = static_split(config.n, kDotRows, part, parts);
    worker.run(begin, end);
  }
}

}  // namespace anyfp8
