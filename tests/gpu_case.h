#pragma once

#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "anyfp8/device/cuda_devices.h"
#include "anyfp8/kernels/select.h"
#include "tests/kernel_case.h"

// What the tests of CUDA kernels share.
namespace anyfp8 {
inline void PrintTo(const Kernel* kernel, std::ostream* out) { *out << kernel->name; }
}  // namespace anyfp8

namespace anyfp8::test {

// The first CUDA device as ANYFP8_CUDA_CC leaves it.
inline std::optional<Device> first_gpu() {
  for (const Device& device : all_devices()) {
    if (device.kind == DeviceKind::kCuda) return device;
  }
  return std::nullopt;
}

// For a fixture's SetUp(): the test skips, out loud, without one.
#define ANYFP8_NEED_GPU(device)                                     \
  if (const auto found_gpu = ::anyfp8::test::first_gpu()) {         \
    (device) = *found_gpu;                                          \
  } else {                                                          \
    GTEST_SKIP() << "no GPU: " << ::anyfp8::cuda_devices().absence; \
  }

inline std::vector<const Kernel*> cuda_kernels() {
  std::vector<const Kernel*> kernels;
  for (const Kernel* kernel : all_kernels()) {
    if (kernel->device == DeviceKind::kCuda) kernels.push_back(kernel);
  }
  return kernels;
}
inline std::string kernel_name(const testing::TestParamInfo<const Kernel*>& info) {
  return std::string(info.param->name);
}

// Each CUDA kernel that the card and the build have.
class GpuKernel : public testing::TestWithParam<const Kernel*> {
 protected:
  void SetUp() override {
    ANYFP8_NEED_GPU(device_);
    if (kernel().apply == nullptr) GTEST_SKIP() << kernel().name << " is not in this build";
    if (const Verdict verdict = supports(kernel(), device_); !verdict) {
      GTEST_SKIP() << kernel().name << ": " << verdict.reason();
    }
  }
  const Kernel& kernel() const { return *GetParam(); }

  Device device_;
};

// Weight schemes as checkpoints have them.
inline std::vector<QuantKey> checkpoint_schemes() {
  std::vector<QuantKey> keys;
  for (const DType dtype : {DType::kE4M3, DType::kE5M2}) {
    for (const Group group : {kPerTensor, kPerRow, kBlock128, kGroup128}) {
      keys.push_back({.dtype = dtype, .group = group});
    }
    keys.push_back({.dtype = dtype, .group = kMx32, .scale_dtype = DType::kE8M0});
    keys.push_back({.dtype = dtype, .group = kBlock128, .scale_dtype = DType::kE8M0});
  }
  return keys;
}

inline std::string key_text(const QuantKey& key) {
  return std::string(dtype_name(key.dtype)) + " " + group_text(key.group) + " " +
         std::string(dtype_name(key.scale_dtype));
}

// Looks at so few outputs that the reference in double takes a moment, whatever the shape.
inline int64_t sampling(const LinearConfig& config, int64_t m) {
  constexpr int64_t kProducts = 4'000'000;
  return 1 + m * config.n * config.k / kProducts;
}

}  // namespace anyfp8::test
