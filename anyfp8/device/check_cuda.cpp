#include "anyfp8/device/check_cuda.h"
#include "anyfp8/base/text.h"

namespace anyfp8 {

void check_cuda(cudaError_t error, const char* expression, const char* file, int line) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw fail(ErrorCode::kCuda, "{}: {} ({}) from {} at {}:{}", cudaGetErrorName(error),
             cudaGetErrorString(error), static_cast<int>(error), expression, file, line);
}

}  // namespace anyfp8
