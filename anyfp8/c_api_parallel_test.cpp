#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "anyfp8/c_api.h"

// Shards, one rank and its layers, through c_api.h alone. Several ranks: tests/ranks_test.cpp and, through
// this ABI, python/tests/test_parallel.py.
namespace {

template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* handle) const {
    Free(handle);
  }
};
using Device = std::unique_ptr<anyfp8_device, Freed<anyfp8_device_free>>;
using Weight = std::unique_ptr<anyfp8_weight, Freed<anyfp8_weight_free>>;
using Comm = std::unique_ptr<anyfp8_comm, Freed<anyfp8_comm_free>>;
using Layer = std::unique_ptr<anyfp8_parallel_linear, Freed<anyfp8_parallel_linear_free>>;

#define OK(call) ASSERT_EQ(call, ANYFP8_OK) << anyfp8_last_error()

template <typename Handle, typename Make>
Handle made(Make&& make) {
  typename Handle::pointer handle = nullptr;
  EXPECT_EQ(make(&handle), ANYFP8_OK) << anyfp8_last_error();
  return Handle(handle);
}

void expect_refused(int code, int expected, const std::string& part) {
  EXPECT_EQ(code, expected) << anyfp8_last_error();
  EXPECT_NE(std::string(anyfp8_last_error()).find(part), std::string::npos) << anyfp8_last_error();
}

constexpr int64_t kN = 96, kK = 80;

Weight weight() {
  std::vector<float> values(kN * kK);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 23) - 11;
  return made<Weight>(
      [&](auto w) { return anyfp8_weight_quantize(values.data(), ANYFP8_F32, kN, kK, "channel", w); });
}

std::vector<float> values_of(const anyfp8_weight* w) {
  int64_t n = 0, k = 0;
  EXPECT_EQ(anyfp8_weight_shape(w, &n, &k), ANYFP8_OK);
  std::vector<float> rows(static_cast<size_t>(n * k));
  EXPECT_EQ(anyfp8_weight_dequantize(w, 0, n, rows.data(), rows.size()), ANYFP8_OK);
  return rows;
}

Weight shard_of(const anyfp8_weight* w, int32_t split, int32_t rank, int32_t size) {
  return made<Weight>([&](auto s) { return anyfp8_weight_shard(w, split, rank, size, s); });
}

TEST(CApiParallel, ShardsAreTheWeightInParts) {
  const Weight whole = weight();
  const std::vector<float> all = values_of(whole.get());
  std::vector<float> stacked;
  for (int32_t rank = 0; rank < 3; ++rank) {
    int64_t begin = 0, end = 0;
    OK(anyfp8_shard_range(kN, rank, 3, &begin, &end));
    const std::vector<float> part = values_of(shard_of(whole.get(), ANYFP8_SPLIT_COLUMN, rank, 3).get());
    EXPECT_EQ(part.size(), static_cast<size_t>((end - begin) * kK));
    stacked.insert(stacked.end(), part.begin(), part.end());
  }
  EXPECT_EQ(stacked, all);
  int64_t begin = 0, end = 0;
  OK(anyfp8_shard_range(kK, 1, 2, &begin, &end));
  const std::vector<float> right = values_of(shard_of(whole.get(), ANYFP8_SPLIT_ROW, 1, 2).get());
  for (int64_t row = 0; row < kN; ++row)
    EXPECT_EQ(std::memcmp(&right[static_cast<size_t>(row * (end - begin))],
                          &all[static_cast<size_t>(row * kK + begin)],
                          static_cast<size_t>(end - begin) * sizeof(float)),
              0);
  // gate/up of 48 each: rank 1 has the second half of both.
  const int64_t parts[] = {48, 48};
  const Weight fused =
      made<Weight>([&](auto s) { return anyfp8_weight_shard_merged(whole.get(), parts, 2, 1, 2, s); });
  const std::vector<float> second = values_of(fused.get());
  OK(anyfp8_shard_range(48, 1, 2, &begin, &end));
  EXPECT_EQ(std::vector<float>(second.begin(), second.begin() + (end - begin) * kK),
            std::vector<float>(all.begin() + begin * kK, all.begin() + end * kK));
  const Weight qkv =
      made<Weight>([&](auto s) { return anyfp8_weight_shard_qkv(whole.get(), 4, 1, 16, 1, 2, s); });
  int64_t n = 0, k = 0;
  OK(anyfp8_weight_shape(qkv.get(), &n, &k));
  EXPECT_EQ(n, (2 + 1 + 1) * 16) << "two q heads, and the one kv head, which both ranks have";
}

