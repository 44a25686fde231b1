#pragma once

#include "anyfp8/kernels/common/panel_gemm.h"
#include "anyfp8/kernels/common/row_dot.h"
#include "anyfp8/kernels/kernel.h"

// What the vector kernels of CPUs have in common: 8-bit weights lie in panels, wider ones row-major.
namespace anyfp8 {

struct CpuW8A16 {
  PanelIsa panels;
  RowDotIsa rows;
};

void apply_cpu_w8a16(const CpuW8A16& isa, const PlacedWeight& weight, const TensorView& x,
                     const TensorView& y, Scratch scratch);
size_t cpu_w8a16_workspace_bytes(const CpuW8A16& isa, const LinearConfig& config, const Device& device,
                                 int64_t m);

inline constexpr DType kCpuWeightDtypes[] = {DType::kE4M3, DType::kE5M2, DType::kBF16, DType::kF16,
                                             DType::kF32};
inline constexpr Group kCpuGroups[] = {{kAnyExtent, kAnyExtent}};
inline constexpr DType kCpuScaleDtypes[] = {DType::kF32, DType::kE8M0};
inline constexpr DType kCpuInOutDtypes[] = {DType::kF32, DType::kBF16, DType::kF16};

// The table of such a kernel; the caller adds name, summary, supports, and the two functions if built.
constexpr Kernel cpu_w8a16_kernel() {
  return {.device = DeviceKind::kCpu,
          .layout = Layout::kPanel64,
          .weight_dtypes = kCpuWeightDtypes,
          .weight_groups = kCpuGroups,
          .scale_dtypes = kCpuScaleDtypes,
          .in_dtypes = kCpuInOutDtypes,
          .out_dtypes = kCpuInOutDtypes,
          .activation = ActivationUse::kAsGiven,
          .batch_invariant = true,
          .tokens = [](const LinearConfig&, const Device&) { return TokenRange{}; }};
}

}  // namespace anyfp8
