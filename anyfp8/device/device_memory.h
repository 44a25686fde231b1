#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "anyfp8/device/device.h"

// Memory of CUDA devices, for code that does not know CUDA. A build without CUDA has these functions too:
// those that would need it throw Error(kUnsupported).
namespace anyfp8 {

// Makes a CUDA device the calling thread's current one for a scope. Does nothing for a CPU.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Device& device) {
    if (device.kind == DeviceKind::kCuda) enter(device.index);
  }
  ~DeviceGuard() {
    if (before_ != kUnchanged) leave();
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  static constexpr int kUnchanged = -1;
  void enter(int index);
  void leave() noexcept;
  int before_ = kUnchanged;
};

// Memory of one CUDA device, 256-byte aligned, not initialised; copies of the object share it. Giving it back
// waits until the device has done the work queued so far.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  // Error(kCuda) says how much memory is left when that is the reason.
  DeviceMemory(const Device& device, size_t bytes);
  void* data() const noexcept { return data_.get(); }
  size_t bytes() const noexcept { return bytes_; }

 private:
  std::shared_ptr<void> data_;
  size_t bytes_ = 0;
};

// Queued on `stream` of the current device. Host memory may be reused when a call returns, unless it is
// page-locked.
void copy_to_device(void* to, const void* from, size_t bytes, Stream stream);
// `rows` rows of row_bytes, from one after the other to `pitch` bytes apart, with zeroes after each.
void copy_rows_to_device(void* to, size_t pitch, const void* from, size_t row_bytes, int64_t rows,
                         Stream stream);
// `rows` rows of row_bytes from one place of the device to another, each pitch bytes apart.
void copy_rows_on_device(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t row_bytes,
                         int64_t rows, Stream stream);
void fill_on_device(void* to, uint8_t value, size_t bytes, Stream stream);

// Done when they return, after everything queued on `stream` before.
void copy_to_host(void* to, const void* from, size_t bytes, Stream stream);
// Error(kCuda) of whatever failed on it.
void synchronize(Stream stream);

// Between cudaStreamBeginCapture and cudaStreamEndCapture, where nothing may wait for a stream.
bool is_capturing(Stream stream);

}  // namespace anyfp8
