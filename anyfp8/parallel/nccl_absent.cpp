// What a build without CUDA has in place of nccl_comm_cuda.cpp.
#ifndef ANYFP8_HAVE_CUDA

#include "anyfp8/base/text.h"
#include "anyfp8/parallel/nccl_comm.h"

namespace anyfp8 {
namespace {

Error no_cuda(const Device& device) {
  return fail(ErrorCode::kUnsupported, "ranks on GPUs ({}) need NCCL, and this build has no CUDA",
              device.name);
}

}  // namespace

std::unique_ptr<Comm> open_nccl_comm(const Device& device, std::unique_ptr<Watchdog>) {
  throw no_cuda(device);
}
std::unique_ptr<Comm> adopt_nccl_comm(const Device& device, void*) { throw no_cuda(device); }

}  // namespace anyfp8

#endif
