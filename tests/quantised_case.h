#pragma once

#include <optional>
#include <vector>

#include "anyfp8/kernels/common/activation_scale.h"
#include "anyfp8/kernels/common/round_activations.h"
#include "tests/kernel_case.h"

namespace anyfp8::test {

// Codes [rows, k] and the scale of each element's group, as the CPU quantises.
struct QuantisedRows {
  std::vector<uint8_t> codes;
  std::vector<float> scales;  // [rows, k]
};

inline QuantisedRows quantise_on_host(const QuantKey& key, Matrix x, std::optional<float> stored,
                                      std::optional<float> upper_bound) {
  const QuantizedActivations q = quantize_activations(x.view(), {key, stored, upper_bound});
  const Grid grid = scale_grid(key.group, x.rows, x.cols);
  const auto* codes = reinterpret_cast<const uint8_t*>(q.codes.data());
  QuantisedRows result{{codes, codes + q.codes.size()}, {}};
  for (int64_t i = 0; i < x.rows * x.cols; ++i) {
    const int64_t row = key.group.rows == 0 ? 0 : i / x.cols / key.group.rows;
    const int64_t col = key.group.cols == 0 ? 0 : i % x.cols / key.group.cols;
    result.scales.push_back(q.scales.as<float>()[row * grid.cols + col]);
  }
  return result;
}

}  // namespace anyfp8::test
