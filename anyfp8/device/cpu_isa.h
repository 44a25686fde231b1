#pragma once

#include <span>
#include <string_view>

#include "anyfp8/device/device.h"

namespace anyfp8 {

// A named set of instruction sets: what a CPU of that class has, and what ANYFP8_ISA leaves of a CPU.
struct IsaLevel {
  std::string_view name;  // "avx512"
  CpuIsa isa;
};

// "scalar" first, then each family from weak to strong.
std::span<const IsaLevel> isa_levels();

// What the processor has and the operating system lets this process use; asks Linux for AMX tiles, once.
CpuIsa detect_isa();

// The flags that both have.
CpuIsa common_isa(const CpuIsa& a, const CpuIsa& b);

}  // namespace anyfp8
