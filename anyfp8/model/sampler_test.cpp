#include "anyfp8/model/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "anyfp8/base/error.h"

namespace anyfp8 {
namespace {

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

// The ids that 2000 draws give.
std::set<int> reached(const SamplerOptions& options, const std::vector<float>& logits,
                      std::vector<bool> allowed = {}) {
  Sampler sampler(options, std::move(allowed));
  std::set<int> ids;
  for (int i = 0; i < 2000; ++i) ids.insert(sampler.sample(logits));
  return ids;
}

TEST(Sampler, GreedyTakesTheLowestIdOfTheLargest) {
  Sampler sampler({});
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 5, -2, 5}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{-3, -4}), 0);
}

// Large enough for several blocks and cuts; every logit is there four times.
TEST(Sampler, FindsTheLikeliestOfALargeVocabulary) {
  std::vector<float> logits(6000);
  for (size_t id = 0; id < logits.size(); ++id) logits[id] = static_cast<float>(id * 7919 % 1500);
  std::vector<bool> allowed(logits.size(), true);
  const auto likeliest = [&](size_t count) {
    std::vector<int> ids;
    for (size_t id = 0; id < logits.size(); ++id) {
      if (allowed[id]) ids.push_back(static_cast<int>(id));
    }
    std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    return std::set<int>(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count));
  };
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(Sampler({}, allowed).sample(logits), *likeliest(1).begin());
    EXPECT_EQ(reached({.temperature = 1000, .top_k = 6}, logits, allowed), likeliest(6));
    for (const int id : likeliest(3)) allowed[static_cast<size_t>(id)] = false;
  }
}

TEST(Sampler, NeverChoosesWhatIsMaskedOrNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {std::nanf(""), infinity, 1, 2, -infinity, 0, 9};
  const std::vector<bool> allowed = {true, true, true, false, true, true};  // id 6 lies beyond the mask
  EXPECT_EQ(Sampler({}, allowed).sample(logits), 2);
  EXPECT_EQ(reached({.temperature = 1}, logits, allowed), (std::set<int>{2, 5}));
  const std::vector<float> none = {std::nanf(""), infinity};
  EXPECT_THROW(Sampler({}).sample(none), Error);
  EXPECT_THROW(Sampler({.temperature = 1}).sample(none), Error);
}

TEST(Sampler, DrawsAreTheEnginesOwnBits) {
  // 1024 equal logits: the draw is the top ten bits of mt19937_64, which the C++ standard fixes.
  const std::vector<float> logits(1024, 0.5f);
  std::mt19937_64 engine(5489);
  Sampler sampler({.temperature = 1, .seed = 5489});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(sampler.sample(logits), static_cast<int>(engine() >> 54));
  EXPECT_EQ(Sampler({.temperature = 1, .seed = 5489}).sample(logits), 14514284786278117030u >> 54);
}

TEST(Sampler, FollowsTheProbabilities) {
  const std::vector<double> probabilities = {0.5, 0.3, 0.15, 0.05};
  Sampler sampler({.temperature = 1, .seed = 1});
  constexpr int kDraws = 20000;
  std::vector<int> counts(4);
  for (int i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(sampler.sample(logits_of(probabilities)))];
  for (size_t id = 0; id < counts.size(); ++id) {
    const double p = probabilities[id];
    EXPECT_NEAR(counts[id], kDraws * p, 4 * std::sqrt(kDraws * p * (1 - p))) << id;
  }
}

TEST(Sampler, TopKKeepsTheKMostLikely) {
  const std::vector<float> logits = logits_of({0.1, 0.2, 0.1, 0.4, 0.2});
  EXPECT_EQ(reached({.temperature = 1, .top_k = 1}, logits), (std::set<int>{3}));
  EXPECT_EQ(reached({.temperature = 1, .top_k = 2}, logits),
            (std::set<int>{1, 3}));  // of equal ones the lower id
  EXPECT_EQ(reached({.temperature = 1, .top_k = 3}, logits), (std::set<int>{1, 3, 4}));
  EXPECT_EQ(reached({.temperature = 1, .top_k = 99}, logits), (std::set<int>{0, 1, 2, 3, 4}));
}

TEST(Sampler, TopPKeepsTheFewestThatReachP) {
  const std::vector<float> logits = logits_of({0.1, 0.3, 0.6});
  EXPECT_EQ(reached({.temperature = 1, .top_p = 0.01}, logits), (std::set<int>{2}));
  EXPECT_EQ(reached({.temperature = 1, .top_p = 0.59}, logits), (std::set<int>{2}));
  EXPECT_EQ(reached({.temperature = 1, .top_p = 0.61}, logits), (std::set<int>{1, 2}));
  EXPECT_EQ(reached({.temperature = 1, .top_p = 0.95}, logits), (std::set<int>{0, 1, 2}));
}

TEST(Sampler, TemperatureThenTopKThenTopP) {
  const std::vector<float> logits = logits_of({0.4, 0.3, 0.2, 0.1});
  // Alone, 0.4 does not reach 0.5; as 0.4 / (0.4 + 0.3) it does.
  EXPECT_EQ(reached({.temperature = 1, .top_p = 0.5}, logits), (std::set<int>{0, 1}));
  EXPECT_EQ(reached({.temperature = 1, .top_k = 2, .top_p = 0.5}, logits), (std::set<int>{0}));
  // At temperature 1/4 the first has 0.4^4 / sum = 0.73.
  EXPECT_EQ(reached({.temperature = 0.25, .top_p = 0.5}, logits), (std::set<int>{0}));
}

TEST(Sampler, TinyTemperatureIsGreedy) {
  EXPECT_EQ(reached({.temperature = 1e-300}, {3, 3.0000005f, -1e30f}), (std::set<int>{1}));
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  for (const SamplerOptions& options :
       {SamplerOptions{.temperature = -1}, SamplerOptions{.temperature = std::nan("")},
        SamplerOptions{.temperature = std::numeric_limits<double>::infinity()}, SamplerOptions{.top_k = -1},
        SamplerOptions{.top_p = 0}, SamplerOptions{.top_p = 1.01}, SamplerOptions{.top_p = std::nan("")}}) {
    EXPECT_THROW(Sampler{options}, Error);
  }
}

}  // namespace
}  // namespace anyfp8
