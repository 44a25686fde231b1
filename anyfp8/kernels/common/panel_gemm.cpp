#include "anyfp8/kernels/common/panel_gemm.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "anyfp8/base/element.h"
#include "anyfp8/base/float_mode.h"
#include "anyfp8/base/threads.h"

namespace anyfp8 {
namespace {

// The chunks of a panel, in order. `longest` is for tiles that read each code once and keep nothing of it: a
// group whole, or as many as the kernel can be given scales for. Between two chunks, some hundred
// instructions ask the memory for nothing, which costs one token a fifth of its time where chunks are of 32
// KiB.
class Chunks {
 public:
  Chunks(const PanelShape& shape, const PanelMath& math, bool longest)
      : shape_(shape),
        segment_steps_(math.segment_steps),
        most_steps_(longest ? shape.steps : segment_steps_) {
    if (many_groups()) {
      groups_per_chunk_ = longest ? kMostScales : std::min(kMostScales, segment_steps_ / shape.group_steps);
      count_ = (shape.groups + groups_per_chunk_ - 1) / groups_per_chunk_;
      return;
    }
    chunks_per_group_ = (shape.group_steps + most_steps_ - 1) / most_steps_;
    const int64_t last_steps = shape.steps - (shape.groups - 1) * shape.group_steps;
    count_ = (shape.groups - 1) * chunks_per_group_ + (last_steps + most_steps_ - 1) / most_steps_;
  }

  static constexpr int64_t kMostScales = 128;  // of an output, in a chunk

  // A chunk has several, and a segment one.
  bool many_groups() const { return shape_.group_steps < segment_steps_; }
  int64_t count() const { return count_; }

  PanelChunk at(int64_t index) const {
    const int64_t group = index * groups_per_chunk_ / chunks_per_group_;
    const int64_t step = group * shape_.group_steps + index % chunks_per_group_ * most_steps_;
    const int64_t group_end = std::min((group + groups_per_chunk_) * shape_.group_steps, shape_.steps);
    return {step, std::min(group_end - step, most_steps_), group,
            std::min(shape_.group_steps, segment_steps_)};
  }

 private:
  const PanelShape& shape_;
  int64_t segment_steps_, most_steps_;
  int64_t count_ = 0, groups_per_chunk_ = 1, chunks_per_group_ = 1;
};

// One row does nothing but read. Zen foresees that better than software can (two Zen 4 cores, m = 1: 337 us
// without asking ahead, 399 us with); a Sapphire Rapids Xeon does not (16 threads: 246 us without, and with
// it even two rows take 209 us).
bool prefetches_one_row() {
#if defined(__x86_64__)
  static const bool amd = __builtin_cpu_is("amd") != 0;
  return !amd;
#else
  return false;
#endif
}

// bf16 parts whose sum is x exactly: 24 bits of fp32 in three of 8, 11 bits of fp16 in two.
int split_parts(DType in) { return in == DType::kBF16 ? 1 : in == DType::kF16 ? 2 : 3; }

// How a call is done: which multiplication, and over how many rows, bf16 or fp32, in all.
struct Plan {
  Plan(const PanelMath* how, int rows_of_a_token, int64_t m)
      : math(how),
        parts(rows_of_a_token),
        tokens(m),
        direct(rows() <= how->direct_rows),
        tile_tokens((direct ? how->direct_tile_rows : how->buffer_tile_rows) / parts),
        tiles((m + tile_tokens - 1) / tile_tokens) {}

  const PanelMath* math;
  int parts;  // rows that make up one token
  int64_t tokens;
  bool direct;
  int64_t tile_tokens, tiles;

