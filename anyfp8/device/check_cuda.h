#pragma once

#include <cuda_runtime_api.h>

// For the sources of CUDA builds alone (*.cu, *_cuda.cpp).
namespace anyfp8 {

// Error(kCuda) with the expression, its place and the driver's words, unless `error` is success. The error is
// taken from the runtime's own memory of the last one, so that it is not reported again by the next call.
void check_cuda(cudaError_t error, const char* expression, const char* file, int line);

}  // namespace anyfp8

// Around every call of the CUDA runtime and after every launch: ANYFP8_CUDA_CHECK(cudaPeekAtLastError()).
#define ANYFP8_CUDA_CHECK(expression) ::anyfp8::check_cuda((expression), #expression, __FILE__, __LINE__)
