#pragma once

#include <cstddef>
#include <cstdint>

#include "anyfp8/base/export.h"
#include "anyfp8/kernels/kernel.h"

// Layout::kPanel64, the layout of 8-bit weights for the vector units of CPUs.
//
//   weight [n, k] -> panels of 64 rows (outputs)    [ceil(n / 64)]
//                    groups along k                  [groups]       those of the scales; one when scales do
//                    not
//                                                                   change along k
//                    steps of 4 elements of k        [ceil(group k / 4)]
//                    blocks of 16 outputs            [4]
//                    64 bytes:
//
//     byte   0 1   2 3   4 5   6 7   8 9  10 11  12 13  14 15   16 17 ...
//     output  0     1     2     3     0     1      2      3      4    ...
//     k      0 1   0 1   0 1   0 1   2 3   2 3    2 3    2 3    0 1   ...
//
// so each 16 bytes hold 4 outputs x 4 k. Interleaving the bytes of two tables looked up with such a block
// (punpcklbw, punpckhbw, zip1, zip2) gives bf16 pairs (k, k + 1) with one output a 32-bit lane: the operand
// of vdpbf16ps, bfdot and one row of an AMX tile, and for fp32 the same shifted or masked. A panel is one
// stream of bytes, and no sum over lanes is ever needed.
//
// Outputs from n on and elements past the end of a group are code 0, which is the value 0.
//
// Scales: [panels][groups][width], of the weight's scale dtype: width 1 where all 64 outputs of a panel share
// a scale, else 64. Those of outputs from n on are zero bytes.
namespace anyfp8 {

inline constexpr int64_t kPanelOutputs = 64;
inline constexpr int64_t kStepK = 4;
inline constexpr int64_t kStepBytes = kPanelOutputs * kStepK;

struct PanelShape {
  int64_t n, k;
  int64_t panels;
  int64_t groups;       // along k
  int64_t group_k;      // elements of k in each group but the last, which has the rest
  int64_t group_steps;  // steps of each group but the last
  int64_t steps;        // of a panel
  int64_t scale_width;  // 1 or kPanelOutputs
  size_t scale_bytes;   // of one scale

  size_t panel_bytes() const { return static_cast<size_t>(steps * kStepBytes); }
  size_t code_bytes() const { return static_cast<size_t>(panels) * panel_bytes(); }
  // What must be readable: kernels read two steps ahead, behind the last panel too.
  size_t readable_bytes() const { return code_bytes() + 2 * static_cast<size_t>(kStepBytes); }
  size_t scales_bytes() const { return static_cast<size_t>(panels * groups * scale_width) * scale_bytes; }
};
ANYFP8_API PanelShape panel_shape(const QuantKey& key, int64_t n, int64_t k) noexcept;

// One panel from the row-major codes [n, k], into panel_bytes() of a buffer.
ANYFP8_API void pack_panel(const PanelShape& shape, const uint8_t* codes, int64_t panel,
                           uint8_t* to) noexcept;

// All scales from the row-major grid, into scales_bytes().
ANYFP8_API void pack_scales(const QuantKey& key, const PanelShape& shape, const void* scale,
                            void* to) noexcept;

// The inverses, exactly: codes of rows [row_begin, row_end) as [rows, k], and the whole grid of scales.
ANYFP8_API void unpack_rows(const PanelShape& shape, const uint8_t* panels, int64_t row_begin,
                            int64_t row_end, uint8_t* to) noexcept;
ANYFP8_API void unpack_scales(const QuantKey& key, const PanelShape& shape, const void* packed,
                              void* to) noexcept;

}  // namespace anyfp8
