// The numbers of `anyfp8 bench`, from samples written by hand.
#include "cli/bench_report.h"

#include <gtest/gtest.h>

#include "cli/bench_weights.h"

namespace anyfp8::cli {
namespace {

using Kind = BenchMethod::Kind;

struct WrittenMethod : BenchMethod {
  WrittenMethod(Kind its_kind, std::string its_name, double its_bytes, double its_flops)
      : bytes(its_bytes), flop_count(its_flops) {
    kind = its_kind;
    name = std::move(its_name);
  }
  Verdict prepare(const Activations&) override { return Verdict::yes(); }
  void run(size_t) override {}
  double flops() const override { return flop_count; }
  double read_bytes() const override { return bytes; }
  double bytes, flop_count;
};

Samples samples_of(std::vector<double> times_us, std::vector<bool> preempted = {}) {
  preempted.resize(times_us.size());
  return {std::move(times_us), std::move(preempted)};
}

BenchRow kernel_row(MatrixShape shape, double of_read, std::vector<std::pair<std::string, Ratio>> versus) {
  BenchRow row{.kind = Kind::kKernel, .name = "ours", .scheme = "channel", .shape = shape, .m = 1};
  row.of_read = Ratio{of_read, false};
  row.versus = std::move(versus);
  return row;
}

TEST(BenchReport, RatiosAreMediansOfRounds) {
  // Of the rounds 1, 2, 4, 8 and 16, not of the medians 20 / 10.
  const Ratio ratio = time_ratio(samples_of({10, 20, 40, 8, 160}), samples_of({10, 10, 10, 1, 10}));
  EXPECT_DOUBLE_EQ(ratio.value, 4);
  EXPECT_FALSE(ratio.disturbed);
}

TEST(BenchReport, PreemptedSamplesAreDropped) {
  Samples samples = samples_of({900, 5, 1, 4, 2, 3, 800}, {true, false, false, false, false, false, true});
  samples.repeated = 4;
  const Spread spread = spread_us(samples);
  EXPECT_DOUBLE_EQ(spread.median, 3);
  EXPECT_DOUBLE_EQ(spread.least, 1);
  EXPECT_EQ(spread.used, 5);
  EXPECT_EQ(spread.calls, 11);
  EXPECT_EQ(spread.preempted, 6);
  EXPECT_FALSE(spread.disturbed);
  const Samples one_us = samples_of({1, 1, 1, 1, 1, 1, 1});
  EXPECT_DOUBLE_EQ(time_ratio(samples, one_us).value, 3);
  EXPECT_DOUBLE_EQ(time_ratio(one_us, samples).value, 1.0 / 3);
}

TEST(BenchReport, WhatIsLeftOfTooFewRoundsIsMarked) {
  // Each alone has five good samples, but only four rounds are good for both.
  const Samples a = samples_of({2, 2, 2, 2, 2, 2}, {true}), b = samples_of({1, 1, 1, 1, 1, 1}, {false, true});
  EXPECT_FALSE(spread_us(a).disturbed);
  EXPECT_FALSE(spread_us(b).disturbed);
  EXPECT_TRUE(time_ratio(a, b).disturbed);

  WrittenMethod kernel(Kind::kKernel, "ours", 1, 1), peer(Kind::kPeer, "theirs", 1, 1);
  const auto rows = make_rows({{&kernel, Verdict::yes()}, {&peer, Verdict::yes()}}, {b, a}, {64, 64}, 1);
  EXPECT_NE(rows_text(rows).find("~2.00"), std::string::npos) << rows_text(rows);
  EXPECT_EQ(row_json({}, rows[0])["disturbed"], true);
  EXPECT_NE(disturbance_text(rows).find("1 of 2 rows"), std::string::npos) << disturbance_text(rows);
  const auto means = make_means(rows);
  EXPECT_NE(means_text(means).find("~2.00"), std::string::npos) << means_text(means);
  EXPECT_EQ(mean_json({}, means[0])["disturbed"], true);
}

TEST(BenchReport, ARowComparesWithEverythingOfItsRound) {
  WrittenMethod first(Kind::kKernel, "ours", 1000, 4000), second(Kind::kKernel, "ours", 2000, 4000);
  second.scheme_index = 1;
  WrittenMethod absent(Kind::kPeer, "absent", 0, 0), peer(Kind::kPeer, "theirs", 4000, 4000);
  WrittenMethod read(Kind::kRead, "read", 1000, 0), peak(Kind::kPeak, "peak", 0, 16000);
  const auto five = [](double us) { return samples_of(std::vector<double>(5, us)); };
  const auto rows = make_rows({{&first, Verdict::yes()},
                               {&second, Verdict::yes()},
                               {&absent, Verdict::no("it is not here")},
                               {&peer, Verdict::yes()},
                               {&read, Verdict::yes()},
                               {&peak, Verdict::yes()}},
                              {five(10), five(25), five(50), five(8), five(20)}, {64, 128}, 3);
  ASSERT_EQ(rows.size(), 6u);
  EXPECT_DOUBLE_EQ(rows[0].gb_per_s, 0.1);
  EXPECT_DOUBLE_EQ(rows[0].gflop_per_s, 0.4);
  EXPECT_DOUBLE_EQ(rows[0].of_read->value, 0.8);
  EXPECT_DOUBLE_EQ(rows[0].of_peak->value, 0.5);  // 4 of 16 kflop in half the time
  EXPECT_FALSE(rows[0].of_first_scheme);
  ASSERT_EQ(rows[0].versus.size(), 1u);
  EXPECT_EQ(rows[0].versus[0].first, "theirs");
  EXPECT_DOUBLE_EQ(rows[0].versus[0].second.value, 5);
  EXPECT_DOUBLE_EQ(rows[1].of_read->value, 0.64);  // twice the bytes of `read`, in 25 / 8 of its time
  EXPECT_DOUBLE_EQ(rows[1].of_first_scheme->value, 2.5);
  EXPECT_EQ(rows[2].refused, "it is not here");
  EXPECT_DOUBLE_EQ(rows[3].of_read->value, 0.64);
  EXPECT_TRUE(rows[3].versus.empty());
  EXPECT_FALSE(rows[4].of_read || rows[5].of_peak);
}

TEST(BenchReport, OfTheRooflineIsTheLargerPart) {
  WrittenMethod read(Kind::kRead, "read", 1000, 0), peak(Kind::kPeak, "peak", 0, 1000);
  for (const double flops : {100.0, 800.0}) {
    WrittenMethod kernel(Kind::kKernel, "ours", 500, flops);
    const Samples same = samples_of({1, 1, 1, 1, 1});
    const auto rows = make_rows({{&kernel, Verdict::yes()}, {&read, Verdict::yes()}, {&peak, Verdict::yes()}},
                                {same, same, same}, {64, 64}, 1);
    EXPECT_DOUBLE_EQ(row_json({}, rows[0])["of_roof"], std::max(0.5, flops / 1000));
    EXPECT_FALSE(row_json({}, rows[1]).contains("of_roof"));
  }
}

// A replay of a CUDA graph.
TEST(BenchReport, AMethodThatMeasuresByItselfIsBelieved) {
  struct Replay : WrittenMethod {
    using WrittenMethod::WrittenMethod;
    Timed timed_run(size_t) override { return {1e-3, false}; }
  } replay(Kind::kKernel, "ours", 1, 1);
  const std::vector<Samples> samples = measure_rounds({&replay}, 0, 15);
  EXPECT_EQ(samples[0].times_us, std::vector<double>(15, 1e-3));
}

TEST(BenchReport, MeansAreGeometricAndOverEveryShape) {
  const auto means =
      make_means({kernel_row({64, 64}, 0.5, {{"everywhere", {2, false}}, {"here", {5, false}}}),
                  kernel_row({64, 128}, 0.98, {{"everywhere", {8, false}}})});
  ASSERT_EQ(means.size(), 1u);
  EXPECT_EQ(means[0].shapes, 2);
  EXPECT_NEAR(means[0].of_read->value, 0.7, 1e-12);
  EXPECT_FALSE(means[0].of_peak);
  ASSERT_EQ(means[0].versus.size(), 1u);
  EXPECT_EQ(means[0].versus[0].first, "everywhere");
  EXPECT_NEAR(means[0].versus[0].second.value, 4, 1e-12);
}

TEST(BenchReport, CopiesOfAWeightFillSeveralCaches) {
  constexpr size_t kMiB = 1 << 20;
  for (const size_t bytes : {kMiB, 3 * kMiB, 58 * kMiB})
    EXPECT_GE(copies_for(bytes) * bytes, 3 * 32 * kMiB) << bytes;
  EXPECT_EQ(copies_for(size_t{1} << 40), 2u);
  EXPECT_EQ(copies_for(1), 64u);
}

TEST(BenchReport, CopiesOnACudaDeviceAre400MBAndFourTimesTheL2) {
  Device device{.kind = DeviceKind::kCuda, .l2_bytes = 60'000'000};
  constexpr size_t kBytes = 4096 * 4096;
  EXPECT_EQ(copies_for(device, kBytes), 24u);
  device.l2_bytes = 126'000'000;
  EXPECT_EQ(copies_for(device, kBytes), 31u);
  EXPECT_EQ(copies_for(device, size_t{1} << 40), 2u);
}

}  // namespace
}  // namespace anyfp8::cli
