#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/cpu_w8a16.h"
#include "anyfp8/kernels/common/fp8_tables.h"
#include "anyfp8/kernels/common/target_region.h"
#include "anyfp8/kernels/kernel_list.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#if defined(__clang__)
ANYFP8_TARGET_BEGIN("bf16")
#else
ANYFP8_TARGET_BEGIN("+bf16")
#endif
namespace anyfp8 {
namespace {

#include "anyfp8/kernels/common/simd_neon.inc"

// A row is a pair of k. Without FEAT_EBF16 turned on, bfdot adds the two products, then their sum to the
// fp32 sum, each time rounded to odd: an error of up to one unit in the last place, to either side, where
// fp32 multiply-add rounds to the nearest and has half of one. It takes subnormals of every operand and
// result for zero; no FP8 value is a subnormal of bf16.
struct DotOp : TilesNeon {
  using X = uint32_t;
  using W = Simd::I;
  static constexpr int kUnits = 2;
  template <class Decoder>
  static void decode(const Decoder& decoder, const uint8_t* codes, W (&w)[kUnits]) {
    decoder(codes, w[0], w[1]);
  }
  static W load(const X* from) { return vld1q_u32(from); }
  static void store(X* to, W w) { vst1q_u32(to, w); }
  // As in ByElement. The intrinsic clang before 16 offers only where the whole file is compiled for bf16.
  static W broadcast(const X* x) { return load_first<W>(x); }
  static Simd::F multiply_add(W w, W x, Simd::F sum) {
    asm volatile("bfdot %0.4s, %1.8h, %2.2h[0]" : "+w"(sum) : "w"(w), "w"(x));
    return sum;
  }
  static Simd::F unscaled(Simd::F sum, const PanelTask&) { return sum; }
};

#include "anyfp8/kernels/common/panel_tile.inc"
#include "anyfp8/kernels/common/row_dot_tile.inc"

}  // namespace
}  // namespace anyfp8
ANYFP8_TARGET_END
#endif

namespace anyfp8 {
namespace {

#if defined(__aarch64__)
constexpr CpuW8A16 kIsa{.panels = {.dot = &kMathOf<DotOp>,
                                   .fma = &kMathOf<ByElement<FmaOp<TilesNeon>>>,
                                   .widen = widen,
                                   .widen_e8m0 = widen_e8m0,
                                   .spread = spread,
                                   .epilogue = epilogue},
                        .rows = {.dot = dot, .widen = widen}};
#endif

constexpr Kernel table() {
  Kernel kernel = cpu_w8a16_kernel(
      "cpu_neon_bf16_w8a16", "NEON with BF16: dot products of bf16 pairs (fp32: multiply-add)",
      [](const Device& device) {
        ANYFP8_NEED(device.isa.neon_bf16, "needs NEON with BF16; this CPU has {}", isa_text(device.isa));
        return Verdict::yes();
      });
#if defined(__aarch64__)
  run_with<kIsa>(kernel);
#endif
  return kernel;
}

}  // namespace

constinit const Kernel cpu_neon_bf16_w8a16 = table();

}  // namespace anyfp8
