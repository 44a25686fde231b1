#include "anyfp8/parallel/overlap_plan.h"

#include <algorithm>

namespace anyfp8 {
namespace {

// Of two H200 on NVLink with NCCL 2.28, bf16 (bench/results/h200_x2.jsonl): what a product sustains, and what
// an all-reduce of 16 MiB and more takes, its bytes counted as NCCL counts them.
constexpr double kFlopPerUs = 670e6, kReduceUs = 25, kBytesPerUs = 300e3;
// What a second part costs: its launches, tiles that are not full, and the SMs that NCCL takes from the
// product. In us, at once and in 2 and 4 parts: 8192 -> 28672 -> 8192 at m = 4096 3077, 3056, 3045, with W8A8
// 1869, 1840, 1887, at m = 2048 1534, 1526, 1551; 16384 -> 53248 -> 16384 at 4096 11318, 11087, 11290;
// 4096 -> 14336 -> 4096 at 4096 836, 853, 859. That is 50 to 90 us less than could be hidden, but for the
// largest, and four parts are seldom worth it.
constexpr double kPartUs = 75;
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
