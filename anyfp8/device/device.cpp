#include "anyfp8/device/device.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <span>

#include "anyfp8/base/text.h"
#include "anyfp8/device/cpu_isa.h"

namespace anyfp8 {
namespace {

constexpr size_t kKib = 1024, kMib = 1024 * kKib, kGib = 1024 * kMib;

// One typical card of each compute capability, from public data sheets; shared memory is what one block may
// opt in to (CUDA programming guide, table of compute capabilities).
struct Card {
  ComputeCapability cc;
  std::string_view name;
  int sm_count;
  size_t smem_per_block;
  size_t l2_bytes;
  double mem_gb_per_s;
  size_t memory_bytes;
};
constexpr Card kCards[] = {
    {{7, 0}, "Tesla V100", 80, 96 * kKib, 6 * kMib, 900, 32 * kGib},
    {{7, 5}, "Tesla T4", 40, 64 * kKib, 4 * kMib, 320, 16 * kGib},
    {{8, 0}, "A100 80GB", 108, 163 * kKib, 40 * kMib, 2039, 80 * kGib},
    {{8, 6}, "GeForce RTX 3090", 82, 99 * kKib, 6 * kMib, 936, 24 * kGib},
    {{8, 7}, "Jetson AGX Orin 64GB", 16, 163 * kKib, 4 * kMib, 204.8, 64 * kGib},
    {{8, 9}, "L40S", 142, 99 * kKib, 96 * kMib, 864, 48 * kGib},
    {{9, 0}, "H200", 132, 227 * kKib, 50 * kMib, 4800, 141 * kGib},
    {{10, 0}, "B200", 148, 227 * kKib, 126 * kMib, 8000, 180 * kGib},
    {{10, 3}, "B300", 148, 227 * kKib, 126 * kMib, 8000, 288 * kGib},
    {{12, 0}, "GeForce RTX 5090", 170, 99 * kKib, 96 * kMib, 1792, 32 * kGib},
    {{12, 1}, "DGX Spark", 48, 99 * kKib, 24 * kMib, 273, 128 * kGib},
};

// A machine in the middle of those in use; nothing in selection depends on it.
constexpr int kVirtualCores = 16;

std::string card_name(const Card& card) { return fmt::format("sm_{}{}", card.cc.major, card.cc.minor); }

Device card_device(const Card& card) {
  Device device;
  device.kind = DeviceKind::kCuda;
  device.name = card.name;
  device.cc = card.cc;
  device.sm_count = card.sm_count;
  device.smem_per_block = card.smem_per_block;
  device.l2_bytes = card.l2_bytes;
  device.mem_gb_per_s = card.mem_gb_per_s;
  device.memory_bytes = card.memory_bytes;
  return device;
}

Device virtual_cpu(const IsaLevel& level) {
  Device device;
  device.name = fmt::format("a CPU with {}", level.name);
  device.isa = level.isa;
  device.cores = kVirtualCores;
  return device;
}

// "model name : AMD EPYC 9654" on x86; Arm kernels have no such line.
std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
    if (begin != std::string::npos) return line.substr(begin);
  }
  return "CPU";
}

size_t positive_sysconf(int name) {
  const long value = sysconf(name);
  return value > 0 ? static_cast<size_t>(value) : 0;
}

CpuIsa capped(const CpuIsa& isa) {
  const char* value = std::getenv("ANYFP8_ISA");
  if (value == nullptr) return isa;
  std::string names;
  for (const IsaLevel& level : isa_levels()) {
    if (level.name == value) return common_isa(isa, level.isa);
    names.append(names.empty() ? "" : ", ").append(level.name);
  }
  throw fail(ErrorCode::kInvalidArgument, "ANYFP8_ISA={} is unknown; set it to one of {}", value, names);
}

}  // namespace

Device cpu_device() {
  static const CpuIsa detected = detect_isa();
  static const std::string name = cpu_name();
  Device device;
  device.name = name;
  device.isa = capped(detected);
  device.cores = omp_get_num_procs();  // counts the affinity mask, not the machine
#ifdef _SC_LEVEL2_CACHE_SIZE
  device.l2_bytes = positive_sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
  device.memory_bytes = positive_sysconf(_SC_PHYS_PAGES) * positive_sysconf(_SC_PAGESIZE);
  return device;
}

std::vector<Device> all_devices() { return {cpu_device()}; }

std::vector<std::string> virtual_device_names() {
  std::vector<std::string> names;
  for (const IsaLevel& level : isa_levels()) names.push_back(fmt::format("cpu:{}", level.name));
  for (const Card& card : kCards) names.push_back(card_name(card));
  return names;
}

Device device_from_name(std::string_view name) {
  if (name == "cpu") return cpu_device();
  for (const IsaLevel& level : isa_levels()) {
    if (name == fmt::format("cpu:{}", level.name)) return virtual_cpu(level);
  }
  for (const Card& card : kCards) {
    if (name == card_name(card)) return card_device(card);
  }
  if (name.starts_with("cuda:")) {
    throw fail(
        ErrorCode::kUnsupported,
        "device {} was asked for, and this build has no CUDA; use cpu, or name a card such as sm_90 to "
        "plan for it",
        name);
  }
  std::string names = "cpu, cuda:0";
  for (const std::string& known : virtual_device_names()) names.append(", ").append(known);
  throw fail(ErrorCode::kInvalidArgument, "device '{}' is unknown; the names are {}", name, names);
}

}  // namespace anyfp8
