#include "anyfp8/model/attention.h"

#include <algorithm>

#include "anyfp8/base/threads.h"

namespace anyfp8 {
namespace {

// A parallel region costs a few microseconds; below this many multiplications one thread is done sooner.
constexpr int64_t kParallelWork = 1 << 17;

}  // namespace

// One task is a tile of query rows that share a kv head. Rows are (token, head of the group), token
// outermost, so a decode step with 8 heads a group has 8 rows.
void attend(const VectorOps& ops, const float* q, int64_t tokens, int64_t heads, const KvCache& cache,
            int64_t layer, float* out) {
  const int64_t dim = cache.head_dim(), past = cache.length();
  const int64_t group = heads / cache.kv_heads();
  const int64_t rows = tokens * group;
  const int64_t tiles = (rows + AttentionTile::kMaxRows - 1) / AttentionTile::kMaxRows;
  const int64_t tasks = cache.kv_heads() * tiles;
  const bool parallel = tokens * heads * dim * (past + tokens) >= kParallelWork;
#pragma omp parallel for schedule(dynamic) num_threads(num_threads()) if (parallel)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t kv_head = task % cache.kv_heads();
    const int64_t begin =
        (tiles - 1 - task / cache.kv_heads()) * AttentionTile::kMaxRows;  // the longest first
    AttentionTile tile{.keys = cache.keys(layer, kv_head),
                       .values = cache.values(layer, kv_head),
                       .head_dim = dim,
                       .value_stride = KvCache::padded(dim)};
    for (int64_t row = begin; row < std::min(begin + AttentionTile::kMaxRows, rows); ++row, ++tile.rows) {
      const int64_t place = ((row / group) * heads + kv_head * group + row % group) * dim;
      tile.q[tile.rows] = q + place;
      tile.out[tile.rows] = out + place;
      tile.visible[tile.rows] = past + row / group + 1;
    }
    ops.attend(tile);
  }
}

}  // namespace anyfp8