TEST(CApiParallel, WhatCannotBeSharedIsRefused) {
  const Weight whole = weight();
  anyfp8_weight* shard = nullptr;
  int64_t begin = 0, end = 0;
  expect_refused(anyfp8_weight_shard(whole.get(), 0, 0, 2, &shard), ANYFP8_INVALID_ARGUMENT, "split = 0");
  expect_refused(anyfp8_weight_shard(whole.get(), ANYFP8_SPLIT_ROW, 0, 1000, &shard), ANYFP8_INVALID_ARGUMENT,
                 "1000 ranks");
  expect_refused(anyfp8_shard_range(10, 2, 2, &begin, &end), ANYFP8_INVALID_ARGUMENT, "rank");
  expect_refused(anyfp8_token_range(-1, 0, 2, &begin, &end), ANYFP8_INVALID_ARGUMENT, "m = -1");
  expect_refused(anyfp8_weight_shard(nullptr, 1, 0, 2, &shard), ANYFP8_INVALID_ARGUMENT, "`weight` is NULL");
}

TEST(CApiParallel, TheLauncherIsAskedWithoutAComm) {
  setenv("ANYFP8_LAUNCH", "none", 1);
  int32_t rank = -1, size = -1, local_rank = -1;
  OK(anyfp8_launched_as(&rank, &size, &local_rank));
  EXPECT_EQ((std::array{rank, size, local_rank}), (std::array{0, 1, 0}));
  unsetenv("ANYFP8_LAUNCH");
  for (const auto& [name, value] : {std::pair{"RANK", "5"},
                                    {"WORLD_SIZE", "8"},
                                    {"LOCAL_RANK", "1"},
                                    {"MASTER_ADDR", "a"},
                                    {"MASTER_PORT", "1"}})
    setenv(name, value, 1);
  OK(anyfp8_launched_as(&rank, &size, &local_rank));
  EXPECT_EQ((std::array{rank, size, local_rank}), (std::array{5, 8, 1}));
  OK(anyfp8_launched_as(nullptr, &size, nullptr));
  setenv("RANK", "x", 1);
  expect_refused(anyfp8_launched_as(&rank, nullptr, nullptr), ANYFP8_INVALID_ARGUMENT, "RANK is 'x'");
  for (const char* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}) unsetenv(name);
}

class OneRank : public testing::Test {
 protected:
  OneRank() {
    setenv("ANYFP8_LAUNCH", "none", 1);
    comm_ = made<Comm>([&](auto c) { return anyfp8_comm_open(cpu_.get(), nullptr, nullptr, c); });
  }
  Layer layer(const anyfp8_weight* weight, const anyfp8_parallel_options& parallel) {
    anyfp8_linear_options options{};
    options.struct_size = sizeof options;
    options.in_dtype = options.out_dtype = ANYFP8_F32;
    return made<Layer>([&](auto l) {
      return anyfp8_parallel_linear_create(comm_.get(), weight, &parallel, &options, nullptr, l);
    });
  }
  Device cpu_ = made<Device>([](auto d) { return anyfp8_device_open("cpu", d); });
  Comm comm_;
};

TEST_F(OneRank, IsEngineRankAndSize) {
  char* json = nullptr;
  OK(anyfp8_comm_json(comm_.get(), &json));
  const auto about = nlohmann::json::parse(json);
  anyfp8_string_free(json);
  EXPECT_EQ(about, (nlohmann::json{{"engine", "self"}, {"rank", 0}, {"size", 1}, {"device", "cpu"}}));
  int32_t rank = -1, size = -1;
  OK(anyfp8_comm_rank(comm_.get(), &rank, &size));
  EXPECT_EQ(rank, 0);
  EXPECT_EQ(size, 1);
  OK(anyfp8_comm_check(comm_.get()));
  OK(anyfp8_comm_barrier(comm_.get(), nullptr));
}

TEST_F(OneRank, SumsAndGathersItself) {
  float x[3] = {1, 2, 3}, y[3] = {};
  const int64_t count = 3;
  OK(anyfp8_comm_all_reduce(comm_.get(), x, ANYFP8_F32, y, ANYFP8_F32, 3, nullptr, 0, nullptr));
  EXPECT_EQ(y[2], 3);
  y[2] = 0;
  OK(anyfp8_comm_all_gather(comm_.get(), x, y, ANYFP8_F32, &count, nullptr, 0, nullptr));
  EXPECT_EQ(y[2], 3);
  y[2] = 0;
  OK(anyfp8_comm_reduce_scatter(comm_.get(), x, ANYFP8_F32, y, ANYFP8_F32, &count, nullptr, 0, nullptr));
  EXPECT_EQ(y[2], 3);
  OK(anyfp8_comm_broadcast(comm_.get(), y, sizeof y, 0, nullptr));
  expect_refused(anyfp8_comm_all_reduce(comm_.get(), x, ANYFP8_E4M3, y, ANYFP8_F32, 3, nullptr, 0, nullptr),
                 ANYFP8_INVALID_ARGUMENT, "f32, bf16 and f16");
  expect_refused(anyfp8_comm_broadcast(comm_.get(), y, 4, 3, nullptr), ANYFP8_INVALID_ARGUMENT, "rank 3");
}

