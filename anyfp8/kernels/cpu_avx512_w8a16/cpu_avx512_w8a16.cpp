#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/target_region.h"
#include "anyfp8/kernels/common/w8a16_dot.h"
#include "anyfp8/kernels/kernel_list.h"

#if defined(__x86_64__)
#include <immintrin.h>

// GCC 12 takes the deliberately undefined operand inside its own AVX-512 intrinsics for a mistake (GCC bug
// 105593).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

ANYFP8_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
namespace anyfp8 {
namespace {

struct Simd {
  using F = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kTileTokens = 6;  // 24 accumulators, 6 of x, 1 of the weight: 31 of 32 registers
  static constexpr int kDirectTokens = 6;

  static F zero() { return _mm512_setzero_ps(); }
  static F broadcast(float value) { return _mm512_set1_ps(value); }
  static F load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, F value) { _mm512_storeu_ps(to, value); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }

  template <DType D>
  static F decode(const void* from) {
    if constexpr (D == DType::kE4M3) {
      // s eeee mmm becomes the fp16 s 0eeee mmm0000000: value * 2^-8 with e4m3 subnormals as fp16 subnormals,
      // which the conversion keeps whatever MXCSR says.
      const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(from)));
      return _mm512_cvtph_ps(
          _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(static_cast<short>(0xBF80))));
    } else if constexpr (D == DType::kE5M2) {
      const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(from)));
      return _mm512_cvtph_ps(_mm256_slli_epi16(wide, 8));
    } else if constexpr (D == DType::kBF16) {
      const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(from)));
      return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
    } else if constexpr (D == DType::kF16) {
      return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(from)));
    } else {
      return _mm512_loadu_ps(from);
    }
  }

  static __m256 fold(F value) {
    return _mm256_add_ps(_mm512_castps512_ps256(value), _mm512_extractf32x8_ps(value, 1));
  }
  static void sum_rows(F a, F b, F c, F d, float* out) {
    const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(fold(a), fold(b)), _mm256_hadd_ps(fold(c), fold(d)));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
  }
};

#include "anyfp8/kernels/common/w8a16_dot_tile.inc"

}  // namespace
}  // namespace anyfp8
ANYFP8_TARGET_END
#endif

namespace anyfp8 {
namespace {

Verdict supports(const Device& device) {
  ANYFP8_NEED(device.isa.avx512, "needs AVX-512 F, BW, DQ and VL; this CPU has {}", isa_text(device.isa));
  return Verdict::yes();
}

#if defined(__x86_64__)
void apply(const PlacedWeight& weight, const TensorView& x, const TensorView& y, Scratch scratch, Stream) {
  apply_dot({.dot = dot, .widen = widen}, weight, x, y, scratch);
}
#else
constexpr void (*apply)(const PlacedWeight&, const TensorView&, const TensorView&, Scratch, Stream) = nullptr;
#endif

}  // namespace

constinit const Kernel cpu_avx512_w8a16{
    .name = "cpu_avx512_w8a16",
    .summary = "fp32 dot products on AVX-512, weights decoded in registers",
    .device = DeviceKind::kCpu,
    .layout = Layout::kRowMajor,
    .weight_dtypes = kDotWeightDtypes,
    .weight_groups = kDotGroups,
    .scale_dtypes = kDotScaleDtypes,
    .in_dtypes = kDotInOutDtypes,
    .out_dtypes = kDotInOutDtypes,
    .activation = ActivationUse::kAsGiven,
    .batch_invariant = true,
    .supports = supports,
    .tokens = [](const LinearConfig&, const Device&) { return TokenRange{}; },
    .workspace_bytes = dot_workspace_bytes,
    .apply = apply,
};

}  // namespace anyfp8
