#include "anyfp8/model/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

// Tokens a pass: bounds the logits to 64 * vocab * 4 bytes, 39 MB for a vocabulary of 151,936.
constexpr int64_t kPassTokens = 64;

double negative_log_likelihood(std::span<const float> logits, int target) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return std::log(sum) + largest - logits[static_cast<size_t>(target)];
}

}  // namespace

PerplexityResult perplexity(Model& model, std::span<const int> ids, int64_t window,
                            const std::function<void(int64_t done, int64_t total)>& on_window) {
  const ModelConfig& config = model.config();
  if (window < 1 || window > config.max_positions) {
    throw fail(ErrorCode::kInvalidArgument, "a window of {} tokens was asked for; the model takes 1 to {}",
               window, config.max_positions);
  }
  if (ids.size() < 2) {
    throw fail(ErrorCode::kInvalidArgument,
               "a text of {} tokens has nothing to predict; at least 2 are needed", ids.size());
  }
  const int last = ids.back();  // the one id that forward() does not see
  if (last < 0 || last >= config.vocab) {
    throw fail(ErrorCode::kInvalidArgument, "token id {} is outside the vocabulary of {}", last,
               config.vocab);
  }
  const auto start = std::chrono::steady_clock::now();
  const auto targets = static_cast<int64_t>(ids.size()) - 1;
  const int64_t windows = (targets + window - 1) / window;
  const auto vocab = static_cast<size_t>(config.vocab);
  KvCache cache(config, std::min(window, targets));
  std::vector<float> logits(static_cast<size_t>(std::min(kPassTokens, window)) * vocab);
  double sum = 0;
  for (int64_t w = 0; w < windows; ++w) {
    cache.clear();
    const int64_t end = std::min((w + 1) * window, targets);
    for (int64_t begin = w * window; begin < end; begin += kPassTokens) {
      const auto count = static_cast<size_t>(std::min(kPassTokens, end - begin));
      const std::span<const int> inputs = ids.subspan(static_cast<size_t>(begin), count);
      model.forward(inputs, cache, std::span(logits).first(count * vocab), true);
      for (size_t t = 0; t < count; ++t) {
        sum += negative_log_likelihood(std::span(logits).subspan(t * vocab, vocab),
                                       ids[static_cast<size_t>(begin) + t + 1]);
      }
    }
    if (on_window) on_window(w + 1, windows);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {std::exp(sum / static_cast<double>(targets)), targets, elapsed.count()};
}

}  // namespace anyfp8
