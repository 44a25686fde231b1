#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "anyfp8/kernels/common/vector_ops.h"
#include "anyfp8/model/model_config.h"

namespace anyfp8 {

// Keys (after rope) and values of one sequence, f32, each head's in the order in which attention reads them:
//
//   keys    [capacity / 16][head_dim][16]   16 positions beside each other, for the product with q
//   values  [capacity][padded(head_dim)]    dimensions beside each other, for the product with the weights
//
// Not for use from several threads at once, but for write() of different places.
class KvCache {
 public:
  static constexpr int64_t kKeyGroup = AttentionTile::kKeyGroup;
  static constexpr int64_t padded(int64_t size) { return (size + kKeyGroup - 1) / kKeyGroup * kKeyGroup; }

  // Reserves layers * 2 * kv_heads * padded(head_dim) * 4 bytes a position; positions take memory when they
  // are written. Error(kInvalidArgument) for a capacity below 1, above the model's context, or with no room
  // in memory.
  KvCache(const ModelConfig& config, int64_t capacity);

  int64_t length() const noexcept { return length_; }
  int64_t capacity() const noexcept { return capacity_; }
  size_t bytes() const noexcept {
    return static_cast<size_t>(2 * layers_ * kv_heads_ * head_floats()) * sizeof(float);
  }
  void clear() noexcept { length_ = 0; }

  int64_t layers() const noexcept { return layers_; }
  int64_t kv_heads() const noexcept { return kv_heads_; }
  int64_t head_dim() const noexcept { return head_dim_; }

  // One head's, as above.
  const float* keys(int64_t layer, int64_t kv_head) const noexcept { return head(2 * layer, kv_head); }
  const float* values(int64_t layer, int64_t kv_head) const noexcept { return head(2 * layer + 1, kv_head); }

  // Positions become part of the sequence with advance(), after every layer has written them.
  void write(int64_t layer, int64_t kv_head, int64_t position, const float* key,
             const float* value) noexcept {
    const int64_t place = position % kKeyGroup;
    float* k = head(2 * layer, kv_head) + (position - place) * head_dim_ + place;
    for (int64_t d = 0; d < head_dim_; ++d) k[d * kKeyGroup] = key[d];
    std::copy_n(value, head_dim_, head(2 * layer + 1, kv_head) + position * padded(head_dim_));
  }
  void advance(int64_t tokens) noexcept { length_ += tokens; }

 private:
  int64_t head_floats() const noexcept { return padded(capacity_) * padded(head_dim_); }
  float* head(int64_t plane, int64_t kv_head) const noexcept {
    return data_.get() + (plane * kv_heads_ + kv_head) * head_floats();
  }

  int64_t layers_, kv_heads_, head_dim_, capacity_;
  int64_t length_ = 0;
  std::unique_ptr<float[], void (*)(void*)> data_;
};

}  // namespace anyfp8
