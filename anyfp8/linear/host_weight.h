#pragma once

#include <cstddef>

#include "anyfp8/base/tensor.h"
#include "anyfp8/kernels/kernel.h"
#include "anyfp8/scheme/fp8_weight.h"

namespace anyfp8 {

// A weight in host memory, in the layout that its kernels read.
//   row-major  the tensors of the Fp8Weight, shared: a mapped checkpoint stays the mapped file
//   panels     packed once; each panel's pages of a mapped file are given back when it is packed, so that
//              loading peaks at the packed weight and a panel for each thread
class HostWeight {
 public:
  static bool can_hold(Layout layout) noexcept {
    return layout == Layout::kRowMajor || layout == Layout::kPanel64;
  }

  // `weight` is row-major and passed check_weight(); a 16- or 32-bit weight stays row-major.
  HostWeight(Fp8Weight weight, Layout layout);

  // Another weight of the same shape and scheme, packed into the same memory.
  void replace(Fp8Weight weight);

  // What kernels read; valid as long as this object stays where it is and is not replaced.
  PlacedWeight view(const LinearConfig& config) const;

  // Rows [row_begin, row_end) of data * scale as f32 [rows, k].
  HostTensor dequantize(int64_t row_begin, int64_t row_end) const;

  size_t resident_bytes() const noexcept;

 private:
  void pack(const Fp8Weight& weight);

  Layout layout_;
  int64_t n_, k_;
  Fp8Weight weight_;  // row-major: all of it; panels: bias and input scale, as given
  HostTensor panels_, packed_scale_;
  HostTensor bias_;  // f32 [n], or not defined()
};

}  // namespace anyfp8
