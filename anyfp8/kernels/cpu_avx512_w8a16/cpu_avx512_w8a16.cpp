#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/cpu_w8a16.h"
#include "anyfp8/kernels/common/fp8_tables.h"
#include "anyfp8/kernels/common/target_region.h"
#include "anyfp8/kernels/kernel_list.h"

#if defined(__x86_64__)
#include <immintrin.h>

ANYFP8_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
namespace anyfp8 {
namespace {

#include "anyfp8/kernels/common/simd_avx512.inc"

struct Simd : SimdAvx512 {
  // 13 instructions for 64 codes, see Fp8Shuffle.
  template <DType D>
  struct Decoder {
    using Code = Fp8Shuffle<D>;
    const I base, wrong_high, wrong_low;
    Decoder()
        : base(table(kFp8Shuffle<D>.base)),
          wrong_high(table(kFp8Shuffle<D>.wrong_high)),
          wrong_low(table(kFp8Shuffle<D>.wrong_low)) {}

    static I table(const uint8_t (&bytes)[16]) {
      return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
    }
    static I all(int byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }

    void operator()(const uint8_t* codes, I& k01, I& k23) const {
      const I c = _mm512_loadu_si512(codes);
      // Saturation leaves the first 16 places as they are, and sets the bit that makes a shuffle give 0 in
      // all others.
      const I place =
          _mm512_adds_epu8(_mm512_and_si512(_mm512_add_epi8(c, all(Code::kOffset)), all(0x7F)), all(0x70));
      I high = _mm512_shuffle_epi8(base, _mm512_and_si512(_mm512_srli_epi16(c, Code::kHighShift), all(0x0F)));
      high = _mm512_xor_si512(high, _mm512_shuffle_epi8(wrong_high, place));
      if constexpr (!Code::kSignInBase) {
        high = _mm512_ternarylogic_epi32(high, c, all(0x80), 0xF8);  // high | (c & 0x80)
      }
      const I low = _mm512_ternarylogic_epi32(_mm512_slli_epi16(c, Code::kLowShift), all(Code::kLowMask),
                                              _mm512_shuffle_epi8(wrong_low, place), 0x6A);  // (a & b) ^ c
      k01 = _mm512_unpacklo_epi8(low, high);
      k23 = _mm512_unpackhi_epi8(low, high);
    }
  };
};

// Of 32 registers the decoder has 9 for constants. From 5 tokens on a buffer wins: the decoder's 13
// instructions no longer hide behind the products.
struct Tiles {
  static constexpr int kDirectTile = 4;
  static constexpr int64_t kDirectRows = 4;
  static constexpr int direct_vectors(int rows) { return rows <= 2 ? 4 : 2; }
  static constexpr int kKeepRows = 2;
  static constexpr int together(int) { return 1; }
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
constexpr CpuW8A16 kIsa{.panels = {.dot = nullptr,
                                   .fma = &kMathOf<FmaOp<Tiles>>,
                                   .widen = widen,
                                   .widen_e8m0 = widen_e8m0,
                                   .spread = spread,
                                   .epilogue = epilogue},
                        .rows = {.dot = dot, .widen = widen}};
#endif

constexpr Kernel table() {
  Kernel kernel = cpu_w8a16_kernel(
      "cpu_avx512_w8a16", "AVX-512: fp32 multiply-add, weights decoded in registers or to the L2 cache",
      [](const Device& device) {
        ANYFP8_NEED(device.isa.avx512, "needs AVX-512 F, BW, DQ and VL; this CPU has {}",
                    isa_text(device.isa));
        return Verdict::yes();
      });
#if defined(__x86_64__)
  run_with<kIsa>(kernel);
#endif
  return kernel;
}

}  // namespace

constinit const Kernel cpu_avx512_w8a16 = table();

}  // namespace anyfp8
