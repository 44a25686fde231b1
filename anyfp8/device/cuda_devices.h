#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "anyfp8/device/device.h"

namespace anyfp8 {

// The CUDA devices that the driver lists for this process, uncapped; found at the first call, and kept.
struct CudaDevices {
  std::vector<Device> devices;  // devices[i].index == i
  std::string absence;          // where there are none: why, as the end of a sentence
};
const CudaDevices& cuda_devices();

// The card with its capability, and the shared memory of a block, capped as ANYFP8_CUDA_CC=`cap` asks ("7.5",
// "8.0", "8.6", "8.9" or "9.0"), so that the code of older cards is chosen on it.
// Error(kInvalidArgument) for another value and for one above the card's.
Device with_capped_capability(const Device& card, std::string_view cap);

// Error(kUnsupported) unless work can be done on `device` here: a Device may describe hardware that is
// absent.
void check_present(const Device& device);

}  // namespace anyfp8