  int64_t rows() const { return tokens * parts; }
  // Direct tiles are as even as they come out: 7 tokens are 4 + 3, since a short one pays for decoding as
  // much as a long one (17 tokens of bf16 as 16 + 1: 15 % more time than as 9 + 8). From a buffer, long ones
  // first: 0.7 % at m = 64 and 256. A token's parts stay together.
  int64_t tile_begin(int64_t tile) const {
    const bool even = direct && !math->blocks_of_x;
    return even ? tokens * tile / tiles : std::min(tile * tile_tokens, tokens);
  }
  int64_t x_block() const { return math->blocks_of_x ? kXBlock : 1; }
  // Units of a row in so many steps.
  int64_t x_units(int64_t steps) const {
    return (steps * math->units_per_step + x_block() - 1) / x_block() * x_block();
  }
  // Panels that take turns chunk by chunk, so that a chunk of x is still in the L2 cache for the next panel;
  // more of them leave less of it to everything else (8 cost 0.5 to 1 % at m = 64 and 256). Few tokens are
  // there anyway, and memory is best read in one stream.
  int64_t panels_together() const { return rows() <= kXBlock ? 1 : 2; }
  // Whether y's lines are asked for before they are written: 1 to 2 % at m = 16. One to four tokens have few,
  // and their memory is busy; many have products enough to wait behind.
  bool asks_for_y() const { return rows() > math->one_pass_rows && rows() <= kXBlock; }
};

// A token split into parts is one pass of the dot product of bf16 pairs for each part, against four
// multiply-adds of fp32 and the conversion of the weight: worth it while all of it is hidden behind the
// memory. The sums then differ in the last bits from those of a larger m, so it is not for kInvariant.
Plan plan_of(const PanelIsa& isa, const LinearConfig& config, int64_t m) {
  constexpr int64_t kMostSplitRows = 6;  // one tile
  const int parts = split_parts(config.in);
  const bool few = m * parts <= kMostSplitRows && config.policy != Policy::kInvariant;
  if (isa.dot != nullptr && (parts == 1 || few || isa.fma == nullptr)) return Plan(isa.dot, parts, m);
  return Plan(isa.fma, 1, m);
}

// A core decodes 20 codes in 1 ns, or does 100 products.
double work_ns(int64_t m, int64_t n, int64_t k) {
  return static_cast<double>(n) * static_cast<double>(k) * (0.05 + 0.01 * static_cast<double>(m));
}

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Tokens that are multiplied together, as tiles.
int64_t block_tiles(const Plan& plan) { return plan.math->block_rows / (plan.tile_tokens * plan.parts); }

// Each thread packs x for itself where that is a small part of its work, at 16 panels a thread about 2 %:
// then none waits for another, or reads what lies in another's cache.
bool packs_alone(const PanelShape& shape, int64_t threads) { return shape.panels >= 16 * threads; }

// Scratch: x in tiles, unless each thread has its own, of a block; then for each thread that, a buffer for a
// chunk, and the sums of a block for each of the panels that take turns.
struct ScratchSizes {
  size_t x, own_x, buffer, sums;
  ScratchSizes(const Plan& plan, const PanelShape& shape, bool alone) {
    const int64_t block_rows = std::min(plan.rows(), block_tiles(plan) * plan.tile_tokens * plan.parts);
    const auto x_bytes = [&](int64_t rows) {
      const int64_t behind = (plan.x_block() - 1) * plan.x_block();  // the tokens that are not there
      return aligned(static_cast<size_t>(rows * plan.x_units(shape.steps) + behind) * 4);
    };
    x = alone ? 0 : x_bytes(plan.rows());
    own_x = alone ? x_bytes(block_rows) : 0;
    buffer = plan.direct ? 0 : plan.math->segment_steps * plan.math->units_per_step * kPanelOutputs * 4;
    sums = static_cast<size_t>(plan.panels_together() * block_rows * kPanelOutputs) * sizeof(float);
  }
  size_t thread() const { return own_x + buffer + sums; }
};

// Powers of two that keep the products of one token with weights * 2^-120 away from the ends of fp32, so that
// every rounding is the one that plain products have: x is brought below 2^60, the sums brought back. A
// product is then at least 2^(60 - kMostOctaves - 129), and the last bit of a sum a normal number's.
struct ShiftedToken {
  bool possible = false;
  float x_factor = 1, sum_factor[2] = {1, 1};

