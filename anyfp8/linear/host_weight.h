#pragma once

#include <cstddef>

#include "anyfp8/linear/weight_store.h"

namespace anyfp8 {

// A weight in host memory, in the layout that its kernels read.
//   row-major  the tensors of the Fp8Weight, shared: a mapped checkpoint stays the mapped file
//   panels     packed once; each panel's pages of a mapped file are given back when it is packed, so that
//              loading peaks at the packed weight and a panel for each thread
class HostWeight final : public WeightStore {
 public:
  static bool can_hold(Layout layout) noexcept {
    return layout == Layout::kRowMajor || layout == Layout::kPanel64;
  }

  // `weight` is row-major and passed check_weight(); a 16- or 32-bit weight stays row-major.
  HostWeight(Fp8Weight weight, Layout layout);

  void replace(Fp8Weight weight, Stream stream) override;
  PlacedWeight view(const LinearConfig& config) const override;
  HostTensor dequantize(int64_t row_begin, int64_t row_end) const override;
  Fp8Weight stored() const override;
  size_t resident_bytes() const noexcept override;

 private:
  void pack(const Fp8Weight& weight);
  void unpack(int64_t first, int64_t last, std::byte* to) const;
  HostTensor unpacked_scale() const;

  Layout layout_;
  int64_t n_, k_;
  Fp8Weight weight_;  // row-major: all of it; panels: bias and input scale, as given
  HostTensor panels_, packed_scale_;
  HostTensor bias_;  // f32 [n], or not defined()
};

}  // namespace anyfp8
