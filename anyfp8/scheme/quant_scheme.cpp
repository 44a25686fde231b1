#include "anyfp8/scheme/quant_scheme.h"

#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

std::string key_text(const QuantKey& key) {
  return fmt::format("{} {}{}", dtype_name(key.dtype), group_text(key.group),
                     key.scale_dtype == DType::kE8M0 ? " e8m0" : "");
}

}  // namespace

std::string group_text(Group group) {
  if (group == kPerTensor) return "tensor";
  if (group == kPerRow) return "row";
  const auto extent = [](int32_t value) { return value == 0 ? std::string("all") : fmt::to_string(value); };
  return extent(group.rows) + "x" + extent(group.cols);
}

std::string scheme_text(const QuantScheme& scheme) {
  if (!is_float8(scheme.weight.dtype)) return std::string(dtype_name(scheme.weight.dtype));
  std::string text = key_text(scheme.weight);
  if (!scheme.activation) return text + ", weight-only";
  // For activations "row" is a token.
  const QuantKey& x = *scheme.activation;
  const std::string group = x.group == kPerRow ? "token" : group_text(x.group);
  return text + fmt::format(", activations {} {} {}", dtype_name(x.dtype), group,
                            x.source == ScaleSource::kStored ? "static" : "dynamic");
}

}  // namespace anyfp8
