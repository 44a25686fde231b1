#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>

#include "anyfp8/base/text.h"
#include "anyfp8/kernels/select.h"

// golden/selection.txt holds what is chosen for every card and CPU that has a name, for a build that has
// every launch, and for every m. A change of the list or of a kernel's rules is a change of that file, and is
// reviewed as one:
//   UPDATE_GOLDEN=1 build/tests/selection_test --gtest_filter='GoldenSelection.*'
// writes it again.
namespace anyfp8 {
namespace {

const std::string kPath = std::string(ANYFP8_SOURCE_DIR) + "/tests/golden/selection.txt";

QuantScheme scheme(DType dtype, Group group, std::optional<QuantKey> activation = {},
                   DType scale_dtype = DType::kF32) {
  return {.weight = {.dtype = dtype, .group = group, .scale_dtype = scale_dtype}, .activation = activation};
}

constexpr QuantKey activation(Group group, ScaleSource source, DType scale_dtype = DType::kF32) {
  return {.dtype = DType::kE4M3, .group = group, .source = source, .scale_dtype = scale_dtype};
}

std::vector<QuantScheme> schemes() {
  constexpr auto kStatic = ScaleSource::kStored, kDynamic = ScaleSource::kDynamic;
  return {scheme(DType::kE4M3, kPerTensor, activation(kPerTensor, kStatic)),
          scheme(DType::kE4M3, kPerTensor, activation(kPerTensor, kDynamic)),
          scheme(DType::kE4M3, kPerRow, activation(kPerRow, kDynamic)),
          scheme(DType::kE4M3, kPerRow),
          scheme(DType::kE4M3, kBlock128, activation(kGroup128, kDynamic)),
          scheme(DType::kE4M3, kMx32, activation(kMx32, kDynamic, DType::kE8M0), DType::kE8M0),
          scheme(DType::kE5M2, kPerRow),
          scheme(DType::kBF16, kPerTensor)};
}

// "m<128 a; m>=128 b"
std::string choice_text(const Device& device, const LinearConfig& config) {
  Selection selection;
  try {
    selection = select_kernel(device, config, {.ignore_build = true});
  } catch (const Error&) {
    return "none";
  }
  std::string text;
  for (const auto& [tokens, kernel, tuned] : selection.ranges) {
    const bool last = tokens.end == TokenRange{}.end;
    EXPECT_FALSE(tuned);
    if (tokens.begin == 0) {
      text += last ? std::string(kernel->name) : fmt::format("m<{} {}", tokens.end, kernel->name);
    } else {
      text += last ? fmt::format("; m>={} {}", tokens.begin, kernel->name)
                   : fmt::format("; {}<=m<{} {}", tokens.begin, tokens.end, kernel->name);
    }
  }
  return text;
}

// One level of the table: labels whose texts below are equal share one entry.
struct Entry {
  std::string labels, below;
};
template <typename T>
std::vector<Entry> merged(const std::vector<T>& values, const std::function<std::string(const T&)>& label,
                          const std::function<std::string(const T&)>& below,
                          std::string_view separator = " ") {
  std::vector<Entry> entries;
  for (const T& value : values) {
    const std::string text = below(value);
    const auto same =
        std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.below == text; });
    if (same == entries.end()) {
      entries.push_back({label(value), text});
    } else {
      same->labels.append(separator).append(label(value));
    }
  }
  return entries;
}

std::string scheme_block(const Device& device, const QuantScheme& scheme) {
  const std::vector<Policy> policies{Policy::kAccuracy, Policy::kSpeed, Policy::kInvariant};
  const std::vector<Grid> shapes{{4096, 4096}, {57, 131}, {28672, 4096}, {4096, 14336}};
  const std::vector<DType> dtypes{DType::kBF16, DType::kF16, DType::kF32};
  const auto by_dtype = [&](Policy policy, Grid shape) {
    std::string text;
    for (const Entry& e : merged<DType>(
             dtypes, [](const DType& dtype) { return std::string(dtype_name(dtype)); },
             [&](const DType& dtype) {
               return choice_text(device, {.n = shape.rows,
                                           .k = shape.cols,
                                           .scheme = scheme,
                                           .in = dtype,
                                           .out = dtype,
                                           .policy = policy});
             })) {
      text += fmt::format("      {:13} {}\n", e.labels, e.below);
    }
    return text;
  };
  const auto by_shape = [&](const Policy& policy) {
    std::string text;
    for (const Entry& e : merged<Grid>(
             shapes, [](const Grid& shape) { return fmt::format("{}x{}", shape.rows, shape.cols); },
             [&](const Grid& shape) { return by_dtype(policy, shape); })) {
      text += fmt::format("    {}\n{}", e.labels, e.below);
    }
    return text;
  };
  std::string text;
  for (const Entry& e : merged<Policy>(
           policies, [](const Policy& policy) { return std::string(policy_name(policy)); }, by_shape)) {
    text += fmt::format("   {}:\n{}", e.labels, e.below);
  }
  return text;
}

std::string device_block(const std::string& name) {
  const Device device = device_from_name(name);
  std::string text;
  for (const Entry& e : merged<QuantScheme>(
           schemes(), [](const QuantScheme& scheme) { return "  [" + scheme_text(scheme) + "]"; },
           [&](const QuantScheme& scheme) { return scheme_block(device, scheme); }, "\n")) {
    text += fmt::format("{}\n{}", e.labels, e.below);
  }
  return text;
}

std::string table() {
  std::string text =
      "# Kernel by device, [scheme], policy, n x k, dtype of x and y. What is equal is written once.\n"
      "# none: refused, with every kernel's reason.\n"
      "# Written by golden_selection_test.cpp, see there.\n";
  for (const Entry& e : merged<std::string>(
           virtual_device_names(), [](const std::string& name) { return name; }, device_block)) {
    text += fmt::format("\n== {}\n{}", e.labels, e.below);
  }
  return text;
}

TEST(GoldenSelection, IsTheReviewedOne) {
  const std::string found = table();
  if (std::getenv("UPDATE_GOLDEN") != nullptr) {
    std::ofstream(kPath, std::ios::binary) << found;
    GTEST_SKIP() << "wrote " << kPath;
  }
  std::ifstream file(kPath, std::ios::binary);
  std::stringstream reviewed;
  reviewed << file.rdbuf();
  EXPECT_EQ(found, reviewed.str()) << "if the change is meant, see the top of golden_selection_test.cpp";
}

TEST(GoldenSelection, CoversTheHardwareItIsMeantFor) {
  const std::vector<std::string> names = virtual_device_names();
  for (const char* name : {"sm_70", "sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103",
                           "sm_120", "sm_121", "cpu:scalar", "cpu:avx2", "cpu:avx512"}) {
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
  }
}

}  // namespace
}  // namespace anyfp8
