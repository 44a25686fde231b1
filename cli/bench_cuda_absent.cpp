// What a build without CUDA has in place of bench_methods_cuda.cpp and bench_tp_cuda.cpp.
#ifndef ANYFP8_HAVE_CUDA

#include "anyfp8/base/text.h"
#include "cli/bench_cuda.h"
#include "cli/bench_tp.h"

namespace anyfp8::cli {
namespace {

Error no_cuda() {
  return fail(ErrorCode::kUnsupported, "a CUDA device was to be measured, and this build has no CUDA");
}

}  // namespace

// By value as in the build that has it, and keeps them. NOLINTNEXTLINE(performance-unnecessary-value-param)
std::unique_ptr<BenchMethod> cuda_kernel_method(std::vector<Linear>, size_t) { throw no_cuda(); }
BenchMethods cuda_peer_methods(const Linear&, const Fp8Weight&) { throw no_cuda(); }
BenchMethods cuda_w8a8_methods(const Linear&, const Fp8Weight&) { throw no_cuda(); }
std::string cuda_peers_text() { throw no_cuda(); }
std::unique_ptr<BenchMethod> cuda_read_method(const Device&) { throw no_cuda(); }
std::unique_ptr<BenchMethod> cuda_peak_method(const Device&, DType) { throw no_cuda(); }
std::unique_ptr<TpTimer> cuda_tp_timer(const Device&) { throw no_cuda(); }

}  // namespace anyfp8::cli

#endif
