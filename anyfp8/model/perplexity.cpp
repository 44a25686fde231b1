#include "anyfp8/model/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "anyfp8/base/text.h"
#include "anyfp8/kernels/common/vector_ops.h"

namespace anyfp8 {
namespace {

// Of one pass. A file's vocabulary may have 2^24 entries; one of 151,936 gets 27 tokens a pass.
constexpr int64_t kLogitsBytes = 16 << 20, kMaxPassTokens = 64;

double negative_log_likelihood(const VectorOps& ops, std::span<const float> logits, int target) {
  const auto count = static_cast<int64_t>(logits.size());
  const float largest = ops.largest(logits.data(), count);
  return std::log(ops.sum_exp(logits.data(), count, largest)) + largest - logits[static_cast<size_t>(target)];
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
  const int64_t pass_tokens = std::clamp<int64_t>(kLogitsBytes / (4 * config.vocab), 1, kMaxPassTokens);
  KvCache cache(config, std::min(window, targets));
  std::vector<float> logits(static_cast<size_t>(std::min({pass_tokens, window, targets})) * vocab);
  const VectorOps& ops = vector_ops(cpu_device().isa);
  double sum = 0;
  for (int64_t w = 0; w < windows; ++w) {
    cache.clear();
    const int64_t end = std::min((w + 1) * window, targets);
    for (int64_t begin = w * window; begin < end; begin += pass_tokens) {
      const auto count = static_cast<size_t>(std::min(pass_tokens, end - begin));
      const std::span<const int> inputs = ids.subspan(static_cast<size_t>(begin), count);
      model.forward(inputs, cache, std::span(logits).first(count * vocab), true);
      for (size_t t = 0; t < count; ++t) {
        sum += negative_log_likelihood(ops, std::span(logits).subspan(t * vocab, vocab),
                                       ids[static_cast<size_t>(begin) + t + 1]);
      }
    }
    if (!std::isfinite(sum)) {
      throw fail(
          ErrorCode::kInvalidFile,
          "the loss of window {} of {} (tokens {} to {}) is not finite; a weight or scale of the model is "
          "broken, or its activations overflow the chosen dtype",
          w + 1, windows, w * window, end);
    }
    if (on_window) on_window(w + 1, windows);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {std::exp(sum / static_cast<double>(targets)), targets, elapsed.count()};
}

}  // namespace anyfp8
