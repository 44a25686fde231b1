#include "cli/bench_rounds.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>

namespace anyfp8::cli {
namespace {

constexpr size_t kLeastSamples = 5;

using Clock = std::chrono::steady_clock;

long involuntary_switches() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

double median(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

struct Kept {
  std::vector<double> values;  // whose `preempted` is false, or all if these are fewer than needed
  bool disturbed;              // all
};
Kept keep_undisturbed(const std::vector<double>& values, const std::vector<bool>& preempted) {
  std::vector<double> kept;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!preempted[i]) kept.push_back(values[i]);
  }
  if (kept.size() < kLeastSamples) return {values, true};
  return {std::move(kept), false};
}

// One turn of a method in one round.
void take_turn(BenchMethod& method, size_t round, Samples& samples) {
  // Threads that slept make the first call up to twice as long; of long calls that is nothing.
  constexpr double kWarmedBelowUs = 250'000;
  // A call that was preempted is done again while that is cheap.
  constexpr int kMostTries = 8;
  constexpr double kMostTriesUs = 40'000;
  if (round == 0 || samples.times_us.back() < kWarmedBelowUs) method.run(round);
  double turn_us = 0;
  for (int attempt = 1;; ++attempt) {
    const auto [us, preempted] = method.timed_run(round + static_cast<size_t>(attempt));
    turn_us += us;
    if (preempted && attempt < kMostTries && turn_us < kMostTriesUs) {
      ++samples.repeated;
      continue;
    }
    samples.times_us.push_back(us);
    samples.preempted.push_back(preempted);
    return;
  }
}

}  // namespace

BenchMethod::Timed BenchMethod::timed_run(size_t turn) {
  const long switches = involuntary_switches();
  const auto start = Clock::now();
  run(turn);
  const double us = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  return {us, involuntary_switches() != switches};
}

std::vector<Samples> measure_rounds(const std::vector<BenchMethod*>& methods, double seconds,
                                    size_t least_rounds) {
  std::vector<Samples> samples(methods.size());
  const auto begin = Clock::now();
  const std::chrono::duration<double> budget(seconds * static_cast<double>(methods.size()));
  for (size_t round = 0; round < std::max(least_rounds, kLeastSamples) || Clock::now() - begin < budget;
       ++round) {
    for (size_t turn = 0; turn < methods.size(); ++turn) {
      // Back and forth, so that none always runs after the same one.
      const size_t i = round % 2 == 0 ? turn : methods.size() - 1 - turn;
      take_turn(*methods[i], round, samples[i]);
    }
  }
  return samples;
}

Spread spread_us(const Samples& samples) {
  auto [kept, disturbed] = keep_undisturbed(samples.times_us, samples.preempted);
  const double middle = median(kept);
  const auto preempted =
      static_cast<size_t>(std::count(samples.preempted.begin(), samples.preempted.end(), true));
  return {.median = middle,
          .least = kept.front(),
          .used = static_cast<int>(kept.size()),
          .calls = static_cast<int>(samples.times_us.size()) + samples.repeated,
          .preempted = static_cast<int>(preempted) + samples.repeated,
          .disturbed = disturbed};
}

Ratio time_ratio(const Samples& slow, const Samples& fast) {
  std::vector<double> ratios;
  std::vector<bool> preempted;
  for (size_t i = 0; i < slow.times_us.size(); ++i) {
    ratios.push_back(slow.times_us[i] / fast.times_us[i]);
    preempted.push_back(slow.preempted[i] || fast.preempted[i]);
  }
  auto [kept, disturbed] = keep_undisturbed(ratios, preempted);
  return {median(kept), disturbed};
}

}  // namespace anyfp8::cli
