#include "anyfp8/parallel/overlap_plan.h"

#include <algorithm>

namespace anyfp8 {
namespace {

// Of two H200 on NVLink with NCCL 2.28, bf16 (bench/results/h200_x2.jsonl): what a product sustains, and what
// an all-reduce of 16 MiB and more takes, its bytes counted as NCCL counts them.
constexpr double kFlopPerUs = 670e6, kReduceUs = 25, kBytesPerUs = 300e3;
// What a second part costs: its launches, tiles that are not full, and the SMs that NCCL takes from the
// product. Four parts were never better than two: their products are too short.
constexpr double kPartUs = 15;
// Below, a part's product no longer reaches that rate.
constexpr int64_t kLeastTokens = 1024;

}  // namespace

int64_t overlap_parts(int64_t m, int64_t n, int64_t largest_k, int ranks, DType sums, const Device& device) {
  // Measured on Hopper alone; elsewhere nothing is known to be gained.
  if (device.cc.major != 9 || ranks < 2 || m < 2 * kLeastTokens) return 1;
  const double elements = static_cast<double>(m) * static_cast<double>(n);
  const double product_us = 2 * elements * static_cast<double>(largest_k) / kFlopPerUs;
  const double moved = 2.0 * (ranks - 1) / ranks * elements * static_cast<double>(dtype_bytes(sums));
  // Beside the second part's product the first part's sums travel; the second's travel alone.
  const double half_us = kReduceUs + moved / 2 / kBytesPerUs;
  const double hidden_us = std::min(half_us, product_us / 2) - kReduceUs;
  return hidden_us > kPartUs ? 2 : 1;
}

}  // namespace anyfp8
