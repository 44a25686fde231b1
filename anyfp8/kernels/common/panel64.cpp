#include "anyfp8/kernels/common/panel64.h"

#include <algorithm>
#include <cstring>

namespace anyfp8 {
namespace {

using Words = uint16_t __attribute__((vector_size(16)));
using Dwords = uint32_t __attribute__((vector_size(16)));

Dwords load16(const uint8_t* from) {
  Dwords value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// 4 outputs x 4 k, one output a dword -> the order of a block.
void store_lane(Dwords lane, uint8_t* to) {
  const auto words = reinterpret_cast<Words>(lane);
  const Words pairs = __builtin_shufflevector(words, words, 0, 2, 4, 6, 1, 3, 5, 7);
  std::memcpy(to, &pairs, sizeof(pairs));
}

// 4 outputs x 16 k at once: a transposition of 4 x 4 dwords. `to` is the lane in the first of four steps.
void pack_16k(const uint8_t* const row[4], uint8_t* to, int64_t steps) {
  const Dwords a = load16(row[0]), b = load16(row[1]), c = load16(row[2]), d = load16(row[3]);
  const Dwords ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
               ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Dwords cd = __builtin_shufflevector(c, d, 0, 4, 1, 5),
               cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  store_lane(__builtin_shufflevector(ab, cd, 0, 1, 4, 5), to);
  if (steps > 1) store_lane(__builtin_shufflevector(ab, cd, 2, 3, 6, 7), to + kStepBytes);
  if (steps > 2) store_lane(__builtin_shufflevector(ab2, cd2, 0, 1, 4, 5), to + 2 * kStepBytes);
  if (steps > 3) store_lane(__builtin_shufflevector(ab2, cd2, 2, 3, 6, 7), to + 3 * kStepBytes);
}

// k [k_begin, k_end) of a panel's rows, one group or a part of it that begins at a step.
void pack_columns(const PanelShape& shape, const uint8_t* codes, int64_t row_begin, int64_t k_begin,
                  int64_t k_end, uint8_t* to) {
  constexpr int64_t kAhead = 256;  // the rows are 64 streams, more than the hardware follows
  for (int64_t quad = 0; quad < kPanelOutputs / 4; ++quad) {
    alignas(16) uint8_t part[4][16];
    for (int64_t k = k_begin; k < k_end; k += 16) {
      const uint8_t* row[4];
      const int64_t count = std::min<int64_t>(16, k_end - k);
      for (int64_t r = 0; r < 4; ++r) {
        const int64_t index = row_begin + quad * 4 + r;
        const uint8_t* from = index < shape.n ? codes + index * shape.k + k : nullptr;
        if (from != nullptr && k == k_begin) __builtin_prefetch(from + kAhead);
        row[r] = from;
        if (from != nullptr && count == 16) continue;
        std::memset(part[r], 0, 16);
        if (from != nullptr) std::memcpy(part[r], from, static_cast<size_t>(count));
        row[r] = part[r];
      }
      pack_16k(row, to + (k - k_begin) / kStepK * kStepBytes + quad * 16, (count + kStepK - 1) / kStepK);
    }
  }
}

// Where a code lies in its panel's step.
int64_t offset_in_step(int64_t output, int64_t k) {
  return output / 4 * 16 + k / 2 * 8 + output % 4 * 2 + k % 2;
}

// Calls put(index in the grid, index in the packed scales) for every packed scale that is one of the grid.
template <typename Put>
void for_each_scale(const QuantKey& key, const PanelShape& shape, const Put& put) {
  const int64_t rows_per_scale = key.group.rows == 0 ? shape.n : key.group.rows;
  for (int64_t panel = 0; panel < shape.panels; ++panel) {
    for (int64_t group = 0; group < shape.groups; ++group) {
      for (int64_t i = 0; i < shape.scale_width; ++i) {
        const int64_t row = panel * kPanelOutputs + i;
        if (row >= shape.n) break;
        put(row / rows_per_scale * shape.groups + group,
            (panel * shape.groups + group) * shape.scale_width + i);
      }
    }
  }
}

}  // namespace

PanelShape panel_shape(const QuantKey& key, int64_t n, int64_t k) noexcept {
  PanelShape shape;
  shape.n = n;
  shape.k = k;
  shape.panels = (n + kPanelOutputs - 1) / kPanelOutputs;
  shape.group_k = key.group.cols == 0 ? k : std::min<int64_t>(key.group.cols, k);
  shape.groups = (k + shape.group_k - 1) / shape.group_k;
  shape.group_steps = (shape.group_k + kStepK - 1) / kStepK;
  const int64_t last_k = k - (shape.groups - 1) * shape.group_k;
  shape.steps = (shape.groups - 1) * shape.group_steps + (last_k + kStepK - 1) / kStepK;
  shape.scale_width = key.group.rows % kPanelOutputs == 0 ? 1 : kPanelOutputs;
  shape.scale_bytes = dtype_bytes(key.scale_dtype);
  return shape;
}

void pack_panel(const PanelShape& shape, const uint8_t* codes, int64_t panel, uint8_t* to) noexcept {
  constexpr int64_t kChunk = 64;  // a cache line of each of 64 rows, and 4 KiB of the panel
  for (int64_t group = 0; group < shape.groups; ++group) {
    const int64_t begin = group * shape.group_k, end = std::min(begin + shape.group_k, shape.k);
    for (int64_t k = begin; k < end; k += kChunk) {
      uint8_t* chunk = to + (group * shape.group_steps + (k - begin) / kStepK) * kStepBytes;
      pack_columns(shape, codes, panel * kPanelOutputs, k, std::min(k + kChunk, end), chunk);
    }
  }
}

void unpack_rows(const PanelShape& shape, const uint8_t* panels, int64_t row_begin, int64_t row_end,
                 uint8_t* to) noexcept {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const uint8_t* panel = panels + static_cast<size_t>(row / kPanelOutputs) * shape.panel_bytes();
    for (int64_t k = 0; k < shape.k; ++k) {
      const int64_t in_group = k % shape.group_k;
      const int64_t step = k / shape.group_k * shape.group_steps + in_group / kStepK;
      *to++ = panel[step * kStepBytes + offset_in_step(row % kPanelOutputs, in_group % kStepK)];
    }
  }
}

void pack_scales(const QuantKey& key, const PanelShape& shape, const void* scale, void* to) noexcept {
  std::memset(to, 0, shape.scales_bytes());
  const size_t bytes = shape.scale_bytes;
  for_each_scale(key, shape, [&](int64_t in_grid, int64_t packed) {
    std::memcpy(static_cast<char*>(to) + packed * bytes, static_cast<const char*>(scale) + in_grid * bytes,
                bytes);
  });
}

void unpack_scales(const QuantKey& key, const PanelShape& shape, const void* packed, void* to) noexcept {
  const size_t bytes = shape.scale_bytes;
  for_each_scale(key, shape, [&](int64_t in_grid, int64_t from) {
    std::memcpy(static_cast<char*>(to) + in_grid * bytes, static_cast<const char*>(packed) + from * bytes,
                bytes);
  });
}

}  // namespace anyfp8
