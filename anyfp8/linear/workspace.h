#pragma once

#include <cstddef>
#include <memory>

#include "anyfp8/base/export.h"
#include "anyfp8/base/tensor.h"
#include "anyfp8/kernels/kernel.h"

namespace anyfp8 {

// Scratch memory that many layers share, one per stream or thread. reserve() before the hot path;
// Linear::apply never allocates and refuses a workspace that is too small.
class ANYFP8_API Workspace {
 public:
  explicit Workspace(const Device& device);  // Error(kUnsupported) for a device that is not here
  Workspace(Workspace&& other) noexcept;     // which has no bytes then
  Workspace& operator=(Workspace&& other) noexcept;

  // Grows, never shrinks; the old contents are lost. A CUDA graph captured with it knows the address before:
  // to be captured again when bytes() has changed.
  void reserve(size_t bytes);
  const Device& device() const noexcept { return device_; }
  size_t bytes() const noexcept { return scratch_.bytes; }
  Scratch scratch() const noexcept { return scratch_; }

 private:
  Device device_;
  HostTensor memory_;                    // on the CPU
  std::shared_ptr<void> device_memory_;  // on a CUDA device
  Scratch scratch_;                      // of either
};

}  // namespace anyfp8