  ShiftedToken() = default;
  ShiftedToken(const PanelIsa& isa, const TensorView& x) {
    constexpr int kMostOctaves = 40, kExponentBias = 127;
    constexpr int64_t kPiece = 256;
    uint32_t largest = 0, smallest = UINT32_MAX;  // bits of |x|; zeros do not count
    alignas(64) float wide[kPiece + 16];
    for (int64_t i = 0; i < x.cols; i += kPiece) {
      const int64_t count = std::min(kPiece, x.cols - i);
      isa.widen(static_cast<const std::byte*>(x.data) + i * dtype_bytes(x.dtype), x.dtype, count, wide);
      for (int64_t j = 0; j < count; ++j) {
        const uint32_t bits = std::bit_cast<uint32_t>(wide[j]) & 0x7FFFFFFFu;
        largest = std::max(largest, bits);
        smallest = std::min(smallest, bits - 1);  // 0 becomes the largest
      }
    }
    const int top = static_cast<int>(largest >> 23), bottom = static_cast<int>((smallest + 1) >> 23);
    if (smallest == UINT32_MAX || top == 255 || bottom == 0 || top - bottom > kMostOctaves) return;
    const int up = 59 - (top - kExponentBias);  // |x| < 2^(top - bias + 1), so |x| * 2^up < 2^60
    if (up > kExponentBias) return;
    possible = true;
    const int back = 120 - up;
    x_factor = power_of_two(up);
    sum_factor[0] = power_of_two(back / 2);
    sum_factor[1] = power_of_two(back - back / 2);
  }

 private:
  static float power_of_two(int exponent) {
    return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23);
  }
};

// x as tiles read it: chunk by chunk, in each of them tile by tile, so that all tiles of a chunk are one
// stream.
//   pairs of bf16, one part:  x as it is
//   pairs of bf16, parts:     the upper 16 bits, those of the rest, those of what is left then
//   fp32:                     widened
class TilePacker {
 public:
  // Tokens [first, last) of x.
  TilePacker(const PanelIsa& isa, const Plan& plan, const PanelShape& shape, const TensorView& x,
             int64_t first, int64_t last, float factor, void* to)
      : isa_(isa),
        plan_(plan),
        shape_(shape),
        x_(x),
        first_(first),
        tokens_(last - first),
        factor_(factor),
        as_given_(!plan.math->blocks_of_x && plan.parts == 1 &&
                  (plan.math->units_per_step == 2 ? x.dtype == DType::kBF16
                                                  : x.dtype == DType::kF32 && factor == 1)),
        to_(static_cast<uint32_t*>(to)) {}

  // Where the tile that begins at `token` begins in a chunk.
  uint32_t* at(int64_t token, const PanelChunk& chunk) const {
    const int64_t before = chunk.step * plan_.math->units_per_step * tokens_;
    return to_ + (before + (token - first_) * plan_.x_units(chunk.steps)) * plan_.parts;
  }

  void pack(int64_t tile, const PanelChunk& chunk) const {
    const int64_t token = plan_.tile_begin(tile), tokens = plan_.tile_begin(tile + 1) - token;
    const int64_t tile_rows = tokens * plan_.parts;
    uint32_t* const to = at(token, chunk);
    for (int64_t step = 0; step < chunk.steps; step += chunk.segment_steps) {
      const int64_t group = (chunk.step + step) / shape_.group_steps;
      const int64_t in_group = (chunk.step + step - group * shape_.group_steps) * kStepK;
      const int64_t begin = group * shape_.group_k + in_group;
      const int64_t group_end = std::min((group + 1) * shape_.group_k, shape_.k);
      const int64_t end = std::min(begin + chunk.segment_steps * kStepK, group_end);
      const bool whole = as_given_ && (end - begin) % kStepK == 0;
      for (int64_t k = begin, count; k < end; k += count) {
        count = whole ? end - begin : std::min(kPiece, end - k);
        uint32_t* rows = to + (step + (k - begin) / kStepK) * plan_.math->units_per_step * tile_rows;
        if (whole) {
          put_units(token, tokens, k, count * dtype_bytes(x_.dtype) / 4, rows);
          continue;
        }
        for (int64_t t = 0; t < tokens; ++t) {
          pack_piece(token + t, k, count, rows + t * plan_.parts * plan_.x_block(), tile_rows);
        }
      }
    }
  }

