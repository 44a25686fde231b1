#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "anyfp8/kernels/common/activation_scale.h"
#include "tests/kernel_case.h"

// Activations quantised on the host, element by element, for tests of what does it fast.
namespace anyfp8::test {

// Codes [rows, k] and the scale of each element's group, as activation_scale.h defines them.
struct QuantisedRows {
  std::vector<uint8_t> codes;
  std::vector<float> scales;  // [rows, k]
};

inline QuantisedRows quantise_on_host(const QuantKey& key, const Matrix& x, std::optional<float> stored,
                                      std::optional<float> upper_bound) {
  const int64_t rows_of_group = key.group.rows == 0 ? x.rows : key.group.rows;
  const int64_t cols_of_group = key.group.cols == 0 ? x.cols : key.group.cols;
  const bool clamps = clamps_infinity(key.source, upper_bound.has_value());
  QuantisedRows result;
  result.codes.resize(static_cast<size_t>(x.rows * x.cols));
  result.scales.resize(result.codes.size());
  for (int64_t row = 0; row < x.rows; row += rows_of_group) {
    for (int64_t col = 0; col < x.cols; col += cols_of_group) {
      const int64_t row_end = std::min(row + rows_of_group, x.rows);
      const int64_t col_end = std::min(col + cols_of_group, x.cols);
      const auto each = [&](auto&& f) {
        for (int64_t r = row; r < row_end; ++r) {
          for (int64_t c = col; c < col_end; ++c) {
            f(static_cast<size_t>(r * x.cols + c), static_cast<float>(x.at(r, c)));
          }
        }
      };
      float amax = 0;
      each([&](size_t, float value) {
        if (std::isfinite(value)) amax = std::max(amax, std::fabs(value));
      });
      const float scale = key.source == ScaleSource::kStored
                              ? *stored
                              : activation_scale(amax, upper_bound.value_or(kNoUpperBound), key.dtype);
      each([&](size_t i, float value) {
        result.codes[i] = activation_code(value, scale, key.dtype, clamps);
        result.scales[i] = scale;
      });
    }
  }
  return result;
}

}  // namespace anyfp8::test
