#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/cpu_w8a16.h"
#include "anyfp8/kernels/common/fp8_tables.h"
#include "anyfp8/kernels/common/target_region.h"
#include "anyfp8/kernels/kernel_list.h"

#if defined(__aarch64__)
#include <arm_neon.h>

// NEON is part of the oldest 64-bit Arm, so there is no target region.
namespace anyfp8 {
namespace {

#include "anyfp8/kernels/common/simd_neon.inc"

#include "anyfp8/kernels/common/panel_tile.inc"
#include "anyfp8/kernels/common/row_dot_tile.inc"

}  // namespace
}  // namespace anyfp8
#endif

namespace anyfp8 {
namespace {

#if defined(__aarch64__)
constexpr CpuW8A16 kIsa{.panels = {.dot = nullptr,
                                   .fma = &kMathOf<ByElement<FmaOp<TilesNeon>>>,
                                   .widen = widen,
                                   .widen_e8m0 = widen_e8m0,
                                   .spread = spread,
                                   .epilogue = epilogue},
                        .rows = {.dot = dot, .widen = widen}};
#endif

constexpr Kernel table() {
  Kernel kernel = cpu_w8a16_kernel(
      "cpu_neon_w8a16", "NEON: fp32 multiply-add, weights decoded in registers or to the L2 cache",
      [](const Device& device) {
        ANYFP8_NEED(device.isa.neon, "needs NEON; this CPU has {}", isa_text(device.isa));
        return Verdict::yes();
      });
#if defined(__aarch64__)
  run_with<kIsa>(kernel);
#endif
  return kernel;
}

}  // namespace

constinit const Kernel cpu_neon_w8a16 = table();

}  // namespace anyfp8
