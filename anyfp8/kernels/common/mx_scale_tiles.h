#pragma once

#include <cstdint>

#include "anyfp8/kernels/common/k64_shuffle.h"  // ANYFP8_HOST_DEVICE

// How cuBLASLt wants the e8m0 scales of an MX operand [rows, k] ("1D block scaling factors layout"): tiles of
// 128 rows x 4 groups of 32 k, 512 bytes each, those of the same rows one after the other. The tensor cores
// of Blackwell load a tile as 32 lanes of 16 bytes, so lane l has rows l, 32 + l, 64 + l and 96 + l:
//
//   byte 16 (row % 32) + 4 (row % 128 / 32) + group % 4    of tile (row / 128, group / 4)
//
// Four groups of a row are one word. Rows and groups are padded to whole tiles, with any finite scale.
namespace anyfp8 {

ANYFP8_HOST_DEVICE constexpr int64_t mx_scale_rows(int64_t rows) { return (rows + 127) / 128 * 128; }
// Of rows of `groups` groups.
ANYFP8_HOST_DEVICE constexpr int64_t mx_scale_words(int64_t groups) { return (groups + 3) / 4; }
constexpr int64_t mx_scale_bytes(int64_t rows, int64_t groups) {
  return mx_scale_rows(rows) * mx_scale_words(groups) * 4;
}

// Where groups 4 `word` .. + 3 of `row` are, in words; `words` of a row.
ANYFP8_HOST_DEVICE constexpr int64_t mx_scale_place(int64_t row, int64_t word, int64_t words) {
  return (row / 128 * words + word) * 128 + row % 32 * 4 + row % 128 / 32;
}

}  // namespace anyfp8
