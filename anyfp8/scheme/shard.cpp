#include "anyfp8/scheme/shard.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "anyfp8/base/text.h"
#include "anyfp8/scheme/merge.h"

namespace anyfp8 {
namespace {

// The bar for a rank's memory is its even share and 7 %: what is left is for scales that are repeated.
constexpr double kMaxImbalance = 1.05;

void check_rank(int rank, int size) {
  if (size < 1 || rank < 0 || rank >= size) {
    throw fail(ErrorCode::kInvalidArgument, "rank {} of {} was asked for; ranks are 0 to size - 1", rank,
               size);
  }
}

// The largest extent of a group that is `group` cut at `range`: none where no border of a group is inside.
//
//   groups of 128   |------ 128 ------|------ 128 ------|
//   range [64, 256)         |-- 64 ---|------ 128 ------|     gcd(64, 128) = 64
int32_t refined(int32_t group, IndexRange range) {
  if (group == 0 || range.begin / group == (range.end - 1) / group) return group;
  return static_cast<int32_t>(std::gcd(range.begin, int64_t{group}));
}

// Scales of [rows, cols] of `weight` in the group of `part`, copied as they are.
HostTensor cut_scale(const Fp8Weight& weight, IndexRange rows, IndexRange cols, Group group) {
  const Group from = weight.scheme.weight.group;
  const Grid grid = scale_grid(group, rows.end - rows.begin, cols.end - cols.begin);
  HostTensor result = HostTensor::allocate(weight.scale.dtype(), {grid.rows, grid.cols});
  const auto bytes = static_cast<int64_t>(dtype_bytes(result.dtype()));
  std::byte* out = result.mutable_data();
  for (int64_t r = 0; r < grid.rows; ++r) {
    const int64_t row = from.rows == 0 ? 0 : (rows.begin + r * group.rows) / from.rows;
    const std::byte* line = weight.scale.data() + row * weight.scale.shape()[1] * bytes;
    for (int64_t c = 0; c < grid.cols; ++c, out += bytes) {
      const int64_t col = from.cols == 0 ? 0 : (cols.begin + c * group.cols) / from.cols;
      std::memcpy(out, line + col * bytes, static_cast<size_t>(bytes));
    }
  }
  return result;
}

// Columns of [n, k] codes. A megabyte at a time: the file's pages, which hold other ranks' columns too, do
// not pile up.
HostTensor copy_columns(const HostTensor& data, IndexRange cols) {
  const int64_t n = data.shape()[0], k = data.shape()[1];
  const auto element = static_cast<int64_t>(dtype_bytes(data.dtype()));
  const int64_t pitch = k * element, row_bytes = (cols.end - cols.begin) * element;
  const int64_t slab = std::max<int64_t>(1, (int64_t{1} << 20) / pitch);
  HostTensor copy = HostTensor::allocate(data.dtype(), {n, cols.end - cols.begin});
  std::byte* to = copy.mutable_data();
  for (int64_t first = 0; first < n; first += slab) {
    const int64_t last = std::min(n, first + slab);
    for (int64_t row = first; row < last; ++row, to += row_bytes) {
      std::memcpy(to, data.data() + row * pitch + cols.begin * element, static_cast<size_t>(row_bytes));
    }
    data.release(static_cast<size_t>(first * pitch), static_cast<size_t>(last * pitch));
  }
  return copy;
}

}  // namespace

IndexRange shard_range(int64_t extent, int rank, int size) {
  check_rank(rank, size);
  if (extent < size) {
    throw fail(ErrorCode::kInvalidArgument, "{} elements cannot be split over {} ranks; use at most {}",
               extent, size, extent);
  }
  const double most = kMaxImbalance * static_cast<double>(extent) / size;
  int64_t granule = 128;
  for (; granule > 1; granule /= 2) {
    const int64_t granules = (extent + granule - 1) / granule, largest = (granules + size - 1) / size;
    if (granules >= size && static_cast<double>(largest * granule) <= most) break;
  }
  return static_split(extent, granule, rank, size);
}

HeadShard shard_heads(int64_t heads, int64_t kv_heads, int rank, int size) {
  check_rank(rank, size);
  if (kv_heads < 1 || heads < kv_heads || heads % kv_heads != 0) {
    throw fail(ErrorCode::kInvalidArgument, "{} q heads do not divide among {} kv heads", heads, kv_heads);
  }
  if (size > heads) {
    throw fail(ErrorCode::kInvalidArgument,
               "attention with {} heads cannot be split over {} ranks; use at most {}", heads, size, heads);
  }
  const int64_t group = heads / kv_heads;
  if (size <= kv_heads) {
    const IndexRange kv = static_split(kv_heads, 1, rank, size);
    return {{kv.begin * group, kv.end * group}, kv};
  }
  for (int64_t head = 0; head < kv_heads;
       ++head) {  // ranks in the place of heads: some ranks for each kv head
    const IndexRange ranks = static_split(size, 1, static_cast<int>(head), static_cast<int>(kv_heads));
    if (rank >= ranks.end) continue;
    const IndexRange q = static_split(group, 1, static_cast<int>(rank - ranks.begin),
                                      static_cast<int>(ranks.end - ranks.begin));
    return {{head * group + q.begin, head * group + q.end}, {head, head + 1}};
  }
  throw fail(ErrorCode::kInternal, "rank {} of {} has no head of {}", rank, size, kv_heads);
}

Fp8Weight slice(const Fp8Weight& weight, Split split, IndexRange range) {
  check_scheme(weight);
  if (weight.layout != Layout::kRowMajor) {
    throw fail(ErrorCode::kInvalidArgument, "only row-major weights are split; this one is {}",
               layout_name(weight.layout));
  }
  const bool column = split == Split::kColumn;
  const int64_t extent = column ? weight.n() : weight.k();
  if (range.begin < 0 || range.begin >= range.end || range.end > extent) {
    throw fail(ErrorCode::kInvalidArgument, "{} [{}, {}) asked for of a weight {}; a part has at least one",
               column ? "outputs" : "inputs", range.begin, range.end, shape_text(weight.data.shape()));
  }
  if (range.begin == 0 && range.end == extent) return weight;
  Fp8Weight part = weight;
  part.data = column ? weight.data.slice(range.begin, range.end) : copy_columns(weight.data, range);
  if (weight.bias.defined() && column) part.bias = weight.bias.slice(range.begin, range.end);
  if (!column && range.begin > 0) part.bias = HostTensor();
  if (weight.quantized()) {
    Group& group = part.scheme.weight.group;
    (column ? group.rows : group.cols) = refined(column ? group.rows : group.cols, range);
    const IndexRange rows = column ? range : IndexRange{0, weight.n()};
    const IndexRange cols = column ? IndexRange{0, weight.k()} : range;
    part.scale = cut_scale(weight, rows, cols, group);
  }
  return part;
}

Fp8Weight shard(const Fp8Weight& weight, Split split, int rank, int size) {
  check_scheme(weight);
  return slice(weight, split, shard_range(split == Split::kColumn ? weight.n() : weight.k(), rank, size));
}

Fp8Weight slice_columns(const Fp8Weight& weight, std::span<const IndexRange> ranges) {
  std::vector<Fp8Weight> parts;
  for (const IndexRange& range : ranges) parts.push_back(slice(weight, Split::kColumn, range));
  return parts.size() == 1 ? parts.front() : merge(parts);
}

Fp8Weight shard_merged(const Fp8Weight& weight, std::span<const int64_t> part_rows, int rank, int size) {
  check_scheme(weight);
  std::vector<IndexRange> ranges;
  int64_t begin = 0;
  for (const int64_t rows : part_rows) {
    const IndexRange own = shard_range(rows, rank, size);
    ranges.push_back({begin + own.begin, begin + own.end});
    begin += rows;
  }
  if (begin != weight.n()) {
    throw fail(ErrorCode::kInvalidArgument, "parts of {} rows do not add up to the {} rows of the weight",
               fmt::join(part_rows, ", "), weight.n());
  }
  return slice_columns(weight, ranges);
}

Fp8Weight shard_qkv(const Fp8Weight& weight, int64_t heads, int64_t kv_heads, int64_t head_dim, int rank,
                    int size) {
  check_scheme(weight);
  const HeadShard own = shard_heads(heads, kv_heads, rank, size);
  if (weight.n() != (heads + 2 * kv_heads) * head_dim) {
    throw fail(ErrorCode::kInvalidArgument,
               "{} q and twice {} kv heads of {} rows do not add up to the {} rows of the weight", heads,
               kv_heads, head_dim, weight.n());
  }
  const auto rows = [&](int64_t first_head, IndexRange part) {
    return IndexRange{(first_head + part.begin) * head_dim, (first_head + part.end) * head_dim};
  };
  return slice_columns(weight,
                       std::vector{rows(0, own.q), rows(heads, own.kv), rows(heads + kv_heads, own.kv)});
}

}  // namespace anyfp8
