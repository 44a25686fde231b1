#include <algorithm>

#include "anyfp8/base/text.h"
#include "anyfp8/kernels/select.h"

namespace anyfp8 {
namespace {

bool lists(std::span<const DType> dtypes, DType dtype) {
  return std::find(dtypes.begin(), dtypes.end(), dtype) != dtypes.end();
}

std::string dtypes_text(std::span<const DType> dtypes) {
  std::vector<std::string_view> names;
  for (DType dtype : dtypes) names.push_back(dtype_name(dtype));
  return fmt::format("{}", fmt::join(names, ", "));
}

bool matches(Group pattern, Group group) {
  const auto extent = [](int32_t wanted, int32_t found) { return wanted == kAnyExtent || wanted == found; };
  return extent(pattern.rows, group.rows) && extent(pattern.cols, group.cols);
}

std::string pattern_text(Group pattern) {
  if (pattern.rows != kAnyExtent && pattern.cols != kAnyExtent) return group_text(pattern);
  const auto extent = [](int32_t e) { return e == kAnyExtent ? std::string("any") : fmt::to_string(e); };
  return extent(pattern.rows) + "x" + extent(pattern.cols);
}

std::string patterns_text(std::span<const Group> patterns) {
  std::vector<std::string> texts;
  for (Group pattern : patterns) texts.push_back(pattern_text(pattern));
  return fmt::format("{}", fmt::join(texts, ", "));
}

}  // namespace

Verdict supports(const Kernel& kernel, const Device& device) {
  ANYFP8_NEED(kernel.device == device.kind, "runs on {}",
              kernel.device == DeviceKind::kCpu ? "CPUs" : "CUDA devices");
  return kernel.supports(device);
}

Verdict can_implement(const Kernel& kernel, const LinearConfig& config, const Device& device) {
  if (Verdict verdict = supports(kernel, device); !verdict) return verdict;
  ANYFP8_NEED(config.n >= 1 && config.k >= 1, "n = {} and k = {}: both must be at least 1", config.n,
              config.k);
  const QuantKey& weight = config.scheme.weight;
  ANYFP8_NEED(lists(kernel.weight_dtypes, weight.dtype), "weights are {}, it takes {}",
              dtype_name(weight.dtype), dtypes_text(kernel.weight_dtypes));
  if (is_float8(weight.dtype)) {
    const Group group = weight.group;
    ANYFP8_NEED(group.rows >= 0 && group.cols >= 0, "weight scales by {}x{}: an extent cannot be negative",
                group.rows, group.cols);
    ANYFP8_NEED(std::any_of(kernel.weight_groups.begin(), kernel.weight_groups.end(),
                            [&](Group pattern) { return matches(pattern, group); }),
                "weight scales are by {}, it takes {}", group_text(group),
                patterns_text(kernel.weight_groups));
    ANYFP8_NEED(lists(kernel.scale_dtypes, weight.scale_dtype), "weight scales are {}, it takes {}",
                dtype_name(weight.scale_dtype), dtypes_text(kernel.scale_dtypes));
  }
  ANYFP8_NEED(lists(kernel.in_dtypes, config.in), "x is {}, it takes {}", dtype_name(config.in),
              dtypes_text(kernel.in_dtypes));
  ANYFP8_NEED(lists(kernel.out_dtypes, config.out), "y is {}, it writes {}", dtype_name(config.out),
              dtypes_text(kernel.out_dtypes));
  if (kernel.activation == ActivationUse::kQuantized) {
    ANYFP8_NEED(config.policy == Policy::kSpeed, "it quantises activations, which policy {} does not allow",
                policy_name(config.policy));
    ANYFP8_NEED(config.scheme.activation.has_value(),
                "it quantises activations, which the checkpoint (weight-only) does not ask for");
  }
  ANYFP8_NEED(kernel.batch_invariant || config.policy != Policy::kInvariant,
              "a row's bits depend on m in it, which policy invariant does not allow");
  return kernel.check == nullptr ? Verdict::yes() : kernel.check(config, device);
}

}  // namespace anyfp8
