#include "anyfp8/model/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "anyfp8/base/error.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/device/cpu_isa.h"

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

// Layer 1 of a cache that has keys and values at every position of a case, `past` of them in the sequence.
struct Filled {
  Case c;
  std::vector<float> keys, values;  // [positions, kv_heads, head_dim]
  KvCache cache;

  Filled(const Case& of, std::mt19937& random) : c(of), cache(config_of(of), of.past + of.tokens + 3) {
    keys.resize(static_cast<size_t>((c.past + c.tokens) * c.kv_heads * c.head_dim));
    values.resize(keys.size());
    fill_random(keys.data(), static_cast<int64_t>(keys.size()), random);
    fill_random(values.data(), static_cast<int64_t>(values.size()), random);
    for (int64_t p = 0; p < c.past + c.tokens; ++p) write(p);
    cache.advance(c.past);
  }
  size_t place(int64_t position, int64_t kv_head) const {
    return static_cast<size_t>((position * c.kv_heads + kv_head) * c.head_dim);
  }
  void write(int64_t position) {
    for (int64_t h = 0; h < c.kv_heads; ++h) {
      cache.write(1, h, position, &keys[place(position, h)], &values[place(position, h)]);
    }
  }
};

// One (token, head) in double. bound: by how much fp32 may differ.
std::vector<double> attend_exactly(const Filled& filled, const std::vector<float>& q, int64_t token,
                                   int64_t head, double& bound) {
  const Case& c = filled.c;
  const int64_t kv_head = head / (c.heads / c.kv_heads);
  const float* row = &q[static_cast<size_t>((token * c.heads + head) * c.head_dim)];
  const int64_t visible = c.past + token + 1;
  std::vector<double> score(static_cast<size_t>(visible));
  double largest = -1e300, products = 0, value = 0;
  for (int64_t j = 0; j < visible; ++j) {
    double sum = 0, magnitude = 0;
    for (int64_t d = 0; d < c.head_dim; ++d) {
      const size_t at = filled.place(j, kv_head) + static_cast<size_t>(d);
      const double product = static_cast<double>(row[d]) * filled.keys[at];
      sum += product;
      magnitude += std::fabs(product);
      value = std::max(value, std::fabs(static_cast<double>(filled.values[at])));
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
      out[static_cast<size_t>(d)] +=
          weight * filled.values[filled.place(j, kv_head) + static_cast<size_t>(d)];
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

// With the operations of each instruction set that there are some for.
class Attention : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (common_isa(detect_isa(), isa) != isa) GTEST_SKIP() << "this CPU has no " << GetParam();
  }
  void TearDown() override { set_num_threads(threads_); }
  const CpuIsa isa = device_from_name(std::string("cpu:") + GetParam()).isa;
  const VectorOps& ops = vector_ops(isa);
  std::mt19937 random{3};

 private:
  int threads_ = num_threads();
};
INSTANTIATE_TEST_SUITE_P(EveryIsa, Attention, testing::Values("scalar", "avx2", "avx512"),
                         [](const auto& param) { return std::string(param.param); });

TEST_P(Attention, MatchesDoubleForEveryShape) {
  for (const Case& c :
       {Case{1, 1, 2, 0, 1}, Case{4, 2, 64, 0, 40}, Case{4, 2, 64, 130, 1}, Case{6, 2, 10, 61, 7},
        Case{20, 1, 6, 5, 3}, Case{3, 3, 128, 63, 66}, Case{2, 1, 80, 9, 5}}) {
    const Filled filled(c, random);
    std::vector<float> q(static_cast<size_t>(c.tokens * c.heads * c.head_dim)), out(q.size(), 99.0f);
    fill_random(q.data(), static_cast<int64_t>(q.size()), random);
    attend(ops, q.data(), c.tokens, c.heads, filled.cache, 1, out.data());
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t h = 0; h < c.heads; ++h) {
        double bound = 0;
        const std::vector<double> expected = attend_exactly(filled, q, t, h, bound);
        for (int64_t d = 0; d < c.head_dim; ++d) {
          ASSERT_NEAR(out[static_cast<size_t>((t * c.heads + h) * c.head_dim + d)],
                      expected[static_cast<size_t>(d)], bound)
              << "heads " << c.heads << " past " << c.past << " token " << t << " head " << h << " dim " << d;
        }
      }
    }
  }
}

TEST_P(Attention, SameBitsTokenByTokenAndForAnyThreads) {
  for (const Case& c : {Case{6, 2, 32, 70, 90}, Case{7, 1, 80, 0, 40}, Case{2, 2, 128, 60, 70}}) {
    Filled filled(c, random);
    const int64_t row = c.heads * c.head_dim;
    std::vector<float> q(static_cast<size_t>(c.tokens * row)), together(q.size()), alone(q.size());
    fill_random(q.data(), static_cast<int64_t>(q.size()), random);
    set_num_threads(3);
    attend(ops, q.data(), c.tokens, c.heads, filled.cache, 1, together.data());
    set_num_threads(1);
    for (int64_t t = 0; t < c.tokens; ++t) {
      const auto at = static_cast<size_t>(t * row);
      attend(ops, &q[at], 1, c.heads, filled.cache, 1, &alone[at]);
      filled.cache.advance(1);
    }
    EXPECT_EQ(together, alone);
  }
}

// Tokens of one pass are computed beside each other; what the later ones hold must not reach the earlier
// ones.
TEST_P(Attention, LaterTokensThatAreNotFiniteChangeNothing) {
  const Case c{6, 2, 32, 50, 30};
  Filled filled(c, random);
  std::vector<float> q(static_cast<size_t>(c.tokens * c.heads * c.head_dim)), before(q.size()),
      after(q.size());
  fill_random(q.data(), static_cast<int64_t>(q.size()), random);
  attend(ops, q.data(), c.tokens, c.heads, filled.cache, 1, before.data());
  constexpr int64_t kToken = 17;
  for (int64_t h = 0; h < c.kv_heads; ++h) {
    filled.keys[filled.place(c.past + kToken, h)] = std::numeric_limits<float>::quiet_NaN();
    filled.values[filled.place(c.past + kToken, h)] = std::numeric_limits<float>::infinity();
  }
  filled.write(c.past + kToken);
  attend(ops, q.data(), c.tokens, c.heads, filled.cache, 1, after.data());
  const auto earlier = static_cast<size_t>(kToken * c.heads * c.head_dim);
  for (size_t i = 0; i < earlier; ++i) ASSERT_EQ(after[i], before[i]) << i;
  EXPECT_TRUE(std::isnan(after[earlier]));
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
