#include "anyfp8/kernels/common/row_dot.h"

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

// A core widens 16 elements in 1 ns, or does 80 products.
double work_ns(int64_t m, int64_t n, int64_t k) {
  return static_cast<double>(n) * static_cast<double>(k) * (0.06 + 0.012 * static_cast<double>(m));
}

struct Worker {
  const RowDotIsa& isa;
  const DotJob& job;
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
    for (int t = 0; t < tokens; ++t) {
      const int64_t out = (token + t) * y.row_stride + row;
      for (int r = 0; r < rows; ++r) {
        const float sum = sums[t * kDotRows + r];
        store_element(y.data, y.dtype, out + r, bias == nullptr ? sum : sum + bias[row + r]);
      }
    }
  }
};

void widen_tokens(const RowDotIsa& isa, const TensorView& x, int64_t begin, int64_t end, float* to) {
  const int64_t stride = padded_stride(x.cols);
  for (int64_t token = begin; token < end; ++token) {
    const auto* from = static_cast<const std::byte*>(x.data) + token * x.row_stride * dtype_bytes(x.dtype);
    float* row = to + token * stride;
    isa.widen(from, x.dtype, x.cols, row);
    std::fill(row + x.cols, row + stride, 0.0f);
  }
}

}  // namespace

size_t row_dot_workspace_bytes(const LinearConfig& config, int64_t m) {
  size_t bytes = 0;
  const size_t row_bytes = static_cast<size_t>(padded_stride(config.k)) * sizeof(float);
  return __builtin_mul_overflow(static_cast<size_t>(m), row_bytes, &bytes) ? SIZE_MAX : bytes;
}

void apply_row_dot(const RowDotIsa& isa, const PlacedWeight& weight, const TensorView& x, const TensorView& y,
                   Scratch scratch) {
  const LinearConfig& config = weight.config;
  if (x.rows == 0) return;

  const bool in_place = usable_in_place(x);
  float* wide = static_cast<float*>(scratch.data);
  const DotJob job{.weight = weight.data,
                   .weight_dtype = config.scheme.weight.dtype,
                   .k = config.k,
                   .x = in_place ? static_cast<const float*>(x.data) : wide,
                   .x_stride = in_place ? x.row_stride : padded_stride(config.k)};
  const Worker worker{isa, job, weight.bias, y};

  const int threads = useful_threads(work_ns(x.rows, config.n, config.k));
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
