#include <omp.h>

#include <algorithm>

#include "anyfp8/base/element.h"
#include "anyfp8/base/float_mode.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/kernels/kernel_list.h"

// The truth the other kernels are measured against: the formula, in double, one output at a time.
namespace anyfp8 {
namespace {

// weight * scale of columns [begin, end) of a row.
void decode_row(const PlacedWeight& weight, int64_t row, int64_t begin, int64_t end, double* out) {
  const QuantKey& key = weight.config.scheme.weight;
  const int64_t scale_row = key.group.rows == 0 ? 0 : row / key.group.rows;
  for (int64_t col = begin; col < end; ++col) {
    double w = load_element(weight.data, key.dtype, row * weight.config.k + col);
    if (weight.scale != nullptr) {
      const int64_t scale_col = key.group.cols == 0 ? 0 : col / key.group.cols;
      w *= load_element(weight.scale, key.scale_dtype, scale_row * weight.grid.cols + scale_col);
    }
    out[col - begin] = w;
  }
}

// Rows [row_begin, row_end) of the weight, against every token. Columns are summed in their order; pieces of
// them and of the tokens share a decoding, so that `verify` of a whole model takes minutes and not hours.
void apply_rows(const PlacedWeight& weight, const TensorView& x, const TensorView& y, int64_t row_begin,
                int64_t row_end) {
  constexpr int64_t kTokens = 32, kColumns = 256;
  const DefaultFloatMode mode;
  const int64_t k = weight.config.k;
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int64_t first = 0; first < x.rows; first += kTokens) {
      const int64_t last = std::min(first + kTokens, x.rows);
      double sums[kTokens] = {};
      for (int64_t begin = 0; begin < k; begin += kColumns) {
        const int64_t end = std::min(begin + kColumns, k);
        double w[kColumns];
        decode_row(weight, row, begin, end, w);
        for (int64_t token = first; token < last; ++token) {
          double sum = sums[token - first];
          for (int64_t col = begin; col < end; ++col) {
            sum += w[col - begin] * load_element(x.data, x.dtype, token * x.row_stride + col);
          }
          sums[token - first] = sum;
        }
      }
      for (int64_t token = first; token < last; ++token) {
        const double sum = sums[token - first] + (weight.bias == nullptr ? 0 : weight.bias[row]);
        store_element(y.data, y.dtype, token * y.row_stride + row, static_cast<float>(sum));
      }
    }
  }
}

void apply(const PlacedWeight& weight, const TensorView& x, const TensorView& y, Scratch, Stream) {
  // Below this many products (about 0.2 ms) a second thread is not worth waking.
  constexpr double kProductsForThreads = 1 << 16;
  const double products = static_cast<double>(x.rows) * weight.config.n * weight.config.k;
  if (products < kProductsForThreads) return apply_rows(weight, x, y, 0, weight.config.n);
#pragma omp parallel num_threads(num_threads())
  {
    const auto [begin, end] = static_split(weight.config.n, 1, omp_get_thread_num(), omp_get_num_threads());
    apply_rows(weight, x, y, begin, end);
  }
}

constexpr DType kWeightDtypes[] = {DType::kE4M3, DType::kE5M2, DType::kBF16, DType::kF16, DType::kF32};
constexpr Group kGroups[] = {{kAnyExtent, kAnyExtent}};
constexpr DType kScaleDtypes[] = {DType::kF32, DType::kE8M0};
constexpr DType kInOutDtypes[] = {DType::kF32, DType::kBF16, DType::kF16};

}  // namespace

constinit const Kernel cpu_reference{
    .name = "cpu_reference",
    .summary = "every scheme in double precision, on any CPU; slow",
    .device = DeviceKind::kCpu,
    .layout = Layout::kRowMajor,
    .weight_dtypes = kWeightDtypes,
    .weight_groups = kGroups,
    .scale_dtypes = kScaleDtypes,
    .in_dtypes = kInOutDtypes,
    .out_dtypes = kInOutDtypes,
    .activation = ActivationUse::kAsGiven,
    .batch_invariant = true,
    .supports = [](const Device&) { return Verdict::yes(); },
    .tokens = [](const LinearConfig&, const Device&) { return TokenRange{}; },
    .apply = apply,
};

}  // namespace anyfp8