 private:
  static constexpr int64_t kPiece = 128;

  // A unit is 4 bytes of x: four tokens x four units at a time, the last four tokens overlapping those
  // before.
  void put_units(int64_t token, int64_t tokens, int64_t k, int64_t units, uint32_t* to) const {
    using Four = uint32_t __attribute__((vector_size(16), aligned(1), may_alias));
    const auto* from =
        static_cast<const std::byte*>(x_.data) + (token * x_.row_stride + k) * dtype_bytes(x_.dtype);
    const int64_t stride = x_.row_stride * dtype_bytes(x_.dtype);
    if (tokens < 4 || units % 4 != 0) {
      for (int64_t i = 0; i < units; ++i) {
        for (int64_t t = 0; t < tokens; ++t) std::memcpy(to++, from + t * stride + i * 4, 4);
      }
      return;
    }
    for (int64_t t = 0; t < tokens; t += 4) {
      const int64_t first = std::min(t, tokens - 4);
      const auto* rows = from + first * stride;
      for (int64_t i = 0; i < units; i += 4) {
        const auto row = [&](int64_t r) { return *reinterpret_cast<const Four*>(rows + r * stride + i * 4); };
        const Four a = row(0), b = row(1), c = row(2), d = row(3);
        const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                   cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
        const Four ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7),
                   cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        uint32_t* const at = to + i * tokens + first;
        *reinterpret_cast<Four*>(at) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
        *reinterpret_cast<Four*>(at + tokens) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
        *reinterpret_cast<Four*>(at + 2 * tokens) = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
        *reinterpret_cast<Four*>(at + 3 * tokens) = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
      }
    }
  }

  void pack_piece(int64_t token, int64_t k, int64_t count, uint32_t* to, int64_t stride) const {
    const auto* from =
        static_cast<const std::byte*>(x_.data) + (token * x_.row_stride + k) * dtype_bytes(x_.dtype);
    const int64_t whole = std::max(kStepK, plan_.x_block() * 2), padded = (count + whole - 1) / whole * whole;
    alignas(64) uint32_t pairs[kPiece / 2];
    if (plan_.math->units_per_step == 2 && plan_.parts == 1) {
      std::memset(pairs + padded / 2 - whole / 2, 0, static_cast<size_t>(whole) * 2);
      std::memcpy(pairs, from, static_cast<size_t>(count) * 2);
      put(pairs, padded / 2, to, stride);
      return;
    }
    alignas(64) float wide[kPiece + 16];
    isa_.widen(from, x_.dtype, count, wide);
    std::fill(wide + count, wide + padded, 0.0f);
    if (plan_.math->units_per_step == 4) {
      for (int64_t i = 0; i < padded; ++i) to[i * stride] = std::bit_cast<uint32_t>(wide[i] * factor_);
      return;
    }
    for (int part = 0; part < plan_.parts; ++part) {
      for (int64_t i = 0; i < padded / 2; ++i) {
        pairs[i] = take_upper(wide[2 * i]) >> 16 | take_upper(wide[2 * i + 1]);
      }
      put(pairs, padded / 2, to + part * plan_.x_block(), stride);
    }
  }

  void put(const uint32_t* rows, int64_t count, uint32_t* to, int64_t stride) const {
    if (!plan_.math->blocks_of_x) {
      for (int64_t i = 0; i < count; ++i) to[i * stride] = rows[i];
      return;
    }
    for (int64_t i = 0; i < count; i += kXBlock) std::memcpy(to + i * stride, rows + i, kXBlock * 4);
  }

  // The upper 16 bits of `value`, which keeps the rest; what is not finite has no rest.
  static uint32_t take_upper(float& value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value), upper = bits & 0xFFFF0000u;
    const bool finite = (bits & 0x7F800000u) != 0x7F800000u;
    if (!finite) {
      value = 0;
      return (bits & 0x007FFFFFu) != 0 ? upper | 0x00400000u : upper;
    }
    value -= std::bit_cast<float>(upper);
    return upper;
  }

  const PanelIsa& isa_;
  const Plan& plan_;
  const PanelShape& shape_;
  const TensorView& x_;
  int64_t first_, tokens_;
  float factor_;
  bool as_given_;  // units are the 4 bytes that x has there
  uint32_t* to_;
};

