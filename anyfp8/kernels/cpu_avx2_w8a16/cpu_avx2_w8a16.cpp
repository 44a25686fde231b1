#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/target_region.h"
#include "anyfp8/kernels/common/w8a16_dot.h"
#include "anyfp8/kernels/kernel_list.h"

#if defined(__x86_64__)
#include <immintrin.h>

ANYFP8_TARGET_BEGIN("avx2,fma,f16c")
namespace anyfp8 {
namespace {

struct Simd {
  using F = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kTileTokens = 3;  // 12 accumulators, 3 of x, 1 of the weight: 16 of 16 registers
  static constexpr int kDirectTokens = 3;

  static F zero() { return _mm256_setzero_ps(); }
  static F broadcast(float value) { return _mm256_set1_ps(value); }
  static F load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, F value) { _mm256_storeu_ps(to, value); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }

  template <DType D>
  static F decode(const void* from) {
    if constexpr (D == DType::kE4M3) {
      // s eeee mmm becomes the fp16 s 0eeee mmm0000000: value * 2^-8 with e4m3 subnormals as fp16 subnormals,
      // which the conversion keeps whatever MXCSR says.
      const __m128i wide = _mm_cvtepi8_epi16(_mm_loadu_si64(from));
      return _mm256_cvtph_ps(
          _mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(static_cast<short>(0xBF80))));
    } else if constexpr (D == DType::kE5M2) {
      return _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(_mm_loadu_si64(from)), 8));
    } else if constexpr (D == DType::kBF16) {
      const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from)));
      return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    } else if constexpr (D == DType::kF16) {
      return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(from)));
    } else {
      return _mm256_loadu_ps(static_cast<const float*>(from));
    }
  }

  static void sum_rows(F a, F b, F c, F d, float* out) {
    const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
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
  ANYFP8_NEED(device.isa.avx2, "needs AVX2, FMA and F16C; this CPU has {}", isa_text(device.isa));
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

constinit const Kernel cpu_avx2_w8a16{
    .name = "cpu_avx2_w8a16",
    .summary = "fp32 dot products on AVX2, weights decoded in registers",
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
