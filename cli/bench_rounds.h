#pragma once

#include <cstddef>
#include <vector>

#include "cli/bench_method.h"

namespace anyfp8::cli {

// What one method took in each round. The n-th entries of two methods stand side by side in time.
struct Samples {
  std::vector<double> times_us;
  std::vector<bool> preempted;  // another process took a CPU away during the call
  int repeated = 0;             // calls that were preempted and done again
};

// Round after round, each method gets one turn: a call to warm its threads up, and one that is timed; at
// least five rounds and `least_rounds`, and `seconds` for each method. Methods run on copies in turn. A short
// call that was preempted is done again.
std::vector<Samples> measure_rounds(const std::vector<BenchMethod*>& methods, double seconds,
                                    size_t least_rounds = 0);

// Of the calls that were not preempted, as long as there are five; else of all, and then it is disturbed.
struct Spread {
  double median, least;
  int used, calls, preempted;
  bool disturbed;
};
Spread spread_us(const Samples& samples);

// Of two things measured side by side.
struct Ratio {
  double value;
  bool disturbed;  // fewer than five rounds left both alone, so rounds that were preempted are in it
};
// Median over the rounds of slow's time / fast's time in the same round.
Ratio time_ratio(const Samples& slow, const Samples& fast);

}  // namespace anyfp8::cli
