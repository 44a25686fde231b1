#include "anyfp8/linear/host_weight.h"

#include <omp.h>

#include <algorithm>
#include <utility>

#include "anyfp8/base/threads.h"
#include "anyfp8/kernels/common/panel64.h"

namespace anyfp8 {
namespace {

// Kernels read scales and the bias as aligned f32; what is that already is not copied.
HostTensor aligned_f32(const HostTensor& tensor) {
  const bool aligned = reinterpret_cast<uintptr_t>(tensor.data()) % alignof(float) == 0;
  return tensor.dtype() == DType::kF32 && aligned ? tensor : to_f32(tensor);
}

}  // namespace

HostWeight::HostWeight(Fp8Weight weight, Layout layout)
    : layout_(weight.quantized() ? layout : Layout::kRowMajor), n_(weight.n()), k_(weight.k()) {
  if (layout_ == Layout::kPanel64) {
    const PanelShape shape = panel_shape(weight.scheme.weight, n_, k_);
    panels_ = HostTensor::allocate(DType::kU8, {static_cast<int64_t>(shape.readable_bytes())});
    packed_scale_ = HostTensor::allocate(DType::kU8, {static_cast<int64_t>(shape.scales_bytes())});
  }
  HostWeight::replace(std::move(weight), {});
}

void HostWeight::replace(Fp8Weight weight, Stream) {
  HostTensor bias = weight.bias.defined() ? aligned_f32(weight.bias) : HostTensor();
  if (layout_ == Layout::kPanel64) {
    pack(weight);
    weight.data = HostTensor();
    weight.scale = HostTensor();
  } else if (weight.quantized() && weight.scale.dtype() == DType::kF32) {
    weight.scale = aligned_f32(weight.scale);
  }
  weight_ = std::move(weight);
  bias_ = std::move(bias);
}

void HostWeight::pack(const Fp8Weight& weight) {
  const QuantKey& key = weight.scheme.weight;
  const PanelShape shape = panel_shape(key, n_, k_);
  pack_scales(key, shape, weight.scale.data(), packed_scale_.mutable_data());
  auto* to = reinterpret_cast<uint8_t*>(panels_.mutable_data());
  const auto row_bytes = static_cast<size_t>(k_);
  // The split of apply(), so that a thread later reads what lies in memory next to it.
#pragma omp parallel num_threads(num_threads()) if (n_ * k_ > 1 << 16)
  {
    const auto [begin, end] = static_split(shape.panels, 1, omp_get_thread_num(), omp_get_num_threads());
    for (int64_t panel = begin; panel < end; ++panel) {
      pack_panel(shape, weight.data.as<uint8_t>(), panel,
                 to + static_cast<size_t>(panel) * shape.panel_bytes());
      const auto row = static_cast<size_t>(panel * kPanelOutputs);
      // From this thread's first row on: a page that two panels share goes with the later one.
      weight.data.release(static_cast<size_t>(begin * kPanelOutputs) * row_bytes,
                          std::min(row + kPanelOutputs, static_cast<size_t>(n_)) * row_bytes);
    }
  }
}

PlacedWeight HostWeight::view(const LinearConfig& config) const {
  const bool packed = layout_ == Layout::kPanel64;
  PlacedWeight placed;
  placed.config = config;
  placed.layout = layout_;
  placed.data = packed ? panels_.data() : weight_.data.data();
  placed.scale = packed ? packed_scale_.data() : weight_.scale.data();
  if (is_float8(config.scheme.weight.dtype)) {
    placed.grid = scale_grid(config.scheme.weight.group, n_, k_);
  }
  placed.finite_codes = true;
  placed.bias = bias_.as<float>();
  placed.input_scale = weight_.input_scale ? &*weight_.input_scale : nullptr;
  placed.input_scale_ub = weight_.input_scale_ub ? &*weight_.input_scale_ub : nullptr;
  return placed;
}

HostTensor HostWeight::dequantize(int64_t row_begin, int64_t row_end) const {
  if (layout_ == Layout::kRowMajor) return anyfp8::dequantize(weight_, row_begin, row_end);
  return dequantize_fetched(weight_.scheme, {n_, k_}, unpacked_scale(), row_begin, row_end,
                            [&](int64_t first, int64_t last, std::byte* to) { unpack(first, last, to); });
}

Fp8Weight HostWeight::stored() const {
  Fp8Weight weight = weight_;
  if (layout_ == Layout::kRowMajor) return weight;
  weight.data = HostTensor::allocate(weight_.scheme.weight.dtype, {n_, k_});
  unpack(0, n_, weight.data.mutable_data());
  weight.scale = unpacked_scale();
  return weight;
}

void HostWeight::unpack(int64_t first, int64_t last, std::byte* to) const {
  unpack_rows(panel_shape(weight_.scheme.weight, n_, k_), panels_.as<uint8_t>(), first, last,
              reinterpret_cast<uint8_t*>(to));
}

HostTensor HostWeight::unpacked_scale() const {
  const QuantKey& key = weight_.scheme.weight;
  const Grid grid = scale_grid(key.group, n_, k_);
  HostTensor scale = HostTensor::allocate(key.scale_dtype, {grid.rows, grid.cols});
  unpack_scales(key, panel_shape(key, n_, k_), packed_scale_.data(), scale.mutable_data());
  return scale;
}

size_t HostWeight::resident_bytes() const noexcept {
  const auto bytes = [](const HostTensor& tensor) { return tensor.defined() ? tensor.size_bytes() : 0; };
  const bool bias_is_a_copy = bias_.defined() && bias_.data() != weight_.bias.data();
  return bytes(panels_) + bytes(packed_scale_) + bytes(weight_.data) + bytes(weight_.scale) +
         bytes(weight_.bias) + (bias_is_a_copy ? bytes(bias_) : 0);
}

}  // namespace anyfp8
