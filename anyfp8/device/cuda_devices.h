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
// Error(kInvalidArgument) for another value and for one whose code the card does not run.
Device with_capped_capability(const Device& card, std::string_view cap);

// Whether a card runs what is chosen for capability `cc`: that of its own and of older ones, but for Hopper,
// for which there is machine code that runs on 9.x alone (sm_90a).
bool runs_code_of(const Device& card, ComputeCapability cc);

// Error(kUnsupported) unless work can be done on `device` here: a Device may describe hardware that is
// absent.
void check_present(const Device& device);

}  // namespace anyfp8
