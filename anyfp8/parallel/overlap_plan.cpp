#include "anyfp8/parallel/overlap_plan.h"

#include <algorithm>

namespace anyfp8 {
namespace {

// Of two H200 on NVLink with NCCL 2.28, bf16 (bench/results/h200_x2.jsonl): what a product sustains, what an
// all-reduce costs at least, and how fast its bytes go, counted as NCCL counts them.
constexpr double kFlopPerUs = 650e6, kReduceUs = 12, kBytesPerUs = 330e3;
// What a further part costs: launches, tiles that are not full, and the SMs that NCCL takes from the product.
constexpr double kPartUs = 12;
// Below, a part's product no longer reaches that rate.
constexpr int64_t kLeastTokens = 1024;

double time_us(int64_t parts, double product_us, double bytes, int ranks) {
  const auto p = static_cast<double>(parts);
  const double moved = 2.0 * (ranks - 1) / ranks * bytes / p;
  const double reduce_us = kReduceUs + moved / kBytesPerUs;
  // The last part's sums travel alone, those of the others beside a product.
  const double exposed_us = (p - 1) * std::max(0.0, reduce_us - product_us / p);
  return product_us + reduce_us + exposed_us + (p - 1) * kPartUs;
}

}  // namespace

int64_t overlap_parts(int64_t m, int64_t n, int64_t largest_k, int ranks, DType sums, const Device& device) {
  // Measured on Hopper alone; elsewhere nothing is known to be gained.
  if (device.cc.major != 9 || ranks < 2) return 1;
  const double elements = static_cast<double>(m) * static_cast<double>(n);
  const double product_us = 2 * elements * static_cast<double>(largest_k) / kFlopPerUs;
  const double bytes = elements * static_cast<double>(dtype_bytes(sums));
  int64_t best = 1;
  for (const int64_t parts : {2, 4}) {
    if (m / parts < kLeastTokens) break;
    if (time_us(parts, product_us, bytes, ranks) < time_us(best, product_us, bytes, ranks)) best = parts;
  }
  return best;
}

}  // namespace anyfp8
