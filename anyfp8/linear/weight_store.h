#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "anyfp8/base/tensor.h"
#include "anyfp8/device/device.h"
#include "anyfp8/kernels/kernel.h"
#include "anyfp8/scheme/fp8_weight.h"

namespace anyfp8 {

// A weight at rest on its device: what a Linear owns and its kernels read.
class WeightStore {
 public:
  WeightStore() = default;
  virtual ~WeightStore() = default;
  WeightStore(const WeightStore&) = delete;
  WeightStore& operator=(const WeightStore&) = delete;

  // Another weight of the same shape and scheme, into the same memory.
  virtual void replace(Fp8Weight weight, Stream stream) = 0;

  // What kernels read; valid as long as this object is and is not replaced.
  virtual PlacedWeight view(const LinearConfig& config) const = 0;

  // Rows [row_begin, row_end) of data * scale as f32 [rows, k] in host memory.
  virtual HostTensor dequantize(int64_t row_begin, int64_t row_end) const = 0;

  // The weight that was placed, row-major in host memory, bit for bit; the bias may have become f32.
  virtual Fp8Weight stored() const = 0;

  virtual size_t resident_bytes() const noexcept = 0;
};

// `weight` is row-major and passed check_weight(). 8-bit codes come to lie in `layout`, which a kernel of
// this device asked for; a 16- or 32-bit weight stays row-major. Error(kUnsupported) for a layout the device
// does not hold.
std::unique_ptr<WeightStore> place_weight(const Device& device, Fp8Weight weight, Layout layout,
                                          std::string_view kernel, Stream stream);

// dequantize() of a weight that lies elsewhere: `scale` is the whole grid of the [n, k] weight (not defined()
// without scales), and fetch(first, last, to) writes rows [first, last) as row-major codes to `to`.
using FetchRows = std::function<void(int64_t first, int64_t last, std::byte* to)>;
HostTensor dequantize_fetched(const QuantScheme& scheme, Grid shape, const HostTensor& scale,
                              int64_t row_begin, int64_t row_end, const FetchRows& fetch);

}  // namespace anyfp8
