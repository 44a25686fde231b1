#include "anyfp8/kernels/common/cpu_w8a16.h"

namespace anyfp8 {

void apply_cpu_w8a16(const CpuW8A16& isa, const PlacedWeight& weight, const TensorView& x,
                     const TensorView& y, Scratch scratch) {
  if (is_float8(weight.config.scheme.weight.dtype)) return apply_panels(isa.panels, weight, x, y, scratch);
  apply_row_dot(isa.rows, weight, x, y, scratch);
}

size_t cpu_w8a16_workspace_bytes(const CpuW8A16& isa, const LinearConfig& config, const Device& device,
                                 int64_t m) {
  if (is_float8(config.scheme.weight.dtype)) return panel_workspace_bytes(isa.panels, config, device, m);
  return row_dot_workspace_bytes(config, m);
}

}  // namespace anyfp8
