#include "anyfp8/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

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
    : options_(options),
      allowed_(std::move(allowed)),
      random_(options.seed),
      ops_(vector_ops(cpu_device().isa)) {
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
  constexpr size_t kBlock =
      1024;  // most have nothing larger than what was found, which is all to know of them
  int best = -1;
  float largest = -std::numeric_limits<float>::infinity();
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const std::span<const float> block = logits.subspan(begin, std::min(kBlock, logits.size() - begin));
    if (!(ops_.largest(block.data(), static_cast<int64_t>(block.size())) > largest)) continue;
    for (size_t id = begin; id < begin + block.size(); ++id) {
      if (!(logits[id] > largest) || !may_choose(logits, id)) continue;
      best = static_cast<int>(id);
      largest = logits[id];
    }
  }
  if (best < 0) {
    throw fail(ErrorCode::kInvalidArgument,
               "no token has a finite logit; the model's weights or activations overflow");
  }
  return best;
}

// Fills candidates_ with (logit, id): all that may be chosen, or the k likeliest of them.
void Sampler::find_candidates(std::span<const float> logits) {
  const size_t k = options_.top_k > 0 ? static_cast<size_t>(options_.top_k) : logits.size();
  candidates_.clear();
  // Twice k are collected before a cut, and after one only what is above the least that was kept: a
  // vocabulary of 150,000 is cut some ten times.
  double least = -std::numeric_limits<double>::infinity();
  const auto cut = [&] {
    const auto last = candidates_.begin() + static_cast<std::ptrdiff_t>(k) - 1;
    std::nth_element(candidates_.begin(), last, candidates_.end(),
                     [](const auto& a, const auto& b) { return less_likely(b, a); });
    least = last->first;
    candidates_.erase(last + 1, candidates_.end());
  };
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!(logits[id] > least) || !may_choose(logits, id)) continue;
    candidates_.emplace_back(logits[id], static_cast<int>(id));
    if (candidates_.size() / 2 >= k) cut();
  }
  if (candidates_.size() > k) cut();
}

int Sampler::sample(std::span<const float> logits) {
  const int best = greedy(logits);
  if (options_.temperature == 0) return best;

  const double largest = logits[static_cast<size_t>(best)];
  find_candidates(logits);
  for (auto& candidate : candidates_) {
    candidate.first = std::exp((candidate.first - largest) / options_.temperature);
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
  const auto by_id = [](const auto& a, const auto& b) { return a.second < b.second; };
  if (!std::is_sorted(candidates_.begin(), candidates_.end(), by_id)) {
    std::sort(candidates_.begin(), candidates_.end(), by_id);
  }
  double left = uniform(random_) * total;
  for (const auto& [weight, id] : candidates_) {
    left -= weight;
    if (left < 0) return id;
  }
  return candidates_.back().second;  // total was rounded up
}

}  // namespace anyfp8
