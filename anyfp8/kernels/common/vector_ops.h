#pragma once

#include <cstdint>

#include "anyfp8/device/device.h"

namespace anyfp8 {

// Rows of queries that share one head's keys and values, and how many of those each sees. Positions come in
// groups of 16, so that one dimension of 16 keys is a vector's load:
//
//   keys    [positions / 16][head_dim][16]
//   values  [positions][value_stride]        dimensions from head_dim on are 0
struct AttentionTile {
  static constexpr int kMaxRows = 24;  // four register tiles of 6
  static constexpr int kKeyGroup = 16;
  static constexpr int kMaxHeadDim = 1024;  // published models have 64 to 256

  const float* keys;
  const float* values;
  int64_t head_dim;
  int64_t value_stride;  // head_dim rounded up to a multiple of kKeyGroup
  int rows = 0;
  const float* q[kMaxRows];   // [head_dim] each
  float* out[kMaxRows];       // [head_dim] each
  int64_t visible[kMaxRows];  // positions [0, visible), at least one; never fewer than the row before
};

// What a forward pass computes beside its linear layers, all in f32, for one instruction set. A result
// depends on its row alone, so a token's bits are the same whatever is computed with it.
struct VectorOps {
  // y += x
  void (*add_to)(float* y, const float* x, int64_t size);
  // y = x / sqrt(mean(x^2) + eps) * weight; y may be x.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t size, float* y);
  // Each head of x [heads, 2 * pairs]: rms_norm with `weight`, unless that is null; then dimension i is
  // rotated with dimension i + pairs, by the angle whose cos[i] and sin[i] are given.
  void (*norm_and_rotate)(float* x, int64_t heads, int64_t pairs, const float* weight, float eps,
                          const float* cos, const float* sin);
  // gate = silu(gate) * up, where silu(g) = g / (1 + e^-g)
  void (*silu_times)(float* gate, const float* up, int64_t size);
  // To bf16, round to nearest even; NaN stays NaN.
  void (*to_bf16)(const float* x, int64_t size, uint16_t* out);
  // The largest element, NaNs left out; -infinity where nothing else is.
  float (*largest)(const float* x, int64_t size);
  // The sum of e^(x - shift). Each term has a relative error below 2^-22 + 2^-24 * |x - shift|; below e^-87
  // it is e^-87 (1.6e-38), above e^88 it is e^88; NaN stays NaN.
  double (*sum_exp)(const float* x, int64_t size, float shift);
  // out = softmax(q · kᵀ / sqrt(head_dim)) · v of each row
  void (*attend)(const AttentionTile& tile);
};

// Of the best instruction set that `isa` has and this is written for.
const VectorOps& vector_ops(const CpuIsa& isa);

}  // namespace anyfp8
