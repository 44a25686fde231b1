#include "anyfp8/kernels/kernel.h"

#include "anyfp8/kernels/kernel_list.h"

namespace anyfp8 {

std::string_view policy_name(Policy policy) noexcept {
  switch (policy) {
    case Policy::kAccuracy: return "accuracy";
    case Policy::kSpeed: return "speed";
    case Policy::kInvariant: return "invariant";
  }
  return "unknown";
}

std::string kernel_names(std::span<const Kernel* const> kernels) {
  std::string text;
  for (const Kernel* kernel : kernels) {
    if (!text.empty()) text += ", ";
    text += kernel->name;
  }
  return text;
}

}  // namespace anyfp8