struct Worker {
  const PanelIsa& isa;
  const Plan& plan;
  const PlacedWeight& weight;
  const PanelShape& shape;
  const Chunks& chunks;
  const TensorView& x;
  const TensorView& y;
  const ShiftedToken& shifted;
  const TilePacker* packed_x;  // null: own_x is for it
  std::byte* own_x;
  std::byte* buffer;
  float* totals;

  // The chunk's scales in fp32, [groups][64], or [groups][kScaleCopies] where a panel has one; `room` is for
  // those that do not lie so.
  const float* scales(int64_t panel, const PanelChunk& chunk, float* room) const {
    const int64_t first = (panel * shape.groups + chunk.group) * shape.scale_width;
    const int64_t groups = (chunk.steps + shape.group_steps - 1) / shape.group_steps;
    const bool is_e8m0 = weight.config.scheme.weight.scale_dtype == DType::kE8M0;
    const auto* codes = static_cast<const uint8_t*>(weight.scale) + first;
    const auto* floats = static_cast<const float*>(weight.scale) + first;
    if (shape.scale_width > 1) {
      if (!is_e8m0) return floats;
      isa.widen_e8m0(codes, groups * kPanelOutputs, room);
      return room;
    }
    // By the kernel's vectors: between two panels of one token nothing is asked of the memory, 3 % at 50
    // GB/s.
    float wide[Chunks::kMostScales];
    if (is_e8m0) std::transform(codes, codes + groups, wide, e8m0_to_f32);
    isa.spread(is_e8m0 ? wide : floats, groups, room);
    return room;
  }

  // Tiles [tile_begin, tile_end) of tokens x panels [panel_begin, panel_end).
  void run(int64_t tile_begin, int64_t tile_end, int64_t panel_begin, int64_t panel_end) const {
    const int64_t block = block_tiles(plan), together = plan.panels_together();
    for (int64_t begin = tile_begin; begin < tile_end; begin += block) {
      const int64_t end = std::min(begin + block, tile_end);
      const TilePacker own(isa, plan, shape, x, plan.tile_begin(begin), plan.tile_begin(end),
                           shifted.x_factor, own_x);
      for (int64_t i = 0; packed_x == nullptr && i < chunks.count(); ++i) {
        for (int64_t tile = begin; tile < end; ++tile) own.pack(tile, chunks.at(i));
      }
      for (int64_t panel = panel_begin; panel < panel_end; panel += together) {
        multiply(packed_x == nullptr ? own : *packed_x, begin, end, panel,
                 std::min(panel + together, panel_end));
      }
    }
  }

  const uint8_t* codes(int64_t panel, int64_t step) const {
    return static_cast<const uint8_t*>(weight.data) + static_cast<size_t>(panel) * shape.panel_bytes() +
           step * kStepBytes;
  }

  // A panel's first scales are waited for at the end of a segment, with nothing left to do meanwhile: 1 % at
  // m = 16 and 64.
  void ask_for_scales(int64_t panel, int64_t group) const {
    const int64_t first = (panel * shape.groups + group) * shape.scale_width;
    const auto* scale =
        static_cast<const std::byte*>(weight.scale) + static_cast<size_t>(first) * shape.scale_bytes;
    constexpr int kBytes = 256;  // one scale for each output, or 64 of them along k
    for (int at = 0; at < kBytes; at += 64) __builtin_prefetch(scale + at);
  }

  void ask_for_y(int64_t first, int64_t last, int64_t panel_begin, int64_t panel_end) const {
    const int64_t begin = panel_begin * kPanelOutputs, end = std::min(panel_end * kPanelOutputs, shape.n);
    const int64_t size = dtype_bytes(y.dtype);
    for (int64_t token = first; token < last; ++token) {
      const auto* row = static_cast<const std::byte*>(y.data) + token * y.row_stride * size;
      for (int64_t at = begin * size; at < end * size; at += 64) __builtin_prefetch(row + at, 1);
    }
  }

