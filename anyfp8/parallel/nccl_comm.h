#pragma once

#include <memory>

#include "anyfp8/parallel/comm.h"
#include "anyfp8/parallel/watchdog.h"

namespace anyfp8 {

// Comm on NCCL for one rank with its GPU, `device`. The ranks know each other by `watchdog` already, whose
// gather() brings NCCL's id to all. Error(kUnsupported) in a build without NCCL.
std::unique_ptr<Comm> open_nccl_comm(const Device& device, std::unique_ptr<Watchdog> watchdog);

}  // namespace anyfp8
