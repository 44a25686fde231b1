// What a build without CUDA has in place of devices_cuda.cpp, memory_cuda.cpp and side_stream_cuda.cpp.
#ifndef ANYFP8_HAVE_CUDA

#include "anyfp8/base/text.h"
#include "anyfp8/device/cuda_devices.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/device/side_stream.h"

namespace anyfp8 {
namespace {

Error no_cuda() {
  return fail(ErrorCode::kUnsupported, "work on a CUDA device was asked for, and this build has no CUDA");
}

}  // namespace

const CudaDevices& cuda_devices() {
  static const CudaDevices none{{}, "this build has no CUDA"};
  return none;
}

void DeviceGuard::enter(int) { throw no_cuda(); }
void DeviceGuard::leave() noexcept {}
DeviceMemory::DeviceMemory(const Device&, size_t) { throw no_cuda(); }
void copy_to_device(void*, const void*, size_t, Stream) { throw no_cuda(); }
void copy_rows_to_device(void*, size_t, const void*, size_t, int64_t, Stream) { throw no_cuda(); }
void copy_rows_on_device(void*, size_t, const void*, size_t, size_t, int64_t, Stream) { throw no_cuda(); }
void fill_on_device(void*, uint8_t, size_t, Stream) { throw no_cuda(); }
void copy_to_host(void*, const void*, size_t, Stream) { throw no_cuda(); }
void synchronize(Stream) { throw no_cuda(); }
bool is_capturing(Stream) { throw no_cuda(); }
SideStream::SideStream(const Device&) { throw no_cuda(); }
SideStream::~SideStream() = default;
SideStream::SideStream(SideStream&&) noexcept = default;
SideStream& SideStream::operator=(SideStream&&) noexcept = default;
void SideStream::wait_for(Stream) const { throw no_cuda(); }
void SideStream::let_wait(Stream) const { throw no_cuda(); }

}  // namespace anyfp8

#endif