  void multiply(const TilePacker& tiles, int64_t tile_begin, int64_t tile_end, int64_t panel_begin,
                int64_t panel_end) const {
    const int64_t first = plan.tile_begin(tile_begin), last = plan.tile_begin(tile_end);
    const int64_t panel_totals = (last - first) * plan.parts * kPanelOutputs;
    std::fill_n(totals, (panel_end - panel_begin) * panel_totals, 0.0f);
    alignas(64) float room[Chunks::kMostScales * kPanelOutputs];
    for (int64_t i = 0; i < chunks.count(); ++i) {
      const PanelChunk chunk = chunks.at(i);
      if (plan.asks_for_y() && i + 1 == chunks.count()) ask_for_y(first, last, panel_begin, panel_end);
      for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
        const bool panels_left = panel + 1 < panel_end, chunks_left = i + 1 < chunks.count();
        const int64_t next_panel = panels_left ? panel + 1 : chunks_left ? panel_begin : panel_end;
        const PanelChunk next = chunks.at(panels_left ? i : chunks_left ? i + 1 : 0);
        ask_for_scales(next_panel, next.group);
        const bool one_scale = shape.scale_width == 1;
        PanelTask task{.codes = codes(panel, chunk.step),
                       .next = codes(next_panel, next.step),
                       .share = nullptr,
                       .share_step_bytes = kStepBytes / (tile_end - tile_begin),
                       .prefetch_one = prefetches_one_row(),
                       .dtype = weight.config.scheme.weight.dtype,
                       .steps = chunk.steps,
                       .segment_steps = chunk.segment_steps,
                       .scale = scales(panel, chunk, room),
                       .scale_across = one_scale ? 0 : 1,
                       .scale_step = chunks.many_groups() ? (one_scale ? kScaleCopies : kPanelOutputs) : 0,
                       .sum_factor = {shifted.sum_factor[0], shifted.sum_factor[1]}};
        float* const sums = totals + (panel - panel_begin) * panel_totals;
        int64_t token = first;
        for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
          const int64_t end = plan.tile_begin(tile + 1);
          const int rows = static_cast<int>((end - token) * plan.parts);
          float* const tile_sums = sums + (token - first) * plan.parts * kPanelOutputs;
          task.share = task.next + task.steps * task.share_step_bytes * (tile - tile_begin);
          if (plan.direct) {
            plan.math->direct(task, tiles.at(token, chunk), rows, tile_sums);
          } else if (tile == tile_begin) {
            plan.math->multiply_first(task, buffer, tiles.at(token, chunk), rows, tile_sums);
          } else {
            plan.math->multiply(task, buffer, tiles.at(token, chunk), rows, tile_sums);
          }
          token = end;
        }
      }
    }
    for (int64_t token = first; token < last; ++token) {  // row by row of y, as memory has it
      for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
        const int64_t output = panel * kPanelOutputs, count = std::min(kPanelOutputs, shape.n - output);
        const float* sums =
            totals + (panel - panel_begin) * panel_totals + (token - first) * plan.parts * kPanelOutputs;
        auto* to = static_cast<std::byte*>(y.data) + (token * y.row_stride + output) * dtype_bytes(y.dtype);
        isa.epilogue(sums, plan.parts, weight.bias == nullptr ? nullptr : weight.bias + output, count, to,
                     y.dtype);
      }
    }
  }
};

}  // namespace

