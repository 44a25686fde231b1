#include "anyfp8/model/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>
#include <vector>

#include "anyfp8/base/error.h"
#include "anyfp8/base/threads.h"

namespace anyfp8 {
namespace {

struct Case {
  int64_t heads, kv_heads, head_dim, past, tokens;
};

ModelConfig config_of(const Case& c) {
  ModelConfig config;
  config.layers = 2;
  config.heads = c.heads;
  config.kv_heads = c.kv_heads;
  config.head_dim = c.head_dim;
  config.max_positions = 4096;
  return config;
}

void fill_random(float* values, int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < count; ++i) values[i] = normal(random);
}

// A cache whose layer 1 has keys and values at every position of the case, `past` of them in the sequence.
KvCache filled_cache(const Case& c, std::mt19937& random) {
  KvCache cache(config_of(c), c.past + c.tokens + 3);
  for (int64_t h = 0; h < c.kv_heads; ++h) {
    fill_random(cache.keys(1, h), (c.past + c.tokens) * c.head_dim, random);
    fill_random(cache.values(1, h), (c.past + c.tokens) * c.head_dim, random);
  }
  cache.advance(c.past);
  return cache;
}

// One (token, head) in double. bound: by how much fp32 may differ.
std::vector<double> attend_exactly(const Case& c, KvCache& cache, const std::vector<float>& q, int64_t token,
                                   int64_t head, double& bound) {
  const int64_t kv_head = head / (c.heads / c.kv_heads);
  const float* row = &q[static_cast<size_t>((token * c.heads + head) * c.head_dim)];
  const int64_t visible = c.past + token + 1;
  std::vector<double> score(static_cast<size_t>(visible));
  double largest = -1e300, products = 0, value = 0;
  for (int64_t j = 0; j < visible; ++j) {
    double sum = 0, magnitude = 0;
    for (int64_t d = 0; d < c.head_dim; ++d) {
      const double product = static_cast<double>(row[d]) * cache.keys(1, kv_head)[j * c.head_dim + d];
      sum += product;
      magnitude += std::fabs(product);
      value = std::max(value, std::fabs(static_cast<double>(cache.values(1, kv_head)[j * c.head_dim + d])));
    }
    const double scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
    score[static_cast<size_t>(j)] = sum * scale;
    products = std::max(products, magnitude * scale);
    largest = std::max(largest, sum * scale);
  }
  double weights = 0;
  std::vector<double> out(static_cast<size_t>(c.head_dim));
  for (int64_t j = 0; j < visible; ++j) {
    const double weight = std::exp(score[static_cast<size_t>(j)] - largest);
    weights += weight;
    for (int64_t d = 0; d < c.head_dim; ++d) {
      out[static_cast<size_t>(d)] += weight * cache.values(1, kv_head)[j * c.head_dim + d];
    }
  }
  for (double& o : out) o /= weights;
  // A weight errs by its score's error (head_dim roundings of the products), exp's 2^-22 and one rescaling a
  // block; twice, for sum and total; the sums add a rounding for each key.
  const double weight_error = products * static_cast<double>(c.head_dim + 2) * 0x1p-24 +
                              0x1p-22 * (2 + static_cast<double>(visible) / 64);
  bound = value * (2 * weight_error + 2 * static_cast<double>(visible) * 0x1p-24);
  return out;
}

TEST(Attention, MatchesDoubleForEveryShape) {
  std::mt19937 random(3);
  for (const Case& c : {Case{1, 1, 2, 0, 1}, Case{4, 2, 64, 0, 40}, Case{4, 2, 64, 130, 1},
                        Case{6, 2, 10, 61, 7}, Case{20, 1, 6, 5, 3}, Case{3, 3, 128, 63, 66}}) {
    KvCache cache = filled_cache(c, random);
    std::vector<float> q(static_cast<size_t>(c.tokens * c.heads * c.head_dim)), out(q.size(), 99.0f);
    fill_random(q.data(), static_cast<int64_t>(q.size()), random);
    attend(q.data(), c.tokens, c.heads, cache, 1, out.data());
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t h = 0; h < c.heads; ++h) {
        double bound = 0;
        const std::vector<double> expected = attend_exactly(c, cache, q, t, h, bound);
        for (int64_t d = 0; d < c.head_dim; ++d) {
          ASSERT_NEAR(out[static_cast<size_t>((t * c.heads + h) * c.head_dim + d)],
                      expected[static_cast<size_t>(d)], bound)
              << "heads " << c.heads << " past " << c.past << " token " << t << " head " << h << " dim " << d;
        }
      }
    }
  }
}

TEST(Attention, SameBitsTokenByTokenAndForAnyThreads) {
  std::mt19937 random(4);
  const Case c{6, 2, 32, 70, 90};
  KvCache cache = filled_cache(c, random);
  const int64_t row = c.heads * c.head_dim;
  std::vector<float> q(static_cast<size_t>(c.tokens * row)), together(q.size()), alone(q.size());
  fill_random(q.data(), static_cast<int64_t>(q.size()), random);
  const int threads = num_threads();
  set_num_threads(3);
  attend(q.data(), c.tokens, c.heads, cache, 1, together.data());
  set_num_threads(1);
  for (int64_t t = 0; t < c.tokens; ++t) {
    attend(&q[static_cast<size_t>(t * row)], 1, c.heads, cache, 1, &alone[static_cast<size_t>(t * row)]);
    cache.advance(1);
  }
  set_num_threads(threads);
  EXPECT_EQ(together, alone);
}

TEST(KvCache, RefusesWhatDoesNotFit) {
  const ModelConfig config = config_of({2, 1, 4, 0, 1});
  EXPECT_THROW(KvCache(config, 0), Error);
  EXPECT_THROW(KvCache(config, 4097), Error);
}

TEST(KvCache, TakesMemoryWhenItIsWrittenAndSaysHowMuchDoesNotFit) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers count and end large allocations themselves";
#endif
  ModelConfig config = config_of({2, 1, 64, 0, 1});
  config.max_positions = int64_t{1} << 50;
  const auto resident_pages = [] {
    size_t all = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> all >> resident;
    return resident;
  };
  const size_t before = resident_pages();
  const KvCache cache(config, int64_t{1} << 20);
  EXPECT_EQ(cache.bytes(), size_t{4 * 64 * 4} << 20);
  EXPECT_LT(resident_pages() - before, 1024u);
  try {
    KvCache(config, int64_t{1} << 50);
    ADD_FAILURE() << "was allocated";
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find("ask for fewer tokens"), std::string_view::npos);
  }
}

}  // namespace
}  // namespace anyfp8
