#pragma once

#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "anyfp8/kernels/select.h"

namespace anyfp8::cli {

// A model's kernel choices, as plan prints them on stdout and generate on stderr. Layers that got the same
// choice for the same reasons are said once.
struct PlannedLayer {
  std::string module;
  LinearConfig config;
  const Selection* selection;
};

// One paragraph for each choice: its layers, the kernel for each range of m, and the other kernels under
// their reasons, which are not repeated where they are those of the paragraph before.
std::string selections_text(std::span<const PlannedLayer> layers, std::FILE* stream);
// One line for each choice: "56 layers e4m3 128x128: cpu_avx512_w8a16".
std::string selections_summary(std::span<const PlannedLayer> layers, std::FILE* stream);
nlohmann::json selections_json(std::span<const PlannedLayer> layers);

}  // namespace anyfp8::cli
