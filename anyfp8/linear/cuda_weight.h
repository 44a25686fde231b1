#pragma once

#include <cstddef>
#include <optional>

#include "anyfp8/device/device_memory.h"
#include "anyfp8/linear/weight_store.h"

namespace anyfp8 {

// A weight in the memory of a CUDA device. Rows go straight to where they stay and are shuffled there, so
// that loading needs no device memory beside the weight; the pages of a mapped file are given back on the
// way. In CUDA builds alone.
//   data         [n, shuffled_pitch(k)] k64_shuffled if 8-bit;
//                [n, k] row-major if wider, or for a kernel that wants it so
//   scale        [grid.rows, grid.cols] as given: f32, or e8m0 codes
//   max_scale    f32, the largest of these
//   bias         [n] f32
//   input_scale, input_scale_ub   f32 each, where the weight has them
class CudaWeight final : public WeightStore {
 public:
  static bool can_hold(Layout layout) noexcept {
    return layout == Layout::kRowMajor || layout == Layout::kK64Shuffled;
  }

  CudaWeight(const Device& device, const Fp8Weight& weight, Layout layout, Stream stream);

  // Into the same addresses, which captured graphs know; done when it returns. Work that reads the old values
  // must be on `stream`, or done.
  void replace(Fp8Weight weight, Stream stream) override;
  PlacedWeight view(const LinearConfig& config) const override;
  HostTensor dequantize(int64_t row_begin, int64_t row_end) const override;
  Fp8Weight stored() const override;
  size_t resident_bytes() const noexcept override;

 private:
  void fill(const Fp8Weight& weight, Stream stream);
  // Rows [first, last) as row-major codes, and the whole grid of scales (not defined() without), in host
  // memory.
  void fetch(int64_t first, int64_t last, std::byte* to) const;
  HostTensor scale_on_host() const;

  Device device_;
  Layout layout_;
  std::optional<float> upper_bound_;  // input_scale_ub
  QuantScheme scheme_;
  int64_t n_, k_;
  size_t row_bytes_, pitch_;  // of data
  DeviceMemory data_, scale_, max_scale_, bias_, input_scale_, input_scale_ub_;
};

}  // namespace anyfp8
