#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "anyfp8/device/device.h"
#include "anyfp8/scheme/fp8_weight.h"
#include "cli/bench_method.h"

namespace anyfp8::cli {

// So many copies that together they are several times the last cache, on a CUDA device also 400 MB; at least
// 2, and of weights below 1 MiB at most 64: of these the calls are what is measured.
size_t copies_for(size_t weight_bytes);  // on the CPU
size_t copies_for(const Device& device, size_t weight_bytes);

// Bytes of 1, since a system may share pages of zeros. Each thread has written its part first, so that it
// lies in the memory next to the thread that will read it: all split a weight among threads in order.
HostTensor allocate_spread(DType dtype, Shape shape);

// Whether a scheme asks for it: w8a8-static, w8a8-tensor, w8a8-channel, w8a8-block.
bool quantises_activations(const std::string& scheme);

// Those, and tensor, channel, block, mxfp8, bf16 and f16.
const std::vector<std::string>& scheme_names();

// Random codes of a scheme of that list.
Fp8Weight random_weight(MatrixShape shape, const std::string& scheme);
// One for each copy on the device. On the CPU they differ by where they lie only; elsewhere all are the same
// host memory, which each is copied from.
std::vector<Fp8Weight> copies_of(Fp8Weight weight, const Device& device);

Activations random_activations(int64_t m, int64_t k, DType in, DType out);

}  // namespace anyfp8::cli
