#pragma once

#include "anyfp8/device/device.h"
#include "cli/bench_method.h"

namespace anyfp8::cli {

// The machine's own limits, timed like any method so that they hold for the moment a kernel was timed in.

// All threads together read `bytes` once, from memory that lies as a weight does.
std::unique_ptr<BenchMethod> read_method(const Device& device, size_t bytes);

// All threads do nothing but the widest multiply-add of these activations, on registers: vdpbf16ps for bf16
// where there is one, else fp32 multiply-adds.
std::unique_ptr<BenchMethod> peak_method(const Device& device, DType activations);

}  // namespace anyfp8::cli