TEST_F(OneRank, LayersAreThoseOfOneDevice) {
  const Weight whole = weight();
  std::vector<float> x(2 * kK), expected(2 * kN);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 5) - 2;
  const std::vector<float> w = values_of(whole.get());
  for (int64_t m = 0; m < 2; ++m)
    for (int64_t n = 0; n < kN; ++n)
      for (int64_t k = 0; k < kK; ++k)
        expected[static_cast<size_t>(m * kN + n)] +=
            x[static_cast<size_t>(m * kK + k)] * w[static_cast<size_t>(n * kK + k)];
  for (const int32_t split : {ANYFP8_SPLIT_COLUMN, ANYFP8_SPLIT_ROW}) {
    const Layer linear = layer(whole.get(), {sizeof(anyfp8_parallel_options), split, 0, 0, 0});
    int64_t x_cols = 0, y_cols = 0;
    OK(anyfp8_parallel_linear_shape(linear.get(), &x_cols, &y_cols));
    EXPECT_EQ(x_cols, kK);
    EXPECT_EQ(y_cols, kN);
    size_t bytes = 0, resident = 0;
    OK(anyfp8_parallel_linear_workspace_bytes(linear.get(), 2, &bytes));
    OK(anyfp8_parallel_linear_resident_bytes(linear.get(), &resident));
    EXPECT_GE(resident, static_cast<size_t>(kN * kK));
    std::vector<std::byte> memory(bytes + 64);
    void* scratch = memory.data();
    size_t room = memory.size();
    std::align(64, bytes, scratch, room);
    std::vector<float> y(2 * kN, -1);
    comm_.reset();  // the layer keeps it
    OK(anyfp8_parallel_linear_apply(linear.get(), x.data(), kK, y.data(), kN, 2, scratch, bytes, nullptr));
    for (size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], expected[i], 1e-2) << i;
    char* text = nullptr;
    OK(anyfp8_parallel_linear_explain(linear.get(), &text));
    EXPECT_NE(std::string(text), "");
    anyfp8_string_free(text);
    comm_ = made<Comm>([&](auto c) { return anyfp8_comm_open(cpu_.get(), nullptr, nullptr, c); });
  }
}

TEST_F(OneRank, OptionsThatMeanNothingAreRefused) {
  const Weight whole = weight();
  anyfp8_parallel_linear* linear = nullptr;
  const auto create = [&](const anyfp8_parallel_options& parallel) {
    return anyfp8_parallel_linear_create(comm_.get(), whole.get(), &parallel, nullptr, nullptr, &linear);
  };
  constexpr size_t kBytes = sizeof(anyfp8_parallel_options);
  expect_refused(create({kBytes, 0, 0, 0, 0}), ANYFP8_INVALID_ARGUMENT, "split = 0");
  expect_refused(create({kBytes, ANYFP8_SPLIT_ROW, 2, 0, 0}), ANYFP8_INVALID_ARGUMENT, "sequence_parallel");
  expect_refused(create({kBytes, ANYFP8_SPLIT_ROW, 0, 1, 0}), ANYFP8_INVALID_ARGUMENT, "gather_output");
  expect_refused(create({kBytes, ANYFP8_SPLIT_ROW, 0, 0, 3}), ANYFP8_INVALID_ARGUMENT, "reduce = 3");
  expect_refused(create({3, ANYFP8_SPLIT_ROW, 0, 0, 0}), ANYFP8_INVALID_ARGUMENT, "struct_size");
}

TEST(CApiParallel, ACommunicatorOfSomebodyElsesIsOfAGpu) {
  const Device cpu = made<Device>([](auto d) { return anyfp8_device_open("cpu", d); });
  anyfp8_comm* comm = nullptr;
  expect_refused(anyfp8_comm_adopt_nccl(cpu.get(), nullptr, &comm), ANYFP8_INVALID_ARGUMENT,
                 "`nccl_comm` is NULL");
}

}  // namespace
