#include <cuda_runtime_api.h>

#include "anyfp8/base/text.h"
#include "anyfp8/device/check_cuda.h"
#include "anyfp8/device/device_memory.h"

namespace anyfp8 {
namespace {

cudaStream_t cuda_stream(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

}  // namespace

void DeviceGuard::enter(int index) {
  int current = 0;
  ANYFP8_CUDA_CHECK(cudaGetDevice(&current));
  if (current == index) return;
  ANYFP8_CUDA_CHECK(cudaSetDevice(index));
  before_ = current;
}

void DeviceGuard::leave() noexcept {
  if (cudaSetDevice(before_) != cudaSuccess) static_cast<void>(cudaGetLastError());
}

DeviceMemory::DeviceMemory(const Device& device, size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const DeviceGuard guard(device);
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes);
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    size_t free = 0, total = 0;
    ANYFP8_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    throw fail(ErrorCode::kCuda, "{} bytes do not fit the memory of cuda:{} ({}), of which {} of {} are free",
               bytes, device.index, device.name, free, total);
  }
  ANYFP8_CUDA_CHECK(error);
  // Knows its device by itself. Nothing can be done about an error, and a broken device says so elsewhere.
  data_ = {memory, [](void* pointer) {
             if (cudaFree(pointer) != cudaSuccess) static_cast<void>(cudaGetLastError());
           }};
}

void copy_to_device(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes == 0) return;
  ANYFP8_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda_stream(stream)));
}

void copy_rows_to_device(void* to, size_t pitch, const void* from, size_t row_bytes, int64_t rows,
                         Stream stream) {
  const auto height = static_cast<size_t>(rows);
  if (pitch == row_bytes) return copy_to_device(to, from, row_bytes * height, stream);
  if (rows == 0) return;
  ANYFP8_CUDA_CHECK(cudaMemcpy2DAsync(to, pitch, from, row_bytes, row_bytes, height, cudaMemcpyHostToDevice,
                                      cuda_stream(stream)));
  ANYFP8_CUDA_CHECK(cudaMemset2DAsync(static_cast<char*>(to) + row_bytes, pitch, 0, pitch - row_bytes, height,
                                      cuda_stream(stream)));
}

void copy_rows_on_device(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t row_bytes,
                         int64_t rows, Stream stream) {
  if (rows == 0 || row_bytes == 0) return;
  ANYFP8_CUDA_CHECK(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, row_bytes, static_cast<size_t>(rows),
                                      cudaMemcpyDeviceToDevice, cuda_stream(stream)));
}

void fill_on_device(void* to, uint8_t value, size_t bytes, Stream stream) {
  if (bytes == 0) return;
  ANYFP8_CUDA_CHECK(cudaMemsetAsync(to, value, bytes, cuda_stream(stream)));
}

void copy_to_host(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes == 0) return;
  ANYFP8_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_stream(stream)));
  synchronize(stream);
}

void synchronize(Stream stream) { ANYFP8_CUDA_CHECK(cudaStreamSynchronize(cuda_stream(stream))); }

bool is_capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  ANYFP8_CUDA_CHECK(cudaStreamIsCapturing(cuda_stream(stream), &status));
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace anyfp8
