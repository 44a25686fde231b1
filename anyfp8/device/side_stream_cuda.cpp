#include <cuda_runtime_api.h>

#include <utility>

#include "anyfp8/device/check_cuda.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/device/side_stream.h"

namespace anyfp8 {
namespace {

cudaStream_t as_stream(void* handle) { return static_cast<cudaStream_t>(handle); }

// Records on one stream and lets the other wait: a wait keeps what was recorded when it was queued, so one
// event will do again and again.
void order(void* first, void* second, void* event) {
  const auto recorded = static_cast<cudaEvent_t>(event);
  ANYFP8_CUDA_CHECK(cudaEventRecord(recorded, as_stream(first)));
  ANYFP8_CUDA_CHECK(cudaStreamWaitEvent(as_stream(second), recorded, 0));
}

}  // namespace

SideStream::SideStream(const Device& device) {
  const DeviceGuard guard(device);
  int least = 0, greatest = 0;
  ANYFP8_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  cudaEvent_t event = nullptr;
  ANYFP8_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  event_ = event;
  cudaStream_t stream = nullptr;
  const cudaError_t error = cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest);
  if (error != cudaSuccess) static_cast<void>(cudaEventDestroy(event));
  ANYFP8_CUDA_CHECK(error);
  stream_ = stream;
}

SideStream::~SideStream() {
  // An error changes nothing any more.
  if (stream_ != nullptr) static_cast<void>(cudaStreamDestroy(as_stream(stream_)));
  if (event_ != nullptr) static_cast<void>(cudaEventDestroy(static_cast<cudaEvent_t>(event_)));
}

SideStream::SideStream(SideStream&& other) noexcept
    : stream_(std::exchange(other.stream_, nullptr)), event_(std::exchange(other.event_, nullptr)) {}

SideStream& SideStream::operator=(SideStream&& other) noexcept {
  std::swap(stream_, other.stream_);
  std::swap(event_, other.event_);
  return *this;
}

void SideStream::wait_for(Stream main) const { order(main.handle, stream_, event_); }
void SideStream::let_wait(Stream main) const { order(stream_, main.handle, event_); }

}  // namespace anyfp8
