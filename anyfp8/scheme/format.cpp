#include "anyfp8/scheme/format.h"

#include "anyfp8/base/text.h"
#include "anyfp8/scheme/quantization_config.h"

namespace anyfp8 {

#define ANYFP8_FORMAT(name) extern const Format format_##name;
#include "anyfp8/scheme/format_list.inc"
#undef ANYFP8_FORMAT

std::span<const Format* const> all_formats() {
#define ANYFP8_FORMAT(name) &format_##name,
  static constexpr const Format* kFormats[] = {
#include "anyfp8/scheme/format_list.inc"
  };
#undef ANYFP8_FORMAT
  return kFormats;
}

const Format* find_format(const Checkpoint& checkpoint) {
  std::string reasons;
  for (const Format* format : all_formats()) {
    const Verdict verdict = format->recognises(checkpoint);
    if (verdict) return format;
    reasons += fmt::format("\n  {}: {}", format->name, verdict.reason());
  }
  const nlohmann::json& config = quantization_config(checkpoint);
  if (config.empty()) return nullptr;
  throw fail(ErrorCode::kUnsupported, "{}: quantisation \"{}\" is none of the FP8 dialects anyfp8 reads{}",
             checkpoint.path().string(), config_string(config, "quant_method", "(no quant_method)"), reasons);
}

}  // namespace anyfp8
