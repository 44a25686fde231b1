#pragma once

#include <memory>
#include <vector>

#include "anyfp8/linear/linear.h"
#include "cli/bench_method.h"

namespace anyfp8::cli {

// One of anyfp8's kernels on its copies of one layer, on whichever device they lie. weight_bytes: of one
// copy.
std::unique_ptr<BenchMethod> kernel_method(std::vector<Linear> copies, size_t weight_bytes);

}  // namespace anyfp8::cli
