#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "anyfp8/device/device_memory.h"

namespace anyfp8::test {

// Bytes on a CUDA device, between guards. Every byte is NaN in every type that was not given: reading one
// shows in the result, writing one is found by read().
class DeviceBuffer {
 public:
  static constexpr uint8_t kGuard = 0xFF;
  static constexpr size_t kGuardBytes = 256;  // keeps the alignment of device memory

  // `skip` shifts data() from that alignment.
  DeviceBuffer(const Device& device, const void* bytes, size_t count, size_t skip = 0)
      : device_(device),
        begin_(kGuardBytes + skip),
        count_(count),
        image_(begin_ + count + kGuardBytes, kGuard) {
    if (count > 0) std::memcpy(image_.data() + begin_, bytes, count);
    memory_ = DeviceMemory(device, image_.size());
    const DeviceGuard guard(device);
    copy_to_device(memory_.data(), image_.data(), image_.size(), {});
    synchronize({});
  }
  DeviceBuffer(const Device& device, const std::vector<uint8_t>& bytes, size_t skip = 0)
      : DeviceBuffer(device, bytes.data(), bytes.size(), skip) {}
  // Guards all over: scratch memory, which may be large and is not looked at.
  DeviceBuffer(const Device& device, size_t count)
      : device_(device), begin_(kGuardBytes), count_(count), memory_(device, count + 2 * kGuardBytes) {
    const DeviceGuard guard(device);
    fill_on_device(memory_.data(), kGuard, memory_.bytes(), {});
    synchronize({});
  }

  void* data() const { return static_cast<uint8_t*>(memory_.data()) + begin_; }

  // What lies there after all work queued so far on the default stream.
  std::vector<uint8_t> read() const { return copy(begin_, count_); }

  // Fails the test when a guard was written.
  void expect_guards(const char* name) const {
    const auto untouched = [](const std::vector<uint8_t>& bytes) {
      return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == kGuard; });
    };
    EXPECT_TRUE(untouched(copy(0, begin_))) << "wrote before " << name;
    EXPECT_TRUE(untouched(copy(begin_ + count_, kGuardBytes))) << "wrote past " << name;
  }

  // For what a kernel only reads.
  void expect_unchanged(const char* name) const {
    EXPECT_TRUE(copy(0, image_.size()) == image_) << "wrote to or beside " << name;
  }

 private:
  std::vector<uint8_t> copy(size_t from, size_t bytes) const {
    const DeviceGuard guard(device_);
    std::vector<uint8_t> result(bytes);
    copy_to_host(result.data(), static_cast<const uint8_t*>(memory_.data()) + from, bytes, {});
    return result;
  }

  Device device_;
  size_t begin_, count_;
  std::vector<uint8_t> image_;  // of the whole memory, as it was made
  DeviceMemory memory_;
};

}  // namespace anyfp8::test
