#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "anyfp8/model/model.h"

namespace anyfp8 {

struct PerplexityResult {
  double perplexity = 0;  // exp of the mean negative log likelihood
  int64_t targets = 0;    // tokens predicted
  double seconds = 0;
};

// Cuts `ids` into windows of `window` inputs, each seen without the ones before: window w holds the inputs
// [w * window, (w + 1) * window) and predicts the ids one place later, so 8193 ids make 32 windows of 256.
// The last window may be shorter. The mean is over all targets. on_window(done, total) follows each window.
// Error(kInvalidArgument) for fewer than two ids, or a window below 1 or longer than the model's context;
// Error(kInvalidFile) names a window whose loss is not finite.
PerplexityResult perplexity(Model& model, std::span<const int> ids, int64_t window = 256,
                            const std::function<void(int64_t done, int64_t total)>& on_window = {});

}  // namespace anyfp8
