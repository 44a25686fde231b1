#include "anyfp8/model/kv_cache.h"

#include <exception>

#include "anyfp8/base/text.h"

namespace anyfp8 {

KvCache::KvCache(const ModelConfig& config, int64_t capacity)
    : layers_(config.layers), kv_heads_(config.kv_heads), head_dim_(config.head_dim), capacity_(capacity) {
  if (capacity < 1 || capacity > config.max_positions) {
    throw fail(ErrorCode::kInvalidArgument, "a cache of {} positions was asked for; the model takes 1 to {}",
               capacity, config.max_positions);
  }
  const auto floats = static_cast<size_t>(2 * layers_ * kv_heads_ * head_dim_ * capacity_);
  try {
    data_.resize(floats);
  } catch (const std::exception&) {  // bad_alloc, length_error
    throw fail(ErrorCode::kInvalidArgument,
               "a cache of {} positions takes {} bytes, more than there is; use fewer", capacity,
               floats * sizeof(float));
  }
}

}  // namespace anyfp8
