#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "anyfp8/base/export.h"

namespace anyfp8 {

enum class DeviceKind : uint8_t { kCpu, kCuda };

struct ComputeCapability {
  int major = 0, minor = 0;
  auto operator<=>(const ComputeCapability&) const = default;
};

// Instruction sets of a CPU that some kernel asks for. Each flag holds only if the operating system
// saves the registers too.
struct CpuIsa {
  bool avx2 = false;         // AVX2, FMA and F16C
  bool avx512 = false;       // AVX-512 F, BW, DQ, VL (and avx2)
  bool avx512_vbmi = false;  // byte permutes
  bool avx512_bf16 = false;  // vdpbf16ps
  bool amx_bf16 = false;     // tile registers and tdpbf16ps
  bool neon = false;
  bool neon_bf16 = false;  // bfdot, bfmmla
  bool operator==(const CpuIsa&) const = default;
};

// A plain value that says all that selection looks at, so that tests and `plan` describe hardware that
// is not there.
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  std::string name;
  CpuIsa isa;            // CPU
  int cores = 1;         // CPU: processors this process may run on
  ComputeCapability cc;  // CUDA, and all below
  int sm_count = 0;
  size_t smem_per_block = 0;  // bytes a block may opt in to
  size_t l2_bytes = 0;
  double mem_gb_per_s = 0;  // 0: not known
  size_t memory_bytes = 0;  // 0: not known
};

// The CPU of this process. ANYFP8_ISA=scalar|avx2|avx512|avx512_vbmi|avx512_bf16|amx_bf16|neon takes away
// what lies above the named set, for tests; an unknown name is an Error(kInvalidArgument).
ANYFP8_API Device cpu_device();

// Every device this process can run a kernel on: the CPU first, then, in a CUDA build, the driver's CUDA
// devices. ANYFP8_CUDA_CC=7.5|8.0|8.6|8.9|9.0 caps their capability, for tests of the code that older cards
// run; an unknown value and one whose code a card does not run (above its own; 9.0 on what is not 9.x) are an
// Error(kInvalidArgument).
ANYFP8_API std::vector<Device> all_devices();

// A device from its name: "cpu" (this one), "cuda:0" (present), and hardware that need not be present:
// "cpu:scalar", "cpu:avx2", "cpu:avx512", ... and "sm_86" with the figures of a typical card.
// Error(kUnsupported) for a CUDA device that is not here; Error(kInvalidArgument) lists the names that exist.
ANYFP8_API Device device_from_name(std::string_view name);

// Names that device_from_name() knows without the hardware, in order.
ANYFP8_API std::vector<std::string> virtual_device_names();

// "avx2 avx512 avx512_bf16", or "scalar".
ANYFP8_API std::string isa_text(const CpuIsa& isa);

// A CUDA stream (cudaStream_t); null is the default stream, and what CPU kernels get.
struct Stream {
  void* handle = nullptr;
};

}  // namespace anyfp8
