#include "anyfp8/model/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "anyfp8/base/threads.h"
#include "anyfp8/model/transformer_ops.h"

namespace anyfp8 {
namespace {

// One task is a tile of query rows that share a kv head:
//
//             keys 0..63   64..127   ...          a block of K and V (32 KiB at head_dim 64) is read once
//   row 0     online softmax over blocks ->       for all rows of the tile, while it is in the L1 or L2 cache
//   ...       (largest score, sum of weights,
//   row 15     weighted sum of values in out)
//
// Rows are (token, head of the group), token outermost, so a decode step with 8 heads a group has 8 rows.
constexpr int64_t kTileRows = 16;
constexpr int64_t kBlockKeys = 64;

// A parallel region costs a few microseconds; below this many multiplications one thread is done sooner.
constexpr int64_t kParallelWork = 1 << 17;

float dot(const float* a, const float* b, int64_t size) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

struct SoftmaxRow {
  float largest = -std::numeric_limits<float>::infinity();
  float weights = 0;
};

// Takes keys and values [0, count) of a block into one row. out holds the sum of values weighted by
// e^(score - largest) so far.
void add_block(const float* q, const float* keys, const float* values, int64_t count, int64_t head_dim,
               float scale, SoftmaxRow& row, float* out) {
  float weight[kBlockKeys];
  float largest = row.largest;
  for (int64_t j = 0; j < count; ++j) {
    weight[j] = dot(q, keys + j * head_dim, head_dim) * scale;
    largest = std::max(largest, weight[j]);
  }
  if (largest > row.largest) {  // also the first block, where out is all zeros
    const float shrink = exp_fast(row.largest - largest);
    row.weights *= shrink;
    row.largest = largest;
#pragma omp simd
    for (int64_t d = 0; d < head_dim; ++d) out[d] *= shrink;
  }
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < count; ++j) {
    weight[j] = exp_fast(weight[j] - largest);
    sum += weight[j];
  }
  row.weights += sum;
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) {  // four values a pass: a quarter of the loads and stores of out
    const float* v = values + j * head_dim;
    const float w0 = weight[j], w1 = weight[j + 1], w2 = weight[j + 2], w3 = weight[j + 3];
#pragma omp simd
    for (int64_t d = 0; d < head_dim; ++d) {
      out[d] += (w0 * v[d] + w1 * v[head_dim + d]) + (w2 * v[2 * head_dim + d] + w3 * v[3 * head_dim + d]);
    }
  }
  for (; j < count; ++j) {
    const float* v = values + j * head_dim;
#pragma omp simd
    for (int64_t d = 0; d < head_dim; ++d) out[d] += weight[j] * v[d];
  }
}

}  // namespace

void attend(const float* q, int64_t tokens, int64_t heads, KvCache& cache, int64_t layer, float* out) {
  const int64_t head_dim = cache.head_dim();
  const int64_t group = heads / cache.kv_heads();
  const int64_t rows = tokens * group;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t tasks = cache.kv_heads() * tiles;
  const int64_t past = cache.length();
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  std::fill_n(out, tokens * heads * head_dim, 0.0f);

  const bool parallel = tokens * heads * head_dim * (past + tokens) >= kParallelWork;
#pragma omp parallel for schedule(dynamic) num_threads(num_threads()) if (parallel)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t kv_head = task / tiles;
    const int64_t begin = task % tiles * kTileRows;
    const int64_t end = std::min(begin + kTileRows, rows);
    const float* keys = cache.keys(layer, kv_head);
    const float* values = cache.values(layer, kv_head);
    const auto offset = [&](int64_t row) {
      return ((row / group) * heads + kv_head * group + row % group) * head_dim;
    };
    SoftmaxRow state[kTileRows];
    const int64_t longest = past + (end - 1) / group + 1;
    for (int64_t block = 0; block < longest; block += kBlockKeys) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t visible = past + row / group + 1;
        const int64_t count = std::min(visible - block, kBlockKeys);
        if (count <= 0) continue;
        add_block(q + offset(row), keys + block * head_dim, values + block * head_dim, count, head_dim, scale,
                  state[row - begin], out + offset(row));
      }
    }
    for (int64_t row = begin; row < end; ++row) {
      const float inverse = 1.0f / state[row - begin].weights;
      float* o = out + offset(row);
#pragma omp simd
      for (int64_t d = 0; d < head_dim; ++d) o[d] *= inverse;
    }
  }
}

}  // namespace anyfp8
