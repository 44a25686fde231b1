#pragma once

#include <cstddef>

#include "anyfp8/base/export.h"
#include "anyfp8/base/tensor.h"
#include "anyfp8/kernels/kernel.h"

namespace anyfp8 {

// Scratch memory that many layers share, one per stream or thread. reserve() before the hot path;
// Linear::apply never allocates and refuses a workspace that is too small.
class ANYFP8_API Workspace {
 public:
  explicit Workspace(const Device& device);
  Workspace(Workspace&&) noexcept = default;
  Workspace& operator=(Workspace&&) noexcept = default;

  void reserve(size_t bytes);  // grows, never shrinks; the old contents are lost
  size_t bytes() const noexcept { return scratch_.bytes; }
  Scratch scratch() const noexcept { return scratch_; }

 private:
  HostTensor memory_;
  Scratch scratch_;  // of memory_
};

}  // namespace anyfp8
