#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/cpu_w8a16.h"
#include "anyfp8/kernels/common/fp8_tables.h"
#include "anyfp8/kernels/common/target_region.h"
#include "anyfp8/kernels/kernel_list.h"

#if defined(__x86_64__)
#include <immintrin.h>

ANYFP8_TARGET_BEGIN("avx2,fma,f16c")
namespace anyfp8 {
namespace {

struct Simd {
  using F = __m256;
  using I = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kTileTokens = 3;  // 12 accumulators, 3 of x, 1 of the weight: 16 of 16 registers
  static constexpr int kDirectTokens = 3;

  static F zero() { return _mm256_setzero_ps(); }
  static F broadcast(float value) { return _mm256_set1_ps(value); }
  static F load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, F value) { _mm256_storeu_ps(to, value); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F low(I pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
  static F high(I pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xFFFF0000))));
  }

  static F e8m0(const uint8_t* from) {
    const I codes = _mm256_cvtepu8_epi32(_mm_loadu_si64(from));
    // Code 0 is 2^-127, the subnormal with its highest bit, and 255 is NaN; both are the shifted code with
    // the bit below the exponent set.
    const I ends = _mm256_or_si256(_mm256_cmpeq_epi32(codes, _mm256_setzero_si256()),
                                   _mm256_cmpeq_epi32(codes, _mm256_set1_epi32(255)));
    return _mm256_castsi256_ps(
        _mm256_or_si256(_mm256_slli_epi32(codes, 23), _mm256_and_si256(ends, _mm256_set1_epi32(0x00400000))));
  }

  template <DType D>
  static F widen(const void* from) {
    if constexpr (D == DType::kBF16) {
      const I wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from)));
      return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    } else if constexpr (D == DType::kF16) {
      return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(from)));
    } else {
      return _mm256_loadu_ps(static_cast<const float*>(from));
    }
  }

  template <DType D>
  static void store_as(void* to, F value) {
    if constexpr (D == DType::kBF16) {
      const I bits = _mm256_castps_si256(value);
      const I odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
      const I rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
      const I quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
      const I nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
      const I upper = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
      const I packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(upper, upper), 0x08);
      _mm_storeu_si128(static_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
    } else if constexpr (D == DType::kF16) {
      _mm_storeu_si128(static_cast<__m128i*>(to), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
    } else {
      _mm256_storeu_ps(static_cast<float*>(to), value);
    }
  }

  static void sum_rows(F a, F b, F c, F d, float* out) {
    const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
  }

  // 15 instructions for 32 codes, see Fp8Shuffle.
  template <DType D>
  struct Decoder {
    using Code = Fp8Shuffle<D>;
    const I base, wrong_high, wrong_low;
    Decoder()
        : base(table(kFp8Shuffle<D>.base)),
          wrong_high(table(kFp8Shuffle<D>.wrong_high)),
          wrong_low(table(kFp8Shuffle<D>.wrong_low)) {}

    static I table(const uint8_t (&bytes)[16]) {
      return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
    }
    static I all(int byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }

    void operator()(const uint8_t* codes, I& k01, I& k23) const {
      const I c = _mm256_loadu_si256(reinterpret_cast<const I*>(codes));
      // Saturation leaves the first 16 places as they are, and sets the bit that makes a shuffle give 0 in
      // all others.
      const I place =
          _mm256_adds_epu8(_mm256_and_si256(_mm256_add_epi8(c, all(Code::kOffset)), all(0x7F)), all(0x70));
      I high = _mm256_shuffle_epi8(base, _mm256_and_si256(_mm256_srli_epi16(c, Code::kHighShift), all(0x0F)));
      high = _mm256_xor_si256(high, _mm256_shuffle_epi8(wrong_high, place));
      if constexpr (!Code::kSignInBase) high = _mm256_or_si256(high, _mm256_and_si256(c, all(0x80)));
      const I low =
          _mm256_xor_si256(_mm256_and_si256(_mm256_slli_epi16(c, Code::kLowShift), all(Code::kLowMask)),
                           _mm256_shuffle_epi8(wrong_low, place));
      k01 = _mm256_unpacklo_epi8(low, high);
      k23 = _mm256_unpackhi_epi8(low, high);
    }
  };
};

// With 16 registers: 4 sums while decoding, 8 from a buffer (12 are as fast and do not fit in each compiler).
struct Tiles {
  static constexpr int kDirectTile = 2;
  static constexpr int64_t kDirectRows = 2;
  static constexpr int direct_vectors(int rows) { return rows == 1 ? 4 : 2; }
  static constexpr int kKeepRows = 0;
  static constexpr int together(int) { return 1; }
  static constexpr int kBufferTile = 4;
  static constexpr int kBufferVectors = 2;
  static constexpr int kFirstVectors = 0;
};

#include "anyfp8/kernels/common/panel_tile.inc"

// One token, e4m3, where subnormal operands cost nothing: a code, shifted so that its exponent and mantissa
// lie where those of an fp32 do, is value * 2^-120, subnormals of e4m3 being subnormals of fp32. 8
// instructions and 4 multiply-adds for 32 codes, against 18 and 4: 33 GB/s of a Zen 4 core, against 16. NaN
// would become 480.
struct ShiftOp : FmaOp<Tiles> {
  static constexpr int kDirectTile = 1;
  static constexpr int direct_vectors(int) { return 8; }
  static constexpr int kBufferTile = 0;

