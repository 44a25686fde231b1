#include "anyfp8/model/sampler.h"

#include <algorithm>
#include <cmath>

#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

// A uniform value in [0, 1) with 53 bits. The standard distributions differ between libraries; the engine
// does not.
double uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

// Heap order: the most likely candidate on top, the lower id of equal ones first.
bool less_likely(const std::pair<double, int>& a, const std::pair<double, int>& b) {
  return a.first != b.first ? a.first < b.first : a.second > b.second;
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options, std::vector<bool> allowed)
    : options_(options), allowed_(std::move(allowed)), random_(options.seed) {
  if (!(options.temperature >= 0 && std::isfinite(options.temperature))) {
    throw fail(ErrorCode::kInvalidArgument, "temperature is {}; it must be 0 (greedy) or a positive number",
               options.temperature);
  }
  if (options.top_k < 0) {
    throw fail(ErrorCode::kInvalidArgument, "top_k is {}; it must be 0 (all tokens) or more", options.top_k);
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    throw fail(ErrorCode::kInvalidArgument, "top_p is {}; it must be above 0 and at most 1", options.top_p);
  }
}

bool Sampler::may_choose(std::span<const float> logits, size_t id) const {
  return std::isfinite(logits[id]) && (allowed_.empty() || (id < allowed_.size() && allowed_[id]));
}

int Sampler::greedy(std::span<const float> logits) const {
  int best = -1;
  for (size_t id = 0; id < logits.size(); ++id) {
    const bool better = best < 0 || logits[id] > logits[static_cast<size_t>(best)];
    if (better && may_choose(logits, id)) best = static_cast<int>(id);
  }
  if (best < 0) {
    throw fail(ErrorCode::kInvalidArgument,
               "no token has a finite logit; the model's weights or activations overflow");
  }
  return best;
}

int Sampler::sample(std::span<const float> logits) {
  const int best = greedy(logits);
  if (options_.temperature == 0) return best;

  const double largest = logits[static_cast<size_t>(best)];
  candidates_.clear();
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!may_choose(logits, id)) continue;
    candidates_.emplace_back(std::exp((logits[id] - largest) / options_.temperature), static_cast<int>(id));
  }
  // Vocabularies have 150,000 ids, so no cut sorts more than it keeps.
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    const auto last = candidates_.begin() + options_.top_k;
    std::nth_element(candidates_.begin(), last, candidates_.end(),
                     [](const auto& a, const auto& b) { return less_likely(b, a); });
    candidates_.erase(last, candidates_.end());
  }
  double total = 0;
  for (const auto& candidate : candidates_) total += candidate.first;
  if (options_.top_p < 1) {
    const double needed = options_.top_p * total;
    std::make_heap(candidates_.begin(), candidates_.end(), less_likely);
    auto heap_end = candidates_.end();
    for (total = 0; total < needed && heap_end != candidates_.begin(); --heap_end) {
      std::pop_heap(candidates_.begin(), heap_end, less_likely);
      total += (heap_end - 1)->first;
    }
    candidates_.erase(candidates_.begin(), heap_end);
  }
  // In the order of ids, so that a draw means the same token whatever order the cuts of a library leave.
  std::sort(candidates_.begin(), candidates_.end(),
            [](const auto& a, const auto& b) { return a.second < b.second; });
  double left = uniform(random_) * total;
  for (const auto& [weight, id] : candidates_) {
    left -= weight;
    if (left < 0) return id;
  }
  return candidates_.back().second;  // total was rounded up
}

}  // namespace anyfp8
