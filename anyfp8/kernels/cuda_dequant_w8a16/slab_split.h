#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

// How cuda_dequant_w8a16 cuts a weight [n, k] into slabs of rows that fit its scratch memory in 16 bit.
namespace anyfp8 {

inline constexpr size_t kSlabBytes = size_t{32} << 20;  // is read back from the L2 (A100 40 MB, H200 60 MB)
inline constexpr int64_t kSlabGranule = 128;            // rows of the GEMM's tile

// Rows of every slab but the last, which has what is left: as few slabs as fit, about equal, so that none is
// a GEMM too narrow to fill the device. 0: not even one granule fits.
constexpr int64_t slab_rows(int64_t n, int64_t k) {
  const int64_t elements = static_cast<int64_t>(kSlabBytes / 2);
  if (k == 0 || n <= kSlabGranule) return n * k <= elements ? n : 0;
  const int64_t fit = elements / k / kSlabGranule * kSlabGranule;
  if (fit == 0) return 0;
  const int64_t slabs = (n + fit - 1) / fit;
  const int64_t even = (n + slabs - 1) / slabs;
  return std::min(n, (even + kSlabGranule - 1) / kSlabGranule * kSlabGranule);
}

}  // namespace anyfp8