  // A step, two blocks at a time, which share what is read of x: 6 registers beside 8 sums and 2 constants.
  // In an order that was found by trying: the compiler's, of a block at a time, gets 31 GB/s, and 12
  // operations on 4 units cannot exceed 39.
  static void multiply_step(const uint8_t* codes, const uint8_t* ahead, const X* x, Simd::F (&sum)[8]) {
    using Block = const __m256i;
    const __m256i sixteen = _mm256_set1_epi16(16), zero = _mm256_setzero_si256();
    ANYFP8_UNROLL
    for (int v = 0; v < 8; v += 2, codes += 64, ahead += 64) {
      __m256i a, b, a_even, b_even, words, value;  // words: k1 << 8 | k0
      asm volatile(
          "vmovdqu %[codes_a], %[a]\n"
          "vmovdqu %[codes_b], %[b]\n"
          // 16 * k0 with its sign, by a unit that has nothing else to do, where two shifts would wait.
          "vpmaddubsw %[a], %[sixteen], %[a_even]\n"
          "vpmaddubsw %[b], %[sixteen], %[b_even]\n"
          "vpand %[bits], %[b_even], %[b_even]\n"
          "vpand %[bits], %[a_even], %[a_even]\n"
          "vpunpcklwd %[a_even], %[zero], %[words]\n"
          "vbroadcastss %[x0], %[value]\n"
          "vfmadd231ps %[words], %[value], %[sum_a]\n"
          "vpunpcklwd %[b_even], %[zero], %[words]\n"
          "vpsraw $4, %[b], %[b]\n"
          "vpand %[bits], %[b], %[b]\n"
          "vpsraw $4, %[a], %[a]\n"
          "vfmadd231ps %[words], %[value], %[sum_b]\n"
          "vpand %[bits], %[a], %[a]\n"
          "vbroadcastss %[x1], %[value]\n"
          "vpunpckhwd %[b_even], %[zero], %[b_even]\n"
          "vpunpcklwd %[a], %[zero], %[words]\n"
          "vfmadd231ps %[words], %[value], %[sum_a]\n"
          "prefetcht1 %[ahead]\n"
          "vpunpcklwd %[b], %[zero], %[words]\n"
          "vfmadd231ps %[words], %[value], %[sum_b]\n"
          "vbroadcastss %[x2], %[value]\n"
          "vpunpckhwd %[a_even], %[zero], %[a_even]\n"
          "vpunpckhwd %[b], %[zero], %[b]\n"
          "vbroadcastss %[x3], %[words]\n"
          "vpunpckhwd %[a], %[zero], %[a]\n"
          "vfmadd231ps %[b_even], %[value], %[sum_b]\n"
          "vfmadd231ps %[a_even], %[value], %[sum_a]\n"
          "vfmadd231ps %[b], %[words], %[sum_b]\n"
          "vfmadd231ps %[a], %[words], %[sum_a]\n"
          : [sum_a] "+&x"(sum[v]), [sum_b] "+&x"(sum[v + 1]), [a] "=&x"(a), [b] "=&x"(b),
            [a_even] "=&x"(a_even), [b_even] "=&x"(b_even), [words] "=&x"(words), [value] "=&x"(value)
          : [codes_a] "m"(*reinterpret_cast<Block*>(codes)),
            [codes_b] "m"(*reinterpret_cast<Block*>(codes + 32)), [ahead] "m"(*ahead), [bits] "m"(kBits),
            [sixteen] "x"(sixteen), [zero] "x"(zero), [x0] "m"(x[0]), [x1] "m"(x[1]), [x2] "m"(x[2]),
            [x3] "m"(x[3]));
    }
  }
  static Simd::F unscaled(Simd::F sum, const PanelTask& task) {
    const Simd::F half = _mm256_mul_ps(sum, Simd::broadcast(task.sum_factor[0]));
    return _mm256_mul_ps(half, Simd::broadcast(task.sum_factor[1]));
  }

 private:
  static constexpr uint32_t kTwice = 0x87F087F0;  // sign, exponent and mantissa of two words
  alignas(32) static constexpr uint32_t kBits[8] = {kTwice, kTwice, kTwice, kTwice,
                                                    kTwice, kTwice, kTwice, kTwice};
};

#include "anyfp8/kernels/common/row_dot_tile.inc"

}  // namespace
}  // namespace anyfp8
ANYFP8_TARGET_END
#endif

namespace anyfp8 {
namespace {

#if defined(__x86_64__)
// On AMD since Zen. Intel CPUs take a microcode assist of about 150 cycles for such an operand.
bool subnormals_are_free() {
  static const bool amd = __builtin_cpu_is("amd") != 0;
  return amd;
}

constexpr CpuW8A16 kIsa{.panels = {.dot = nullptr,
                                   .fma = &kMathOf<FmaOp<Tiles>>,
                                   .shifted = &kMathOf<ShiftOp>,
                                   .use_shifted = subnormals_are_free,
                                   .widen = widen,
                                   .widen_e8m0 = widen_e8m0,
                                   .spread = spread,
                                   .epilogue = epilogue},
                        .rows = {.dot = dot, .widen = widen}};
#endif

constexpr Kernel table() {
  Kernel kernel = cpu_w8a16_kernel(
      "cpu_avx2_w8a16", "AVX2: fp32 multiply-add, weights decoded in registers or to the L2 cache",
      [](const Device& device) {
        ANYFP8_NEED(device.isa.avx2, "needs AVX2, FMA and F16C; this CPU has {}", isa_text(device.isa));
        return Verdict::yes();
      });
#if defined(__x86_64__)
  run_with<kIsa>(kernel);
#endif
  return kernel;
}

}  // namespace

constinit const Kernel cpu_avx2_w8a16 = table();

}  // namespace anyfp8
