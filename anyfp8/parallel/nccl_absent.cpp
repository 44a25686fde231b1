// What a build without CUDA has in place of the NCCL engine.
#ifndef ANYFP8_HAVE_CUDA

#include "anyfp8/base/text.h"
#include "anyfp8/parallel/nccl_comm.h"

namespace anyfp8 {

std::unique_ptr<Comm> open_nccl_comm(const Device& device, std::unique_ptr<Watchdog>) {
  throw fail(ErrorCode::kUnsupported, "ranks on {} talk through NCCL, and this build has no CUDA",
             device.name);
}

}  // namespace anyfp8

#endif
