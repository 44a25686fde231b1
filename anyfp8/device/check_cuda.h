#pragma once

#include <cuda_runtime_api.h>

#include <type_traits>

// For the sources of CUDA builds alone (*.cu, *_cuda.cpp).
namespace anyfp8 {

// Error(kCuda) with the expression, its place and the driver's words, unless `error` is success. The error is
// taken from the runtime's own memory of the last one, so that it is not reported again by the next call.
void check_cuda(cudaError_t error, const char* expression, const char* file, int line);

// kernel<<<grid, threads, 0, stream>>>(arguments...), and what became of that alone: cudaPeekAtLastError()
// would also give an error that a call of the application left behind.
template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, void* stream,
                   std::type_identity_t<Parameters>... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = static_cast<cudaStream_t>(stream);
  void* pointers[] = {&arguments...};
  return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), pointers);
}

}  // namespace anyfp8

// Around every call of the CUDA runtime and every launch().
#define ANYFP8_CUDA_CHECK(expression) ::anyfp8::check_cuda((expression), #expression, __FILE__, __LINE__)
