#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "anyfp8/kernels/select.h"

namespace anyfp8::cli {

// What each kernel took for m tokens, measured side by side.
struct KernelTimes {
  std::vector<double> us;
  bool disturbed = false;  // other processes had a part in it: nothing is changed for that
};
// Called again it measures again.
using MeasureKernels = std::function<KernelTimes(std::span<const Kernel* const>, int64_t m)>;

// One m that was measured.
struct TunePoint {
  int64_t m;
  const Kernel* built_in;
  const Kernel* best;  // another one only where it won by more than 3 %, twice
  double built_in_us, best_us;
};

struct TuneResult {
  std::vector<TunedRange> ranges;  // for TunedLayer
  std::vector<TunePoint> points;   // m ascending
};

// Finds the m where another of `kernels` is faster than the built-in choice: at each of `tokens` (ascending),
// then between two neighbours that want different kernels, halving until they are 1/16 apart. What lies
// between two of those keeps its built-in kernel; a change at the first or last m holds as far as the
// built-in range there does. A kernel that is hopeless at some m is not measured at larger ones.
TuneResult tune_layer(const Selection& built_in, std::span<const Kernel* const> kernels,
                      std::span<const int64_t> tokens, const MeasureKernels& measure);

// The kernels to measure: those that could take a range of `selection`, in the order of the list.
std::vector<const Kernel*> tunable_kernels(const Selection& selection, const LinearConfig& config);

}  // namespace anyfp8::cli
