#include "anyfp8/device/device.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <optional>
#include <set>
#include <string>

#include "anyfp8/base/error.h"
#include "anyfp8/device/cpu_isa.h"

namespace anyfp8 {
namespace {

// Sets ANYFP8_ISA for one scope.
class IsaCap {
 public:
  explicit IsaCap(const char* value) {
    if (const char* before = std::getenv("ANYFP8_ISA")) before_ = before;
    setenv("ANYFP8_ISA", value, 1);
  }
  ~IsaCap() { before_ ? setenv("ANYFP8_ISA", before_->c_str(), 1) : unsetenv("ANYFP8_ISA"); }

 private:
  std::optional<std::string> before_;
};

template <typename Function>
std::string error_text(ErrorCode code, Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST(Device, CpuIsThisProcess) {
  const Device cpu = cpu_device();
  EXPECT_EQ(cpu.kind, DeviceKind::kCpu);
  EXPECT_FALSE(cpu.name.empty());
  EXPECT_GT(cpu.memory_bytes, size_t{1} << 20);
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  EXPECT_EQ(cpu.cores, CPU_COUNT(&set));
}

TEST(Device, DetectionIsOneOfTheKnownNestings) {
  const CpuIsa isa = detect_isa();
  EXPECT_TRUE(isa.avx2 || !isa.avx512);
  EXPECT_TRUE(isa.avx512 || !(isa.avx512_vbmi || isa.avx512_bf16 || isa.amx_bf16));
  EXPECT_TRUE(isa.neon || !isa.neon_bf16);
  EXPECT_FALSE(isa.avx2 && isa.neon);
}

TEST(Device, IsaCapTakesAwayWhatLiesAboveAndAddsNothing) {
  const CpuIsa all = detect_isa();
  for (const IsaLevel& level : isa_levels()) {
    const IsaCap cap(level.name.data());
    EXPECT_EQ(cpu_device().isa, common_isa(all, level.isa)) << level.name;
  }
  const IsaCap scalar("scalar");
  EXPECT_EQ(cpu_device().isa, CpuIsa{});
}

TEST(Device, UnknownIsaCapIsAnErrorThatListsTheNames) {
  const IsaCap cap("avx1024");
  const std::string text = error_text(ErrorCode::kInvalidArgument, [] { (void)cpu_device(); });
  EXPECT_NE(text.find("avx1024"), std::string::npos) << text;
  EXPECT_NE(text.find("avx512_bf16"), std::string::npos) << text;
}

TEST(Device, EveryVirtualNameIsADistinctDevice) {
  std::set<std::string> seen;
  for (const std::string& name : virtual_device_names()) {
    const Device device = device_from_name(name);
    EXPECT_TRUE(seen.insert(device.name).second) << name;
    if (device.kind == DeviceKind::kCuda) {
      EXPECT_EQ(name, "sm_" + std::to_string(device.cc.major) + std::to_string(device.cc.minor));
      EXPECT_GT(device.sm_count, 0);
      EXPECT_GE(device.smem_per_block, 48u * 1024);
      EXPECT_GT(device.l2_bytes, 0u);
      EXPECT_GT(device.mem_gb_per_s, 0);
      EXPECT_GT(device.memory_bytes, 0u);
    }
  }
  EXPECT_TRUE(device_from_name("cpu:avx512_bf16").isa.avx512_vbmi);
  EXPECT_EQ(device_from_name("cpu:scalar").isa, CpuIsa{});
  EXPECT_EQ(device_from_name("sm_103").cc, (ComputeCapability{10, 3}));
  EXPECT_LT(device_from_name("sm_89").cc, device_from_name("sm_100").cc);
}

TEST(Device, AbsentCudaAndUnknownNamesSayWhatToDo) {
  EXPECT_EQ(all_devices().front().kind, DeviceKind::kCpu);
  const std::string cuda = error_text(ErrorCode::kUnsupported, [] { (void)device_from_name("cuda:0"); });
  EXPECT_NE(cuda.find("no CUDA"), std::string::npos) << cuda;
  for (const char* name : {"", "gpu", "sm_61", "cpu:avx10", "cpu:", "CPU"}) {
    const std::string text = error_text(ErrorCode::kInvalidArgument, [&] { (void)device_from_name(name); });
    EXPECT_NE(text.find("sm_121"), std::string::npos) << text;
  }
}

TEST(Device, IsaTextNamesTheFlags) {
  EXPECT_EQ(isa_text({}), "scalar");
  EXPECT_EQ(isa_text({.avx2 = true, .avx512 = true, .avx512_bf16 = true}), "avx2 avx512 avx512_bf16");
  EXPECT_EQ(isa_text({.neon = true}), "neon");
}

}  // namespace
}  // namespace anyfp8
