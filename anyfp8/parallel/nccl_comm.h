#pragma once

#include <memory>

#include "anyfp8/base/export.h"
#include "anyfp8/parallel/comm.h"
#include "anyfp8/parallel/watchdog.h"

namespace anyfp8 {

// Comm on NCCL for one rank with its GPU, `device`. The ranks know each other by `watchdog` already, whose
// gather() brings NCCL's id to all. When a rank is lost the communicator is aborted, so that work queued on a
// stream ends, with worthless results: check() after waiting for it. Error(kUnsupported) in a build without
// CUDA and where NCCL is missing, kInvalidArgument where two ranks have the same GPU.
//
// NCCL adds two operands at a time; of 16-bit types each such sum is rounded.
std::unique_ptr<Comm> open_nccl_comm(const Device& device, std::unique_ptr<Watchdog> watchdog);

// Comm on a communicator that somebody else opened with the NCCL of this process (an ncclComm_t, of a process
// group of torch.distributed for one), and who goes on to own it: it outlives the Comm, and aborting it when
// a rank is lost is its owner's work, as is keeping other calls on it in the same order on every rank.
ANYFP8_API std::unique_ptr<Comm> adopt_nccl_comm(const Device& device, void* nccl_comm);

}  // namespace anyfp8
