// Random layers, tokens, strides and alignments on a GPU for ANYFP8_SOAK_SECONDS, against the formula in
// double, with guards round every buffer. ANYFP8_SOAK_SEED repeats a run.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "tests/gpu_case.h"

namespace anyfp8 {
namespace {

using namespace test;

class Cases {
 public:
  explicit Cases(unsigned seed) : random_(seed) {}

  int64_t below(int64_t bound) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(bound)); }
  template <typename T>
  const T& one_of(const std::vector<T>& items) {
    return items[static_cast<size_t>(below(static_cast<int64_t>(items.size())))];
  }
  // Small ones mostly, every other a multiple of what tiles are made of.
  int64_t extent(int64_t largest) {
    const int64_t limit = one_of<int64_t>({16, 130, 600, largest});
    const int64_t value = 1 + below(std::min(limit, largest));
    const int64_t granule = one_of<int64_t>({1, 1, 8, 16, 64, 128});
    return (value + granule - 1) / granule * granule;
  }
  LinearConfig config() {
    std::vector<QuantKey> keys = checkpoint_schemes();
    keys.push_back({.group = {64, 96}});
    keys.push_back({.group = {1, 7}});
    for (const DType wide : {DType::kBF16, DType::kF16, DType::kF32}) keys.push_back({.dtype = wide});
    const std::vector<DType> types = {DType::kBF16, DType::kF16, DType::kBF16, DType::kF16, DType::kF32};
    const DType in = one_of(types), out = below(4) == 0 ? one_of(types) : in;
    return config_of(extent(3000), extent(4096), one_of(keys), in, out, below(2) == 0);
  }
  std::mt19937& random() { return random_; }

 private:
  std::mt19937 random_;
};

TEST(GpuSoak, RandomLayersHoldTheErrorBound) {
  const char* seconds = std::getenv("ANYFP8_SOAK_SECONDS");
  if (seconds == nullptr) GTEST_SKIP() << "ANYFP8_SOAK_SECONDS is not set; ./dev gpu-test sets it";
  Device device;
  ANYFP8_NEED_GPU(device);
  const char* given = std::getenv("ANYFP8_SOAK_SEED");
  const unsigned seed =
      given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
  std::cout << "ANYFP8_SOAK_SEED=" << seed << " on " << device.name << std::endl;
  Cases cases(seed);
  std::vector<const Kernel*> kernels;
  for (const Kernel* kernel : all_kernels()) {
    if (kernel->apply != nullptr && kernel->activation == ActivationUse::kAsGiven &&
        supports(*kernel, device)) {
      kernels.push_back(kernel);
    }
  }
  ASSERT_FALSE(kernels.empty()) << "this build has no kernel for " << device.name;

  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(seconds));
  std::vector<size_t> ran(kernels.size());
  while (std::chrono::steady_clock::now() < end) {
    const LinearConfig config = cases.config();
    const int64_t m = cases.below(8) == 0 ? cases.below(3) : cases.extent(1500),
                  gap = cases.below(3) * cases.below(9);
    const auto skip = static_cast<size_t>(cases.below(2) * cases.below(9));
    Layer layer;  // made when the first kernel takes it
    for (size_t i = 0; i < kernels.size(); ++i) {
      const Kernel& kernel = *kernels[i];
      if (!can_implement(kernel, config, device)) continue;
      if (layer.weight.empty()) layer = random_layer(config, cases.random());
      SCOPED_TRACE("seed " + std::to_string(seed) + ", " + std::string(kernel.name) + ", " +
                   key_text(config.scheme.weight) + ", n = " + std::to_string(config.n) +
                   ", k = " + std::to_string(config.k) + ", m = " + std::to_string(m) + ", in " +
                   std::string(dtype_name(config.in)) + ", out " + std::string(dtype_name(config.out)) +
                   (config.bias ? ", bias" : "") + ", gap " + std::to_string(gap) + ", skip " +
                   std::to_string(skip));
      Matrix x = random_matrix(config.in, m, config.k, gap, cases.random());
      expect_close(layer, x, run_on_cuda(kernel, device, layer, x, gap, skip), 0, sampling(config, m),
                   weight_rounding(kernel, layer));
      if (HasFatalFailure() || HasNonfatalFailure()) return;
      ++ran[i];
    }
  }
  for (size_t i = 0; i < kernels.size(); ++i) {
    std::cout << kernels[i]->name << ": " << ran[i] << " cases" << std::endl;
  }
}

}  // namespace
}  // namespace anyfp8
