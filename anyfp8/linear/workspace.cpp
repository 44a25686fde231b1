#include "anyfp8/linear/workspace.h"

#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "anyfp8/device/cuda_devices.h"
#include "anyfp8/device/device_memory.h"

namespace anyfp8 {

Workspace::Workspace(const Device& device) : device_(device) { check_present(device); }

Workspace::Workspace(Workspace&& other) noexcept
    : device_(std::move(other.device_)),
      memory_(std::exchange(other.memory_, {})),
      device_memory_(std::move(other.device_memory_)),
      scratch_(std::exchange(other.scratch_, {})) {}

Workspace& Workspace::operator=(Workspace&& other) noexcept {
  device_ = std::move(other.device_);
  memory_ = std::exchange(other.memory_, {});
  device_memory_ = std::move(other.device_memory_);
  scratch_ = std::exchange(other.scratch_, {});
  return *this;
}

void Workspace::reserve(size_t bytes) {
  // Tiles of x and decoded weights live in the L2 cache. In one huge page they neither meet in its sets by
  // chance, as small pages do, nor miss the TLB.
  constexpr size_t kSmall = 64 << 10, kHugePage = size_t{2} << 20;
  if (bytes <= this->bytes()) return;
  if (device_.kind == DeviceKind::kCuda) {
    auto memory = std::make_shared<DeviceMemory>(device_, bytes);
    scratch_ = {memory->data(), bytes};
    device_memory_ = std::move(memory);
    return;
  }
  if (bytes > INT64_MAX - kHugePage) throw std::bad_alloc();
  const size_t granule = bytes <= kSmall ? 64 : kHugePage;
  const size_t rounded = (bytes + granule - 1) / granule * granule;
  memory_ = HostTensor::allocate(DType::kU8, {static_cast<int64_t>(rounded)});
  scratch_ = {memory_.mutable_data(), rounded};
}

}  // namespace anyfp8
