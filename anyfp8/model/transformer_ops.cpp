#include "anyfp8/model/transformer_ops.h"

#include <cmath>
#include <cstring>

#include "anyfp8/base/element.h"

namespace anyfp8 {

void rms_norm(const float* x, const float* weight, float eps, int64_t size, float* y) noexcept {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < size; ++i) squares += x[i] * x[i];
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(size) + eps);
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) y[i] = x[i] * inverse * weight[i];
}

void silu_times(float* gate, const float* up, int64_t size) noexcept {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) gate[i] = gate[i] / (1.0f + exp_fast(-gate[i])) * up[i];
}

void add_to(float* y, const float* x, int64_t size) noexcept {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) y[i] += x[i];
}

void widen(const HostTensor& tensor, int64_t first, std::span<float> out) noexcept {
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = load_element(tensor.data(), tensor.dtype(), first + static_cast<int64_t>(i));
  }
}

void narrow(std::span<const float> x, DType dtype, uint16_t* out) noexcept {
  const bool bf16 = dtype == DType::kBF16;
  for (size_t i = 0; i < x.size(); ++i) out[i] = bf16 ? f32_to_bf16(x[i]) : f32_to_f16(x[i]);
}

}  // namespace anyfp8
