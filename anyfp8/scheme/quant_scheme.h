#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "anyfp8/base/dtype.h"

namespace anyfp8 {

// One scale covers rows x cols elements of a matrix; 0 stands for the whole extent.
//   weight [n, k]:     {0,0} tensor   {1,0} row (per output channel)   {128,128} block   {1,32} MX
//   activation [m, k]: {0,0} tensor   {1,0} token                      {1,128} group
struct Group {
  int32_t rows = 0;
  int32_t cols = 0;
  bool operator==(const Group&) const = default;
};
inline constexpr Group kPerTensor{0, 0};
inline constexpr Group kPerRow{1, 0};
inline constexpr Group kBlock128{128, 128};
inline constexpr Group kGroup128{1, 128};
inline constexpr Group kMx32{1, 32};

enum class ScaleSource : uint8_t { kStored, kDynamic };

// How one operand is quantised. For a 16- or 32-bit weight only dtype means anything.
struct QuantKey {
  DType dtype = DType::kE4M3;
  Group group;
  ScaleSource source = ScaleSource::kStored;
  DType scale_dtype = DType::kF32;  // kF32, or kE8M0 where every scale is a power of two kept as its code
  bool operator==(const QuantKey&) const = default;
};

struct QuantScheme {
  QuantKey weight;
  std::optional<QuantKey> activation;  // what the checkpoint asks for; absent: weight-only
  bool operator==(const QuantScheme&) const = default;
};

ANYFP8_API std::string group_text(Group group);          // "tensor", "row", "128x128", "1x32"
ANYFP8_API std::string scheme_text(const QuantScheme&);  // "e4m3 128x128, activations e4m3 1x128 dynamic"

// Rows and columns of the scale grid of a [rows, cols] matrix; grids round up.
struct Grid {
  int64_t rows, cols;
  bool operator==(const Grid&) const = default;
};
constexpr Grid scale_grid(Group g, int64_t rows, int64_t cols) {
  return {g.rows == 0 ? 1 : (rows + g.rows - 1) / g.rows, g.cols == 0 ? 1 : (cols + g.cols - 1) / g.cols};
}

}  // namespace anyfp8
