#include "anyfp8/model/kv_cache.h"

#include "anyfp8/base/text.h"

namespace anyfp8 {

KvCache::KvCache(const ModelConfig& config, int64_t capacity)
    : layers_(config.layers),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      capacity_(capacity),
      data_(nullptr, std::free) {
  if (capacity < 1 || capacity > config.max_positions) {
    throw fail(ErrorCode::kInvalidArgument, "a cache of {} positions was asked for; the model takes 1 to {}",
               capacity, config.max_positions);
  }
  // Large blocks of calloc are fresh pages of the system, zero without being touched.
  data_.reset(static_cast<float*>(std::calloc(bytes(), 1)));
  if (data_ == nullptr) {
    throw fail(
        ErrorCode::kInvalidArgument,
        "a cache of {} positions needs {} MB, {} bytes each, more than this machine gives; ask for fewer "
        "tokens at once (prompt and max_tokens, or the window)",
        capacity, bytes() >> 20, bytes() / static_cast<size_t>(capacity));
  }
}

}  // namespace anyfp8
