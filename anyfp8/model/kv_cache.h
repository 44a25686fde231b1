#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "anyfp8/model/model_config.h"

namespace anyfp8 {

// Keys (after rope) and values of one sequence, f32. Each layer's K and V are [kv_heads, capacity, head_dim],
// so that attention walks one head's positions in memory order. Not for use from several threads at once.
class KvCache {
 public:
  // Reserves layers * 2 * kv_heads * head_dim * 4 bytes a position; positions take memory when they are
  // written. Error(kInvalidArgument) for a capacity below 1, above the model's context, or with no room in
  // memory.
  KvCache(const ModelConfig& config, int64_t capacity);

  int64_t length() const noexcept { return length_; }
  int64_t capacity() const noexcept { return capacity_; }
  size_t bytes() const noexcept {
    return static_cast<size_t>(2 * layers_ * kv_heads_ * head_dim_ * capacity_) * sizeof(float);
  }
  void clear() noexcept { length_ = 0; }

  int64_t layers() const noexcept { return layers_; }
  int64_t kv_heads() const noexcept { return kv_heads_; }
  int64_t head_dim() const noexcept { return head_dim_; }

  // [capacity, head_dim] of one head. Positions become part of the sequence with advance(), after every layer
  // has written them.
  float* keys(int64_t layer, int64_t kv_head) noexcept { return head(2 * layer, kv_head); }
  float* values(int64_t layer, int64_t kv_head) noexcept { return head(2 * layer + 1, kv_head); }
  void advance(int64_t tokens) noexcept { length_ += tokens; }

 private:
  float* head(int64_t plane, int64_t kv_head) noexcept {
    return data_.get() + (plane * kv_heads_ + kv_head) * capacity_ * head_dim_;
  }

  int64_t layers_, kv_heads_, head_dim_, capacity_;
  int64_t length_ = 0;
  std::unique_ptr<float[], void (*)(void*)> data_;
};

}  // namespace anyfp8
