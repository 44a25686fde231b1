#include "anyfp8/device/cpu_isa.h"

#include "anyfp8/base/text.h"
#include "anyfp8/device/amx_tiles.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace anyfp8 {
namespace {

constexpr CpuIsa kAvx2{.avx2 = true};
constexpr CpuIsa kAvx512{.avx2 = true, .avx512 = true};
constexpr CpuIsa kAvx512Vbmi{.avx2 = true, .avx512 = true, .avx512_vbmi = true};
constexpr CpuIsa kAvx512Bf16{.avx2 = true, .avx512 = true, .avx512_vbmi = true, .avx512_bf16 = true};
constexpr CpuIsa kAmxBf16{
    .avx2 = true, .avx512 = true, .avx512_vbmi = true, .avx512_bf16 = true, .amx_bf16 = true};

constexpr IsaLevel kLevels[] = {
    {"scalar", {}},
    {"avx2", kAvx2},
    {"avx512", kAvx512},
    {"avx512_vbmi", kAvx512Vbmi},
    {"avx512_bf16", kAvx512Bf16},
    {"amx_bf16", kAmxBf16},
    {"neon", {.neon = true}},
    {"neon_bf16", {.neon = true, .neon_bf16 = true}},
};

struct Flag {
  std::string_view name;
  bool CpuIsa::*member;
};
constexpr Flag kFlags[] = {
    {"avx2", &CpuIsa::avx2},
    {"avx512", &CpuIsa::avx512},
    {"avx512_vbmi", &CpuIsa::avx512_vbmi},
    {"avx512_bf16", &CpuIsa::avx512_bf16},
    {"amx_bf16", &CpuIsa::amx_bf16},
    {"neon", &CpuIsa::neon},
    {"neon_bf16", &CpuIsa::neon_bf16},
};

#if defined(__x86_64__)
bool has_f16c() {  // clang 14 does not know the name
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && ((c >> 29) & 1) != 0;
}

bool has_amx_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  const bool bf16 = (d >> 22) & 1, tile = (d >> 24) & 1;
  return bf16 && tile && obtain_amx_tiles();
}
#endif

}  // namespace

std::span<const IsaLevel> isa_levels() { return kLevels; }

CpuIsa detect_isa() {
  CpuIsa isa;
#if defined(__x86_64__)
  __builtin_cpu_init();  // its flags are off where the operating system does not save the registers
  isa.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  isa.avx512 = isa.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  isa.avx512_vbmi = isa.avx512 && __builtin_cpu_supports("avx512vbmi");
  isa.avx512_bf16 = isa.avx512 && __builtin_cpu_supports("avx512bf16");
  isa.amx_bf16 = isa.avx512 && has_amx_bf16();
#elif defined(__aarch64__)
  constexpr unsigned long kAsimd = 1ul << 1, kBf16 = 1ul << 14;  // HWCAP_ASIMD, HWCAP2_BF16
  isa.neon = (getauxval(AT_HWCAP) & kAsimd) != 0;
  isa.neon_bf16 = isa.neon && (getauxval(AT_HWCAP2) & kBf16) != 0;
#endif
  return isa;
}

CpuIsa common_isa(const CpuIsa& a, const CpuIsa& b) {
  CpuIsa both;
  for (const Flag& flag : kFlags) both.*flag.member = a.*flag.member && b.*flag.member;
  return both;
}

std::string isa_text(const CpuIsa& isa) {
  std::string text;
  for (const Flag& flag : kFlags) {
    if (!(isa.*flag.member)) continue;
    if (!text.empty()) text += ' ';
    text += flag.name;
  }
  return text.empty() ? "scalar" : text;
}

}  // namespace anyfp8
