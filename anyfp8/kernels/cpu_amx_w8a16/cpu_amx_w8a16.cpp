#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/cpu_w8a16.h"
#include "anyfp8/kernels/common/fp8_tables.h"
#include "anyfp8/kernels/common/target_region.h"
#include "anyfp8/kernels/kernel_list.h"

namespace anyfp8 {
namespace {

// A tile register is 16 rows of 64 bytes. One product adds 16 tokens x 32 of k times 32 of k x 16 outputs:
//
//   x        [16 tokens][16 pairs of k]     a row of pairs is contiguous
//   weights  [16 pairs of k][16 outputs]    two rows are one decoded block of a panel, so 8 steps make a tile
//   sums     [16 tokens][16 outputs] fp32
constexpr int64_t kTileSteps = 8;
constexpr int64_t kTileK = kTileSteps * kStepK;
constexpr int64_t kTileDwords = 256;

}  // namespace
}  // namespace anyfp8

#if defined(__x86_64__)
#include <immintrin.h>

ANYFP8_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,amx-tile,amx-bf16")
namespace anyfp8 {
namespace {

#include "anyfp8/kernels/common/simd_avx512.inc"
#include "anyfp8/kernels/common/simd_vbmi.inc"

struct Simd : SimdAvx512 {
  template <DType D>
  using Decoder = DecoderVbmi<D>;
};

#include "anyfp8/kernels/common/panel_tile.inc"
#include "anyfp8/kernels/common/row_dot_tile.inc"

// tdpbf16ps takes subnormals for zero, like vdpbf16ps.
//
// Registers, whose numbers instructions hold: 0 .. 3 sums, 4 and 5 x, 6 and 7 weights.
//
//   kAcross = 2: 32 tokens x 32 outputs     kAcross = 4: up to 16 tokens x 64 outputs
//       0  1                                    0  1  2  3
//       2  3
constexpr int64_t kSumsOfTiles = 4 * kTileDwords;
constexpr int64_t kRowBytes = 64;

// What ldtilecfg reads: all 8 registers in full. It lies in memory that never changes, because GCC does not
// know that the instruction reads more than 8 bytes of it.
struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
alignas(64) constexpr TileConfig kAllTiles{};

void begin_tiles() { _tile_loadconfig(&kAllTiles); }
// Registers in use are saved and restored at each switch of threads, 8 KiB.
void end_tiles() { _tile_release(); }

// 256 of k: x of 32 tokens is 16 KiB, and so are the weights of 32 outputs. An L1 cache of 48 KiB then still
// has x for the other 32 outputs. As a segment it costs one more product per output and 256 of k.
constexpr int64_t kMostSegmentSteps = 64;

int64_t segment_end(const PanelTask& task, int64_t step) {
  const int64_t group_end = (step / task.segment_steps + 1) * task.segment_steps;
  int64_t end = step + kMostSegmentSteps;
  if (end > group_end) end = group_end;
  return end < task.steps ? end : task.steps;
}

// The order in which the weights of a chunk are taken: of a segment kAcross tiles at a time, along k; the
// same for the next outputs; the next segment.
template <int kAcross>
struct Walk {
  const PanelTask& task;
  int64_t begin = 0, end, step = 0;
  int output = 0;
  explicit Walk(const PanelTask& t) : task(t), end(segment_end(t, 0)) {}
  bool done() const { return step >= task.steps; }
  void next() {
    step += kTileSteps;
    if (step < end) return;
    output += kAcross * 16;
    step = begin;
    if (output < kPanelOutputs) return;
    output = 0;
    step = begin = end;
    if (!done()) end = segment_end(task, begin);
  }
};

// kAcross tiles of weights, one after the other: kTileSteps steps from the walk's place on, zeros behind the
// last one.
template <int kAcross, class Decoder>
void decode_tiles(const Decoder& decoder, const PanelTask& task, int64_t step, int output, uint32_t* to) {
  constexpr int64_t kAhead = 4096;
  const uint8_t* codes = task.codes + step * kStepBytes;
  const int64_t left = task.steps - step, steps = left < kTileSteps ? left : kTileSteps;
  for (int64_t s = 0; s < steps; ++s) {
    if (output == 0) {
      ANYFP8_UNROLL
      for (int line = 0; line < kStepBytes / 64; ++line) __builtin_prefetch(codes + kAhead + line * 64);
    }
    ANYFP8_UNROLL
    for (int c = 0; c < kAcross; ++c) {
      __m512i k01, k23;
      decoder(codes + (output + c * 16) * kStepK, k01, k23);
      _mm512_store_si512(to + c * kTileDwords, k01);
      _mm512_store_si512(to + c * kTileDwords + 16, k23);
    }
    codes += kStepBytes;
    to += 32;
  }
  for (int64_t s = steps; s < kTileSteps; ++s) {
    for (int c = 0; c < kAcross; ++c) {
      _mm512_store_si512(to + c * kTileDwords, _mm512_setzero_si512());
      _mm512_store_si512(to + c * kTileDwords + 16, _mm512_setzero_si512());
    }
    to += 32;
  }
}

// Weights decoded on the way, a few tiles ahead: a tile is loaded from the cache, never from stores that are
// still on their way there, so these must be given time.
template <DType D, int kAcross>
class DecodingWeights {
 public:
  explicit DecodingWeights(const PanelTask& task) : ahead_(task) {
    for (unsigned i = 1; i < kPlaces; ++i) decode_one();
  }
  const uint32_t* next(const Walk<kAcross>&) {
    decode_one();
    return tiles_[taken_++ % kPlaces];
  }
  // From the first two tiles to the other two.
  int64_t other_pair() const { return 2 * kTileDwords; }

