#pragma once

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "anyfp8/base/error.h"
#include "anyfp8/kernels/select.h"

// What the tests of selection share: devices and layers in short, and kernels made up for them.
namespace anyfp8 {

inline constexpr int64_t kInfinity = TokenRange{}.end;

inline Device cuda(int major, int minor) {
  Device device;
  device.kind = DeviceKind::kCuda;
  device.cc = {major, minor};
  return device;
}

inline QuantScheme weight_only(Group group, DType dtype = DType::kE4M3, DType scale_dtype = DType::kF32) {
  return {.weight = {.dtype = dtype, .group = group, .scale_dtype = scale_dtype}, .activation = {}};
}

inline QuantScheme quantized(Group weight, Group activation, ScaleSource source = ScaleSource::kDynamic) {
  QuantScheme scheme = weight_only(weight);
  scheme.activation = QuantKey{.group = activation, .source = source};
  return scheme;
}

inline LinearConfig layer(QuantScheme scheme, Policy policy = Policy::kAccuracy, int64_t n = 4096,
                          int64_t k = 4096) {
  return {.n = n, .k = k, .scheme = scheme, .policy = policy};
}

inline const Kernel& named(std::string_view name) {
  const Kernel* kernel = find_kernel(name);
  if (kernel == nullptr) throw std::out_of_range(std::string(name));
  return *kernel;
}

inline std::string reason(std::string_view kernel, const LinearConfig& config, const Device& device) {
  return can_implement(named(kernel), config, device).reason();
}

inline std::string chosen(const Selection& selection, int64_t m) {
  return std::string(selection.kernel_for(m).name);
}

inline std::string plan(const Device& device, const LinearConfig& config, int64_t m) {
  return chosen(select_kernel(device, config, {.ignore_build = true}), m);
}

// The text of the Error that `call` must throw.
template <typename Call>
std::string error_of(ErrorCode code, Call call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error_code_name(error.code()), error_code_name(code)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return {};
}

inline void expect_in(const std::string& text, std::string_view part) {
  EXPECT_NE(text.find(part), std::string::npos) << "no '" << part << "' in: " << text;
}

inline std::string rejection(const Selection& selection, std::string_view kernel) {
  for (const Rejection& r : selection.rejected) {
    if (r.kernel == kernel) return (r.able ? "able: " : "") + r.reason;
  }
  return "not rejected";
}

// Kernels made up for the tests of the choice itself.
inline constexpr DType kTypes[] = {DType::kE4M3, DType::kBF16};
inline constexpr Group kRowAndTensor[] = {kPerRow, kPerTensor};
inline constexpr DType kF32[] = {DType::kF32};
inline void nothing(const PlacedWeight&, const TensorView&, const TensorView&, Scratch, Stream) {}

template <int64_t kBegin = 0, int64_t kEnd = kInfinity>
Kernel made_up(std::string_view name, Layout layout = Layout::kRowMajor) {
  return {.name = name,
          .summary = "made up",
          .layout = layout,
          .weight_dtypes = kTypes,
          .weight_groups = kRowAndTensor,
          .scale_dtypes = kF32,
          .in_dtypes = kTypes,
          .out_dtypes = kTypes,
          .batch_invariant = true,
          .supports = [](const Device&) { return Verdict::yes(); },
          .tokens =
              [](const LinearConfig&, const Device&) {
                return TokenRange{kBegin, kEnd};
              },
          .apply = nothing};
}

inline Selection select_from(std::initializer_list<const Kernel*> kernels, const LinearConfig& config,
                             SelectOptions options = {}) {
  options.kernels = std::span(kernels.begin(), kernels.size());
  return select_kernel(Device{}, config, options);
}

}  // namespace anyfp8
