#include <algorithm>
#include <vector>

#include "anyfp8/base/element.h"
#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/linear/cuda_weight.h"

namespace anyfp8 {
namespace {

// Rows copied between two times that the pages of a mapped file are given back.
constexpr size_t kPieceBytes = size_t{32} << 20;

size_t bytes_of(const HostTensor& tensor) { return tensor.defined() ? tensor.size_bytes() : 0; }

// check_weight() let no NaN through.
float largest(const HostTensor& scale) {
  const int64_t count = static_cast<int64_t>(scale.size_bytes() / dtype_bytes(scale.dtype()));
  float result = 0;
  for (int64_t i = 0; i < count; ++i) {
    result = std::max(result, load_element(scale.data(), scale.dtype(), i));
  }
  return result;
}

}  // namespace

CudaWeight::CudaWeight(const Device& device, const Fp8Weight& weight, Layout layout, Stream stream)
    : device_(device),
      layout_(layout),
      scheme_(weight.scheme),
      n_(weight.n()),
      k_(weight.k()),
      row_bytes_(static_cast<size_t>(k_) * dtype_bytes(weight.data.dtype())),
      pitch_(layout == Layout::kK64Shuffled ? static_cast<size_t>(shuffled_pitch(k_)) : row_bytes_),
      data_(device, static_cast<size_t>(n_) * pitch_),
      scale_(device, bytes_of(weight.scale)),
      max_scale_(device, weight.quantized() ? sizeof(float) : 0),
      bias_(device, weight.bias.defined() ? static_cast<size_t>(n_) * sizeof(float) : 0),
      input_scale_(device, weight.input_scale ? sizeof(float) : 0),
      input_scale_ub_(device, weight.input_scale_ub ? sizeof(float) : 0) {
  fill(weight, stream);
}

void CudaWeight::replace(Fp8Weight weight, Stream stream) {
  // Graphs read them where they are, or do without.
  const auto check_same = [](const char* name, const DeviceMemory& held, bool given) {
    if ((held.bytes() > 0) == given) return;
    throw fail(ErrorCode::kInvalidArgument,
               "the layer {} {} and the new weight {}; only the values may change", given ? "has not" : "has",
               name, given ? "has" : "has not");
  };
  check_same("a static activation scale", input_scale_, weight.input_scale.has_value());
  check_same("an upper bound of activations", input_scale_ub_, weight.input_scale_ub.has_value());
  fill(weight, stream);
}

void CudaWeight::fill(const Fp8Weight& weight, Stream stream) {
  const DeviceGuard guard(device_);
  upper_bound_ = weight.input_scale_ub;
  const auto rows_a_piece = static_cast<int64_t>(std::max<size_t>(1, kPieceBytes / row_bytes_));
  for (int64_t row = 0; row < n_; row += rows_a_piece) {
    const int64_t rows = std::min(rows_a_piece, n_ - row);
    const size_t begin = static_cast<size_t>(row) * row_bytes_;
    copy_rows_to_device(static_cast<std::byte*>(data_.data()) + static_cast<size_t>(row) * pitch_, pitch_,
                        weight.data.data() + begin, row_bytes_, rows, stream);
    weight.data.release(begin, begin + static_cast<size_t>(rows) * row_bytes_);
  }
  if (layout_ == Layout::kK64Shuffled) {
    shuffle_on_device(data_.data(), n_ * static_cast<int64_t>(pitch_) / kShuffleChunk, stream);
  }
  copy_to_device(scale_.data(), weight.scale.data(), scale_.bytes(), stream);
  const float max_scale = weight.quantized() ? largest(weight.scale) : 0;
  copy_to_device(max_scale_.data(), &max_scale, max_scale_.bytes(), stream);
  HostTensor bias;  // lives until the copy is done
  if (weight.bias.defined()) bias = to_f32(weight.bias);
  copy_to_device(bias_.data(), bias.data(), bias_.bytes(), stream);
  const float input_scale = weight.input_scale.value_or(0);
  copy_to_device(input_scale_.data(), &input_scale, input_scale_.bytes(), stream);
  const float upper_bound = weight.input_scale_ub.value_or(0);
  copy_to_device(input_scale_ub_.data(), &upper_bound, input_scale_ub_.bytes(), stream);
  // Fused kernels read weights before they wait for what was queued before them (programmatic dependent
  // launch), so the next launch, on whatever stream, must find them complete. The caller may free `weight`
  // then, too.
  synchronize(stream);
}

PlacedWeight CudaWeight::view(const LinearConfig& config) const {
  PlacedWeight placed;
  placed.config = config;
  placed.layout = layout_;
  placed.data = data_.data();
  placed.scale = scale_.data();
  if (is_float8(scheme_.weight.dtype)) placed.grid = scale_grid(scheme_.weight.group, n_, k_);
  placed.finite_codes = true;
  placed.bias = static_cast<const float*>(bias_.data());
  placed.input_scale = static_cast<const float*>(input_scale_.data());
  placed.input_scale_ub = static_cast<const float*>(input_scale_ub_.data());
  placed.max_scale = static_cast<const float*>(max_scale_.data());
  return placed;
}

HostTensor CudaWeight::dequantize(int64_t row_begin, int64_t row_end) const {
  const DeviceGuard guard(device_);
  return dequantize_fetched(scheme_, {n_, k_}, scale_on_host(), row_begin, row_end,
                            [&](int64_t first, int64_t last, std::byte* to) { fetch(first, last, to); });
}

Fp8Weight CudaWeight::stored() const {
  const DeviceGuard guard(device_);
  Fp8Weight weight;
  weight.scheme = scheme_;
  weight.data = HostTensor::allocate(scheme_.weight.dtype, {n_, k_});
  const auto rows_a_piece = static_cast<int64_t>(std::max<size_t>(1, kPieceBytes / row_bytes_));
  for (int64_t row = 0; row < n_; row += rows_a_piece) {
    fetch(row, std::min(row + rows_a_piece, n_),
          weight.data.mutable_data() + static_cast<size_t>(row) * row_bytes_);
  }
  weight.scale = scale_on_host();
  if (bias_.bytes() > 0) {
    weight.bias = HostTensor::allocate(DType::kF32, {n_});
    copy_to_host(weight.bias.mutable_data(), bias_.data(), bias_.bytes(), {});
  }
  if (input_scale_.bytes() > 0) {
    float value = 0;
    copy_to_host(&value, input_scale_.data(), sizeof(value), {});
    weight.input_scale = value;
  }
  weight.input_scale_ub = upper_bound_;
  return weight;
}

void CudaWeight::fetch(int64_t first, int64_t last, std::byte* to) const {
  const auto rows = static_cast<size_t>(last - first);
  const auto* from = static_cast<const std::byte*>(data_.data()) + static_cast<size_t>(first) * pitch_;
  if (layout_ == Layout::kRowMajor) return copy_to_host(to, from, rows * row_bytes_, {});
  std::vector<uint8_t> shuffled(rows * pitch_);
  copy_to_host(shuffled.data(), from, shuffled.size(), {});
  for (size_t row = 0; row < rows; ++row) {
    unshuffle_row(shuffled.data() + row * pitch_, reinterpret_cast<uint8_t*>(to) + row * row_bytes_, k_);
  }
}

HostTensor CudaWeight::scale_on_host() const {
  if (scale_.bytes() == 0) return {};
  const Grid grid = scale_grid(scheme_.weight.group, n_, k_);
  HostTensor scale = HostTensor::allocate(scheme_.weight.scale_dtype, {grid.rows, grid.cols});
  copy_to_host(scale.mutable_data(), scale_.data(), scale_.bytes(), {});
  return scale;
}

size_t CudaWeight::resident_bytes() const noexcept {
  return data_.bytes() + scale_.bytes() + max_scale_.bytes() + bias_.bytes() + input_scale_.bytes() +
         input_scale_ub_.bytes();
}

}  // namespace anyfp8
