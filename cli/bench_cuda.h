#pragma once

#include <vector>

#include "anyfp8/linear/linear.h"
#include "cli/bench_method.h"

namespace anyfp8::cli {

// What `anyfp8 bench --device cuda:0` times. Each method captures calls on its copies in turn, each copy as
// often as fills 2 ms, into one CUDA graph; a run is a replay of it, and its time, by the device's own clock,
// is that of one call. Bytes are those of weights, x and y. In a build without CUDA there is no such device,
// and they throw.

// weight_bytes: of one copy.
std::unique_ptr<BenchMethod> cuda_kernel_method(std::vector<Linear> copies, size_t weight_bytes);

// cuBLASLt with the values of `linear` in the 16-bit type of its activations, which are not to be f32; and
// what cuda_w8a8_methods() has of `weight`, which `linear` was made from.
BenchMethods cuda_peer_methods(const Linear& linear, const Fp8Weight& weight);
// Where the scheme asks for quantised activations and cuda_cublaslt_w8a8 takes the layer: the parts of its
// work one by one, cuBLASLt's FP8 product alone and quantising x alone, and a copy that moves as many bytes
// as the latter.
BenchMethods cuda_w8a8_methods(const Linear& linear, const Fp8Weight& weight);
std::string cuda_peers_text();  // "cuBLASLt 13.0.2"

// Every SM sums up memory, many times as much as the L2 holds.
std::unique_ptr<BenchMethod> cuda_read_method(const Device& device);

// cuBLASLt's product of two 8192 x 8192 matrices, which reaches what the card sustains, not its data sheet.
// `activations`: kBF16 or kF16.
std::unique_ptr<BenchMethod> cuda_peak_method(const Device& device, DType activations);

}  // namespace anyfp8::cli
