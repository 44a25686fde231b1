#pragma once

#include <string_view>

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

// The table of such a kernel.
constexpr Kernel cpu_w8a16_kernel(std::string_view name, std::string_view summary,
                                  Verdict (*supports)(const Device&)) {
  return {.name = name,
          .summary = summary,
          .device = DeviceKind::kCpu,
          .layout = Layout::kPanel64,
          .weight_dtypes = kCpuWeightDtypes,
          .weight_groups = kCpuGroups,
          .scale_dtypes = kCpuScaleDtypes,
          .in_dtypes = kCpuInOutDtypes,
          .out_dtypes = kCpuInOutDtypes,
          .activation = ActivationUse::kAsGiven,
          .batch_invariant = true,
          .supports = supports,
          .tokens = [](const LinearConfig&, const Device&) { return TokenRange{}; }};
}

// And its two functions, where the build has them.
template <const CpuW8A16& isa>
constexpr void run_with(Kernel& kernel) {
  kernel.workspace_bytes = [](const LinearConfig& config, const Device& device, int64_t m) {
    return cpu_w8a16_workspace_bytes(isa, config, device, m);
  };
  kernel.apply = [](const PlacedWeight& weight, const TensorView& x, const TensorView& y, Scratch scratch,
                    Stream) { apply_cpu_w8a16(isa, weight, x, y, scratch); };
}

}  // namespace anyfp8