 private:
  static constexpr unsigned kPlaces = 4;
  void decode_one() {
    if (ahead_.done()) return;
    decode_tiles<kAcross>(decoder_, ahead_.task, ahead_.step, ahead_.output, tiles_[decoded_++ % kPlaces]);
    ahead_.next();
  }
  const typename Simd::template Decoder<D> decoder_;
  Walk<kAcross> ahead_;
  unsigned decoded_ = 0, taken_ = 0;
  alignas(64) uint32_t tiles_[kPlaces][kAcross * kTileDwords];
};

// The buffer of a decoded chunk: [2 pairs of tiles][steps / kTileSteps][2 tiles], so that 32 outputs are one
// stream.
int64_t dwords_of_pair(const PanelTask& task) {
  return (task.steps + kTileSteps - 1) / kTileSteps * 2 * kTileDwords;
}

template <int kAcross>
class DecodedWeights {
 public:
  DecodedWeights(const PanelTask& task, const uint32_t* buffer)
      : buffer_(buffer), pair_(dwords_of_pair(task)) {}
  const uint32_t* next(const Walk<kAcross>& walk) const {
    return buffer_ + walk.output / 32 * pair_ + walk.step / kTileSteps * 2 * kTileDwords;
  }
  int64_t other_pair() const { return pair_; }

