#pragma once

#include "anyfp8/device/device.h"
#include "cli/bench_method.h"

namespace anyfp8::cli {

// The machine's own limits, timed like any method so that they hold for the moment a kernel was timed in.

// All threads together read `bytes` once, from memory that lies as a weight does. A CUDA device reads as much
// as cuda_read_method() (bench_cuda.h) says.
std::unique_ptr<BenchMethod> read_method(const Device& device, size_t bytes);

// No: kernels for these activations have a faster unit here (AMX, NEON BF16) than peak_method() measures.
Verdict peak_known(const Device& device, DType activations);

// All threads do nothing but multiply-add on registers: by vdpbf16ps for bf16 activations where the CPU has
// it, else in fp32, in the widest vectors of AVX-512 and AVX2 (else of 16 bytes). For a CUDA device it is
// cuda_peak_method().
std::unique_ptr<BenchMethod> peak_method(const Device& device, DType activations);

}  // namespace anyfp8::cli
