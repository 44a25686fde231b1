#pragma once

#include <cstdint>

#include "anyfp8/kernels/common/vector_ops.h"
#include "anyfp8/model/kv_cache.h"

namespace anyfp8 {

// Causal attention of the tokens at positions cache.length() .. + tokens, whose keys and values the cache
// holds already (not yet advanced). q and out are [tokens, heads, head_dim]; heads is a multiple of the
// cache's kv_heads, and consecutive heads share one kv head. softmax(q · kᵀ / sqrt(head_dim)) · v, all in
// fp32. A token's result has the same bits whatever other tokens it is computed with and whatever the number
// of threads.
void attend(const VectorOps& ops, const float* q, int64_t tokens, int64_t heads, const KvCache& cache,
            int64_t layer, float* out);

}  // namespace anyfp8
