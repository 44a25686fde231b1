#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/cpu_w8a16.h"
#include "anyfp8/kernels/common/fp8_tables.h"
#include "anyfp8/kernels/common/target_region.h"
#include "anyfp8/kernels/kernel_list.h"

#if defined(__x86_64__)
#include <immintrin.h>

ANYFP8_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")
namespace anyfp8 {
namespace {

#include "anyfp8/kernels/common/simd_avx512.inc"
#include "anyfp8/kernels/common/simd_vbmi.inc"

struct Simd : SimdAvx512 {
  template <DType D>
  using Decoder = DecoderVbmi<D>;
};

// A row is a pair of k. vdpbf16ps adds the products of a pair to fp32 sums and takes subnormals of either
// side for zero; no FP8 value is a subnormal of bf16.
struct DotOp {
  using X = uint32_t;
  using W = Simd::I;
  static constexpr int kUnits = 2;
  template <class Decoder>
  static void decode(const Decoder& decoder, const uint8_t* codes, W (&w)[kUnits]) {
    decoder(codes, w[0], w[1]);
  }
  static W broadcast(const X* x) { return _mm512_set1_epi32(static_cast<int>(*x)); }
  static Simd::F multiply_add(W w, W x, Simd::F sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
  }
  static Simd::F unscaled(Simd::F sum, const PanelTask&) { return sum; }

  // Decoding takes other units than the products, so it is nearly free where its instructions stand between
  // them, see Woven. With that a buffer for decoded codes gains nothing at any m.
  static constexpr int kDirectTile = 16;
  static constexpr int64_t kDirectRows = INT64_MAX;
  static constexpr int direct_vectors(int rows) { return rows <= 4 ? 4 : rows <= 10 ? 2 : 1; }
  static constexpr int kKeepRows = 4;
  static constexpr int together(int rows) { return direct_vectors(rows); }
  static constexpr int kBufferTile = 0;
  // With 5 rows the compiler's order is the faster one, by 5 %.
  static constexpr bool is_woven(int rows) { return rows == 4 || rows >= 6; }

  // Zen 4 runs products on two units and permutes on one of these two and a third; which one, it decides
  // early. The orders below, found by trying, let it decide well: with codes in the L2 cache 4, 8 and 16 rows
  // get 99 % of the peak, where the compiler's order gives 88, 95 and 95, and 16 rows with scales for each
  // 128 of k 98. As x is read by the products themselves there are also fewest instructions, 45 for 32
  // products in the tile of 16 rows, which counts while the core's other hardware thread is busy.
  static Simd::F multiply_add_in_order(W w, const X* x, Simd::F sum) {
    asm volatile("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*x));
    return sum;
  }
  // While a block is multiplied, the bytes of the next one are brought together where it was, and those of
  // the one after that looked up: each product then finds its block ready.
  template <DType D>
  struct Woven {
    const DecoderVbmi<D>& decoder;
    W (&w)[kUnits];                  // the block that is multiplied
    W low, high;                     // the next one
    W codes, codes_low, codes_high;  // the one after that

    Woven(const DecoderVbmi<D>& with, const uint8_t* first, const uint8_t* second, W (&to)[kUnits])
        : decoder(with), w(to) {
      decoder(first, w[0], w[1]);
      decoder.look_up(second, low, high);
    }

    // The products that these stand before, of 2 * rows; behind product `rows` the first unit of w is free.
    struct Places {
      int low, high, sign, first_unit;
    };
    static constexpr Places places(int rows) {
      if (rows <= 4) return {rows + 1, rows + 3, rows + 3, rows + 1};
      if (rows <= 10) return {0, 3, 5, rows + 3};
      return {rows, rows + 1, rows + 1, rows + 1};
    }
    // What stands before product `i`, `third` being the block after the next one.
    template <int kRows>
    [[gnu::always_inline]] void before(int i, const uint8_t* third) {
      constexpr Places kAt = places(kRows);
      if (i == 0) {
        asm volatile("vmovdqu64 %1, %0" : "=v"(codes) : "m"(*reinterpret_cast<const W*>(third)));
        codes_low = codes_high = codes;
      }
      if (i == kAt.low) {
        asm volatile("vpermi2b %2, %1, %0" : "+v"(codes_low) : "v"(decoder.low0), "v"(decoder.low1));
      }
      if (i == kAt.high) {
        asm volatile("vpermi2b %2, %1, %0" : "+v"(codes_high) : "v"(decoder.high0), "v"(decoder.high1));
      }
      if (i == kAt.sign) {
        asm volatile("vpternlogd $0xf8, %2, %1, %0" : "+v"(codes_high) : "v"(codes), "v"(decoder.sign));
      }
      if (i == kAt.first_unit) asm volatile("vpunpcklbw %2, %1, %0" : "+v"(w[0]) : "v"(low), "v"(high));
      if (i == 2 * kRows) {
        asm volatile("vpunpckhbw %2, %1, %0" : "+v"(w[1]) : "v"(low), "v"(high));
        low = codes_low;
        high = codes_high;
      }
    }
  };
};

// fp32: 6 x 4 sums and 5 registers for the decoder. A tile of 6 tokens has products enough to hide it.
struct FmaTiles {
  static constexpr int kDirectTile = 6;
  static constexpr int64_t kDirectRows = 48;
  static constexpr int direct_vectors(int) { return 4; }
  static constexpr int kKeepRows = 2;
  static constexpr int together(int rows) { return rows <= 2 ? 4 : 1; }
  static constexpr int kBufferTile = 6;
  static constexpr int kBufferVectors = 4;
  static constexpr int kFirstVectors = 2;
};

#include "anyfp8/kernels/common/panel_tile.inc"
#include "anyfp8/kernels/common/row_dot_tile.inc"

}  // namespace
}  // namespace anyfp8
ANYFP8_TARGET_END
#endif

namespace anyfp8 {
namespace {

#if defined(__x86_64__)
constexpr CpuW8A16 kIsa{.panels = {.dot = &kMathOf<DotOp>,
                                   .fma = &kMathOf<FmaOp<FmaTiles>>,
                                   .widen = widen,
                                   .widen_e8m0 = widen_e8m0,
                                   .spread = spread,
                                   .epilogue = epilogue},
                        .rows = {.dot = dot, .widen = widen}};
#endif

constexpr Kernel table() {
  Kernel kernel = cpu_w8a16_kernel(
      "cpu_avx512_bf16_w8a16", "AVX-512 with VBMI and BF16: dot products of bf16 pairs (fp32: multiply-add)",
      [](const Device& device) {
        ANYFP8_NEED(device.isa.avx512_vbmi && device.isa.avx512_bf16,
                    "needs AVX-512 with VBMI and BF16; this CPU has {}", isa_text(device.isa));
        return Verdict::yes();
      });
#if defined(__x86_64__)
  run_with<kIsa>(kernel);
#endif
  return kernel;
}

}  // namespace

constinit const Kernel cpu_avx512_bf16_w8a16 = table();

}  // namespace anyfp8
