#include "anyfp8/device/device.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <span>

#include "anyfp8/base/text.h"
#include "anyfp8/device/cpu_isa.h"
#include "anyfp8/device/cuda_devices.h"

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

// The capabilities for which some kernel has code of its own.
constexpr ComputeCapability kCaps[] = {{7, 5}, {8, 0}, {8, 6}, {8, 9}, {9, 0}};

constexpr ComputeCapability kHopper{9, 0};

std::string dotted(ComputeCapability cc) { return fmt::format("{}.{}", cc.major, cc.minor); }

std::vector<Device> present_cuda_devices() {
  std::vector<Device> devices = cuda_devices().devices;
  const char* cap = std::getenv("ANYFP8_CUDA_CC");
  if (cap == nullptr || *cap == '\0') return devices;
  for (Device& device : devices) device = with_capped_capability(device, cap);
  return devices;
}

// N of "cuda:N".
std::optional<size_t> cuda_index(std::string_view name) {
  constexpr std::string_view kPrefix = "cuda:";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size());
  unsigned index = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return index;
}

Device cuda_device(std::string_view name, size_t index) {
  const std::vector<Device> present = present_cuda_devices();
  if (index < present.size()) return present[index];
  if (present.empty()) {
    throw fail(ErrorCode::kUnsupported,
               "device {} was asked for, and {}; use cpu, or name a card such as sm_90 to plan for it", name,
               cuda_devices().absence);
  }
  throw fail(ErrorCode::kUnsupported, "device {} was asked for, and this machine has {}, counted from cuda:0",
             name, present.size() == 1 ? "one CUDA device" : fmt::format("{} CUDA devices", present.size()));
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

std::vector<Device> all_devices() {
  std::vector<Device> devices = present_cuda_devices();
  devices.insert(devices.begin(), cpu_device());
  return devices;
}

bool runs_code_of(const Device& card, ComputeCapability cc) {
  return cc <= card.cc && (cc != kHopper || card.cc.major == kHopper.major);
}

Device with_capped_capability(const Device& card, std::string_view cap) {
  std::string names, usable;
  for (const ComputeCapability cc : kCaps) {
    names.append(names.empty() ? "" : ", ").append(dotted(cc));
    if (runs_code_of(card, cc)) usable.append(usable.empty() ? "" : ", ").append(dotted(cc));
  }
  for (const ComputeCapability cc : kCaps) {
    if (dotted(cc) != cap) continue;
    if (!runs_code_of(card, cc)) {
      throw fail(ErrorCode::kInvalidArgument,
                 "ANYFP8_CUDA_CC={} {} the {} of cuda:{} ({}); it can only take capability away: {}", cap,
                 cc > card.cc ? "is above" : "names Hopper, whose own machine code does not run on",
                 dotted(card.cc), card.index, card.name,
                 usable.empty() ? "nothing can be capped here" : "set it to one of " + usable);
    }
    Device capped = card;
    capped.cc = cc;
    for (const Card& typical : kCards) {
      if (typical.cc == cc) capped.smem_per_block = std::min(card.smem_per_block, typical.smem_per_block);
    }
    return capped;
  }
  throw fail(ErrorCode::kInvalidArgument, "ANYFP8_CUDA_CC={} is unknown; set it to one of {}", cap, names);
}

void check_present(const Device& device) {
  if (device.kind == DeviceKind::kCpu) {
    const CpuIsa here = detect_isa();
    if (common_isa(here, device.isa) == device.isa) return;
    throw fail(ErrorCode::kUnsupported,
               "{} describes a CPU with {}, and this one has {}; it can be planned for, not run on",
               device.name, isa_text(device.isa), isa_text(here));
  }
  const auto& [devices, absence] = cuda_devices();
  if (devices.empty()) {
    throw fail(ErrorCode::kUnsupported, "{} is a CUDA device, and {}; it can be planned for, not run on",
               device.name, absence);
  }
  const auto same = [&](const Device& card) {
    return card.index == device.index && card.name == device.name && runs_code_of(card, device.cc) &&
           card.smem_per_block >= device.smem_per_block;
  };
  if (std::any_of(devices.begin(), devices.end(), same)) return;
  throw fail(
      ErrorCode::kUnsupported,
      "{} (capability {}, {} bytes of shared memory a block) describes a CUDA device that is not here; "
      "it can be planned for, not run on: use cuda:0, which is {} (capability {}, {} bytes)",
      device.name, dotted(device.cc), device.smem_per_block, devices.front().name, dotted(devices.front().cc),
      devices.front().smem_per_block);
}

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
  if (const std::optional<size_t> index = cuda_index(name)) return cuda_device(name, *index);
  std::string names = "cpu, cuda:0";
  for (const std::string& known : virtual_device_names()) names.append(", ").append(known);
  throw fail(ErrorCode::kInvalidArgument, "device '{}' is unknown; the names are {}", name, names);
}

}  // namespace anyfp8
