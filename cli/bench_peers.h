#pragma once

#include "anyfp8/linear/linear.h"
#include "cli/bench_method.h"

namespace anyfp8::cli {

// This build has them (ANYFP8_BENCH_PEERS).
bool peers_built();

// The libraries and what matters of them, for the head of a report: "oneDNN 2.6.3, OpenBLAS 0.3.21 (OpenMP)".
std::string peers_text();

// oneDNN in bf16 and f32 with weights packed as it likes, and OpenBLAS's sgemm, each with the values of
// `weight` and as many threads as anyfp8. Empty in a build without.
BenchMethods peer_methods(const Linear& weight);

}  // namespace anyfp8::cli
