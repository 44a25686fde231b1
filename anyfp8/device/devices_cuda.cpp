#include <cuda_runtime_api.h>

#include <algorithm>
#include <iterator>

#include "anyfp8/base/log.h"
#include "anyfp8/base/text.h"
#include "anyfp8/device/check_cuda.h"
#include "anyfp8/device/cuda_devices.h"

namespace anyfp8 {
namespace {

// Machine code of one card runs on the later ones of its major number: cmake/folders.cmake names what is
// built. are built.
constexpr int kMajorsWithMachineCode[] = {7, 8, 9, 10, 12};

int attribute(int index, cudaDeviceAttr name) {
  int value = 0;
  ANYFP8_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, index));
  return value;
}

// What newer drivers no longer tell, or tell for some cards alone, is 0: not known.
double attribute_or_0(int index, cudaDeviceAttr name) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, name, index) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return 0;
  }
  return value > 0 ? value : 0;
}

Device query(int index) {
  cudaDeviceProp properties;
  ANYFP8_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  Device device;
  device.kind = DeviceKind::kCuda;
  device.index = index;
  device.name = properties.name;
  device.cc = {properties.major, properties.minor};
  device.sm_count = properties.multiProcessorCount;
  device.smem_per_block = static_cast<size_t>(attribute(index, cudaDevAttrMaxSharedMemoryPerBlockOptin));
  device.l2_bytes = static_cast<size_t>(attribute(index, cudaDevAttrL2CacheSize));
  device.memory_bytes = properties.totalGlobalMem;
  // Two transfers a clock, bits to bytes, kHz to GHz.
  device.mem_gb_per_s = 2 * attribute_or_0(index, cudaDevAttrMemoryClockRate) *
                        attribute_or_0(index, cudaDevAttrGlobalMemoryBusWidth) / 8 / 1e6;
  return device;
}

CudaDevices find() {
  int count = 0, driver = 0;
  // 0: there is none. A machine without driver, or with one too old, is a machine without GPU.
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
    return {{}, "this machine has no CUDA driver"};
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return {{}, fmt::format("this machine has no CUDA device that answers: {}", cudaGetErrorString(error))};
  }
  CudaDevices found{{}, "this machine has no CUDA device"};
  for (int index = 0; index < count; ++index) {
    found.devices.push_back(query(index));
    const Device& card = found.devices.back();
    const auto& majors = kMajorsWithMachineCode;
    if (std::find(std::begin(majors), std::end(majors), card.cc.major) == std::end(majors)) {
      log_once(LogLevel::kInfo,
               fmt::format("{} has compute capability {}.{}, for which this build has no machine code: the "
                           "driver compiles its PTX when a kernel is first used",
                           card.name, card.cc.major, card.cc.minor));
    }
  }
  return found;
}

}  // namespace

const CudaDevices& cuda_devices() {
  static const CudaDevices found = find();
  return found;
}

}  // namespace anyfp8
