#include "anyfp8/linear/weight_store.h"

#include <algorithm>
#include <utility>

#include "anyfp8/base/text.h"
#include "anyfp8/linear/host_weight.h"
#ifdef ANYFP8_HAVE_CUDA
#include "anyfp8/linear/cuda_weight.h"
#endif

namespace anyfp8 {

std::unique_ptr<WeightStore> place_weight(const Device& device, Fp8Weight weight, Layout layout,
                                          std::string_view kernel, Stream stream) {
  const Layout held = weight.quantized() ? layout : Layout::kRowMajor;
  if (device.kind == DeviceKind::kCpu && HostWeight::can_hold(held)) {
    return std::make_unique<HostWeight>(std::move(weight), held);
  }
#ifdef ANYFP8_HAVE_CUDA
  if (device.kind == DeviceKind::kCuda && CudaWeight::can_hold(held)) {
    return std::make_unique<CudaWeight>(device, std::move(weight), held, stream);
  }
#else
  static_cast<void>(stream);
#endif
  throw fail(ErrorCode::kUnsupported, "{} reads weights in the layout {}, which {} does not hold", kernel,
             layout_name(held), device.name);
}

HostTensor dequantize_fetched(const QuantScheme& scheme, Grid shape, const HostTensor& scale,
                              int64_t row_begin, int64_t row_end, const FetchRows& fetch) {
  const auto [n, k] = shape;
  if (row_begin < 0 || row_begin > row_end || row_end > n) {
    throw fail(ErrorCode::kInvalidArgument, "rows [{}, {}) asked for of a weight with {} rows", row_begin,
               row_end, n);
  }
  // As a row-major weight of its own, which begins where a group of rows does.
  const QuantKey& key = scheme.weight;
  const int64_t first_group = scale.defined() && key.group.rows != 0 ? row_begin / key.group.rows : 0;
  const int64_t first_row = scale.defined() && key.group.rows != 0 ? first_group * key.group.rows : row_begin;
  Fp8Weight part;
  part.scheme = scheme;
  part.data = HostTensor::allocate(key.dtype, {row_end - first_row, k});
  fetch(first_row, row_end, part.data.mutable_data());
  if (scale.defined()) {
    const Grid grid = scale_grid(key.group, std::max<int64_t>(row_end - first_row, 1), k);
    part.scale = HostTensor::borrow(
        key.scale_dtype, {grid.rows, grid.cols},
        scale.data() + first_group * grid.cols * static_cast<int64_t>(dtype_bytes(key.scale_dtype)),
        std::make_shared<HostTensor>(scale));
  }
  return anyfp8::dequantize(part, row_begin - first_row, row_end - first_row);
}

}  // namespace anyfp8