 private:
  const uint32_t* buffer_;
  int64_t pair_;
};

// Sums of a segment, out of the registers and not yet in the totals: [rows][kAcross * 16].
struct Pending {
  const float* sums = nullptr;
  const float* scale = nullptr;
  int64_t scale_across = 0;
  float* totals = nullptr;
  int rows = 0;
};

template <int kAcross>
void add_pending(Pending& pending, int most) {
  const int rows = pending.rows < most ? pending.rows : most;
  for (int r = 0; r < rows; ++r) {
    ANYFP8_UNROLL
    for (int v = 0; v < kAcross; ++v) {
      float* total = pending.totals + v * 16;
      const Simd::F sum = Simd::load(pending.sums + v * 16);
      const Simd::F scale = Simd::load(pending.scale + v * 16 * pending.scale_across);
      Simd::store(total, Simd::fma(sum, scale, Simd::load(total)));
    }
    pending.sums += kAcross * 16;
    pending.totals += kPanelOutputs;
  }
  pending.rows -= rows;
}

// totals += x · W of the chunk, for `rows` tokens: up to 32 for kAcross = 2, up to 16 for 4. Tokens that are
// not there have sums too, of what lies behind x; they are dropped.
template <int kAcross, class Weights>
void multiply_tiles(const PanelTask& task, Weights& weights, const uint32_t* x, int rows, float* totals) {
  alignas(64) float sums[2][kSumsOfTiles];
  Pending pending;
  int place = 0;
  for (Walk<kAcross> walk(task); !walk.done();) {
    const int64_t tiles = (walk.end - walk.begin + kTileSteps - 1) / kTileSteps;
    // The previous segment's sums, spread over this one's products: they run beside each other.
    const int share = static_cast<int>((pending.rows + tiles - 1) / tiles);
    const int output = walk.output;
    const float* scale =
        task.scale + walk.begin / task.segment_steps * task.scale_step + output * task.scale_across;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < tiles; ++i) {
      const uint32_t* x_tile = x + walk.step / kTileSteps * rows * kXBlock;
      const uint32_t* w = weights.next(walk);
      const uint32_t* w2 = w + weights.other_pair();
      asm volatile("" ::: "memory");  // GCC does not know that loading a tile reads memory,
      _tile_loadd(4, x_tile, kRowBytes);
      _tile_loadd(6, w, kRowBytes);
      _tile_loadd(7, w + kTileDwords, kRowBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (kAcross == 2) {
        _tile_loadd(5, x_tile + kTileDwords, kRowBytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      } else {
        _tile_loadd(6, w2, kRowBytes);
        _tile_loadd(7, w2 + kTileDwords, kRowBytes);
        _tile_dpbf16ps(2, 4, 6);
        _tile_dpbf16ps(3, 4, 7);
      }
      asm volatile("" ::: "memory");  // and could do the next stores to the same place before
      add_pending<kAcross>(pending, share);
      walk.next();
    }
    float* to = sums[place];
    if constexpr (kAcross == 2) {
      _tile_stored(0, to, 2 * kRowBytes);
      _tile_stored(1, to + 16, 2 * kRowBytes);
      _tile_stored(2, to + 2 * kTileDwords, 2 * kRowBytes);
      _tile_stored(3, to + 2 * kTileDwords + 16, 2 * kRowBytes);
    } else {
      _tile_stored(0, to, 4 * kRowBytes);
      _tile_stored(1, to + 16, 4 * kRowBytes);
      _tile_stored(2, to + 32, 4 * kRowBytes);
      _tile_stored(3, to + 48, 4 * kRowBytes);
    }
    pending = {to, scale, task.scale_across, totals + output, rows};
    place ^= 1;
  }
  add_pending<kAcross>(pending, rows);
}

template <DType D>
void direct_amx_of(const PanelTask& task, const uint32_t* x, int rows, float* totals) {
  if (rows > 16) {
    DecodingWeights<D, 2> weights(task);
    return multiply_tiles<2>(task, weights, x, rows, totals);
  }
  DecodingWeights<D, 4> weights(task);
  multiply_tiles<4>(task, weights, x, rows, totals);
}

void direct_amx(const PanelTask& task, const void* x, int rows, float* totals) {
  const auto* pairs = static_cast<const uint32_t*>(x);
  if (task.dtype == DType::kE4M3) return direct_amx_of<DType::kE4M3>(task, pairs, rows, totals);
  direct_amx_of<DType::kE5M2>(task, pairs, rows, totals);
}

template <DType D>
void decode_amx_of(const PanelTask& task, uint32_t* buffer) {
  const typename Simd::template Decoder<D> decoder;
  const int64_t pair = dwords_of_pair(task);
  for (int64_t step = 0; step < task.steps; step += kTileSteps) {
    uint32_t* tiles = buffer + step / kTileSteps * 2 * kTileDwords;
    decode_tiles<2>(decoder, task, step, 0, tiles);
    decode_tiles<2>(decoder, task, step, 32, tiles + pair);
  }
}

void decode_amx(const PanelTask& task, void* buffer) {
  auto* tiles = static_cast<uint32_t*>(buffer);
  if (task.dtype == DType::kE4M3) return decode_amx_of<DType::kE4M3>(task, tiles);
  decode_amx_of<DType::kE5M2>(task, tiles);
}

void multiply_amx(const PanelTask& task, const void* buffer, const void* x, int rows, float* totals) {
  const auto* tiles = static_cast<const uint32_t*>(buffer);
  const auto* pairs = static_cast<const uint32_t*>(x);
  if (rows > 16) {
    DecodedWeights<2> weights(task, tiles);
    return multiply_tiles<2>(task, weights, pairs, rows, totals);
  }
  DecodedWeights<4> weights(task, tiles);
  multiply_tiles<4>(task, weights, pairs, rows, totals);
}

void multiply_first_amx(const PanelTask& task, void* buffer, const void* x, int rows, float* totals) {
  decode_amx(task, buffer);
  multiply_amx(task, buffer, x, rows, totals);
}

constexpr PanelMath kAmxMath{.units_per_step = 2,
                             .direct_tile_rows = 32,
                             .direct_rows = 32,
                             .buffer_tile_rows = 32,
                             .segment_steps = 128,  // multiply_tiles() ends segments after half of it
                             .block_rows = 512,
                             .blocks_of_x = true,
                             .begin = begin_tiles,
                             .end = end_tiles,
                             .direct = direct_amx,
                             .multiply_first = multiply_first_amx,
                             .multiply = multiply_amx};

}  // namespace
}  // namespace anyfp8
ANYFP8_TARGET_END
#endif

namespace anyfp8 {
namespace {

// From here on tiles win, however empty. 16 threads of a Sapphire Rapids Xeon, 4096 x 4096, bf16, us:
//              m = 1    2    3    4    8    16    256
//   tiles        187  184  189  189  194   207   1792
//   AVX-512      140  188  248  294  512  1003  13029
constexpr int64_t kFewestTokens = 3;

#if defined(__x86_64__)
constexpr CpuW8A16 kIsa{.panels = {.dot = &kAmxMath,
                                   .fma = nullptr,
                                   .widen = widen,
                                   .widen_e8m0 = widen_e8m0,
                                   .spread = spread,
                                   .epilogue = epilogue},
                        .rows = {.dot = dot, .widen = widen}};
#endif

constexpr DType kWeightDtypes[] = {DType::kE4M3, DType::kE5M2};

constexpr Kernel table() {
  Kernel kernel = cpu_w8a16_kernel(
      "cpu_amx_w8a16", "AMX: products of bf16 tiles (fp32: in three parts, fp16: in two)",
      [](const Device& device) {
        ANYFP8_NEED(device.isa.amx_bf16 && device.isa.avx512_vbmi,
                    "needs AMX with BF16 and AVX-512 with VBMI; this CPU has {}", isa_text(device.isa));
        return Verdict::yes();
      });
  kernel.weight_dtypes = kWeightDtypes;
  kernel.check = [](const LinearConfig& config, const Device&) {
    const int64_t group_k = config.scheme.weight.group.cols;
    ANYFP8_NEED(group_k == 0 || group_k >= config.k || group_k % kTileK == 0,
                "the scale changes every {} of k; a tile takes {} of k under one scale", group_k, kTileK);
    return Verdict::yes();
  };
  kernel.tokens = [](const LinearConfig&, const Device&) { return TokenRange{.begin = kFewestTokens}; };
#if defined(__x86_64__)
  run_with<kIsa>(kernel);
#endif
  return kernel;
}

}  // namespace

constinit const Kernel cpu_amx_w8a16 = table();

}  // namespace anyfp8