size_t panel_workspace_bytes(const PanelIsa& isa, const LinearConfig& config, const Device& device,
                             int64_t m) {
  const PanelShape shape = panel_shape(config.scheme.weight, config.n, config.k);
  size_t widest = 0;  // what no plan exceeds for one token, times m
  if (__builtin_mul_overflow(static_cast<size_t>(shape.steps + kXBlock) * 32, static_cast<size_t>(m),
                             &widest) ||
      widest > SIZE_MAX / 2) {
    return SIZE_MAX;
  }
  // Not of num_threads(), which may be raised between this call and apply(): that gets by with fewer.
  constexpr int kLeastThreads = 8;
  const int64_t threads = std::max(device.cores, kLeastThreads);
  const auto bytes = [&](int64_t tokens) {
    const Plan plan = plan_of(isa, config, tokens);
    const ScratchSizes alone(plan, shape, true), shared(plan, shape, false);
    const int64_t most_alone = std::clamp<int64_t>(shape.panels / 16, 1, threads);
    return std::max(alone.thread() * static_cast<size_t>(most_alone),
                    shared.x + shared.thread() * static_cast<size_t>(threads));
  };
  // A few tokens in parts take more than some more in one piece, and a tile more than two halves.
  size_t most = bytes(m);
  for (int64_t tokens = 1; tokens < std::min<int64_t>(m, 128); ++tokens) most = std::max(most, bytes(tokens));
  return most;
}

void apply_panels(const PanelIsa& isa, const PlacedWeight& weight, const TensorView& x, const TensorView& y,
                  Scratch scratch) {
  const LinearConfig& config = weight.config;
  if (x.rows == 0) return;
  const PanelShape shape = panel_shape(config.scheme.weight, config.n, config.k);
  Plan plan = plan_of(isa, config, x.rows);
  ShiftedToken shifted;
  if (isa.shifted != nullptr && x.rows == 1 && plan.math == isa.fma && weight.finite_codes &&
      config.scheme.weight.dtype == DType::kE4M3 && isa.use_shifted()) {
    shifted = ShiftedToken(isa, x);
    if (shifted.possible) plan.math = isa.shifted;
  }
  const Chunks chunks(shape, *plan.math, plan.direct && plan.rows() <= plan.math->one_pass_rows);
  const int useful = useful_threads(work_ns(x.rows, config.n, config.k));
  const bool alone = packs_alone(shape, useful);
  const ScratchSizes sizes(plan, shape, alone);
  auto* memory = static_cast<std::byte*>(scratch.data);
  const TilePacker packer(isa, plan, shape, x, 0, plan.tokens, shifted.x_factor, memory);
  // More threads than the workspace has room for may have been asked for since.
  const int threads = std::min(useful, static_cast<int>((scratch.bytes - sizes.x) / sizes.thread()));

  const auto work = [&](int part, int parts, const auto& wait) {
    const DefaultFloatMode mode;
    if (!alone) {
      const auto [begin, end] = static_split(chunks.count() * plan.tiles, 1, part, parts);
      for (int64_t i = begin; i < end; ++i) packer.pack(i % plan.tiles, chunks.at(i / plan.tiles));
      wait();
    }
    // Threads beyond the number of panels share the tokens.
    const int across = static_cast<int>(std::clamp<int64_t>(parts / shape.panels, 1, plan.tiles));
    const int along = parts / across;
    if (part >= across * along) return;
    const auto [tile_begin, tile_end] = static_split(plan.tiles, 1, part % across, across);
    const auto [panel_begin, panel_end] = static_split(shape.panels, 1, part / across, along);
    std::byte* const own_x = memory + sizes.x + sizes.thread() * static_cast<size_t>(part);
    std::byte* const buffer = own_x + sizes.own_x;
    const Worker worker{.isa = isa,
                        .plan = plan,
                        .weight = weight,
                        .shape = shape,
                        .chunks = chunks,
                        .x = x,
                        .y = y,
                        .shifted = shifted,
                        .packed_x = alone ? nullptr : &packer,
                        .own_x = own_x,
                        .buffer = buffer,
                        .totals = reinterpret_cast<float*>(buffer + sizes.buffer)};
    if (plan.math->begin != nullptr) plan.math->begin();
    worker.run(tile_begin, tile_end, panel_begin, panel_end);
    if (plan.math->end != nullptr) plan.math->end();
  };
  if (threads == 1) return work(0, 1, [] {});
#pragma omp parallel num_threads(threads)
  work(omp_get_thread_num(), omp_get_num_threads(), [] {
#pragma omp barrier
  });
}

}  // namespace anyfp8
