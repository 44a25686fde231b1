#pragma once

#include <atomic>
#include <cstdint>

#include "anyfp8/base/tensor.h"
#include "anyfp8/device/device.h"

// What launching the fused W8A16 kernels has in common.
namespace anyfp8 {

// Loads a kernel and allows it its shared memory on the current device, once: `devices` remembers those (the
// first 64) on which that was done.
const void* ready_kernel(const void* kernel, int shared_bytes, std::atomic<uint64_t>& devices);

struct FusedLaunch {
  const void* kernel;  // of ready_kernel()
  int64_t blocks;
  int threads, shared_bytes;
  int cluster;    // blocks that share the k of a tile; 1: no cluster
  bool overlaps;  // it loads weights before it waits for the kernel before it, whose tail this hides
};
// Queues it on the current device with its one parameter.
void launch_fused(const FusedLaunch& launch, void* parameter, Stream stream);

// Whether a matrix of 16-bit elements and each of its rows do.
bool begins_at_multiples_of(uintptr_t bytes, const TensorView& matrix);

}  // namespace anyfp8
