#include "anyfp8/linear/workspace.h"

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include "anyfp8/base/text.h"

namespace anyfp8 {

Workspace::Workspace(const Device& device) {
  if (device.kind != DeviceKind::kCpu) {
    throw fail(ErrorCode::kUnsupported, "{}: this build has no CUDA, so no workspace on a CUDA device",
               device.name);
  }
}

Workspace::~Workspace() { std::free(scratch_.data); }

Workspace::Workspace(Workspace&& other) noexcept : scratch_(std::exchange(other.scratch_, {})) {}

Workspace& Workspace::operator=(Workspace&& other) noexcept {
  std::swap(scratch_, other.scratch_);
  return *this;
}

void Workspace::reserve(size_t bytes) {
  if (bytes <= scratch_.bytes) return;
  if (bytes > SIZE_MAX - 63) throw std::bad_alloc();
  const size_t rounded = (bytes + 63) / 64 * 64;
  void* memory = std::aligned_alloc(64, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  std::free(std::exchange(scratch_.data, memory));
  scratch_.bytes = rounded;
}

}  // namespace anyfp8
