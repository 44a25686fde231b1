#pragma once

#include <optional>
#include <string>
#include <vector>

#include "anyfp8/device/cuda_devices.h"
#include "anyfp8/kernels/select.h"
#include "tests/kernel_case.h"

// What the tests of CUDA kernels share.
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
