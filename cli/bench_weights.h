#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "anyfp8/scheme/fp8_weight.h"
#include "cli/bench_method.h"

namespace anyfp8::cli {

// So many copies that together they are several times the last cache; at least 2, and of weights below 1 MiB
// at most 64: of these the calls are what is measured.
size_t copies_for(size_t weight_bytes);

// Bytes of 1, since a system may share pages of zeros. Each thread has written its part first, so that it
// lies in the memory next to the thread that will read it: all split a weight among threads in order.
HostTensor allocate_spread(DType dtype, Shape shape);

// Random codes in each of the copies, which differ by where they lie only. scheme: tensor, channel, block,
// mxfp8, bf16 or f16.
std::vector<Fp8Weight> random_weights(MatrixShape shape, const std::string& scheme);

Activations random_activations(int64_t m, int64_t k, DType in, DType out);

}  // namespace anyfp8::cli
