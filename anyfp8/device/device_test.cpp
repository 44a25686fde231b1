#include "anyfp8/device/device.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "anyfp8/base/error.h"
#include "anyfp8/device/cpu_isa.h"
#include "anyfp8/device/cuda_devices.h"
#include "anyfp8/device/device_memory.h"

namespace anyfp8 {
namespace {

// Sets a variable of the environment for one scope.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value, 1);
  }
  ~Variable() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

class IsaCap : Variable {
 public:
  explicit IsaCap(const char* value) : Variable("ANYFP8_ISA", value) {}
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
  const size_t count = cuda_devices().devices.size();
  const std::string cuda =
      error_text(ErrorCode::kUnsupported, [&] { (void)device_from_name("cuda:" + std::to_string(count)); });
  if (count == 0) {
    EXPECT_NE(cuda.find(cuda_devices().absence), std::string::npos) << cuda;
  } else {
    EXPECT_NE(cuda.find("this machine has"), std::string::npos) << cuda;
  }
  for (const char* name : {"", "gpu", "sm_61", "cpu:avx10", "cpu:", "CPU", "cuda", "cuda:", "cuda:-1",
                           "cuda:0x", "cuda:99999999999"}) {
    const std::string text = error_text(ErrorCode::kInvalidArgument, [&] { (void)device_from_name(name); });
    EXPECT_NE(text.find("sm_121"), std::string::npos) << text;
  }
}

TEST(Device, WhatIsDescribedAloneIsNotPresent) {
  EXPECT_NO_THROW(check_present(cpu_device()));
  for (const char* name : {"sm_75", "sm_90", "sm_121"}) {
    const std::string text =
        error_text(ErrorCode::kUnsupported, [&] { check_present(device_from_name(name)); });
    EXPECT_NE(text.find("planned for, not run on"), std::string::npos) << text;
  }
}

TEST(Device, CapabilityCapTakesAwayAndAddsNothing) {
  const Device hopper = device_from_name("sm_90"), turing = with_capped_capability(hopper, "7.5");
  EXPECT_EQ(turing.cc, (ComputeCapability{7, 5}));
  EXPECT_EQ(turing.smem_per_block, device_from_name("sm_75").smem_per_block);
  EXPECT_EQ(turing.name, hopper.name);
  EXPECT_EQ(turing.sm_count, hopper.sm_count);
  EXPECT_EQ(with_capped_capability(hopper, "9.0").cc, hopper.cc);
  EXPECT_EQ(with_capped_capability(device_from_name("sm_120"), "8.0").smem_per_block,
            device_from_name("sm_120").smem_per_block);
  const std::string above = error_text(
      ErrorCode::kInvalidArgument, [] { (void)with_capped_capability(device_from_name("sm_75"), "8.0"); });
  EXPECT_NE(above.find("above the 7.5"), std::string::npos) << above;
  for (const char* value : {"9", "7.0", "sm_80", " 8.0", "10.0"}) {
    const std::string unknown =
        error_text(ErrorCode::kInvalidArgument, [&] { (void)with_capped_capability(hopper, value); });
    EXPECT_NE(unknown.find("7.5, 8.0, 8.6, 8.9, 9.0"), std::string::npos) << unknown;
  }
}

TEST(Device, NoOtherCardTakesTheCodeOfHopper) {
  for (const char* name : {"sm_100", "sm_103", "sm_120", "sm_121"}) {
    const Device card = device_from_name(name);
    const std::string text =
        error_text(ErrorCode::kInvalidArgument, [&] { (void)with_capped_capability(card, "9.0"); });
    EXPECT_NE(text.find("one of 7.5, 8.0, 8.6, 8.9"), std::string::npos) << text;
    EXPECT_EQ(text.find(", 9.0"), std::string::npos) << text;
    EXPECT_FALSE(runs_code_of(card, {9, 0})) << name;
    EXPECT_TRUE(runs_code_of(card, card.cc)) << name;
    EXPECT_EQ(with_capped_capability(card, "8.9").cc, (ComputeCapability{8, 9}));
  }
  EXPECT_TRUE(runs_code_of(device_from_name("sm_90"), {9, 0}));
  EXPECT_FALSE(runs_code_of(device_from_name("sm_89"), {9, 0}));
}

// A card that is really there; it need not be alone.
class CudaDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_devices().devices.empty()) GTEST_SKIP() << cuda_devices().absence;
  }
};

TEST_F(CudaDevice, IsListedWithWhatSelectionLooksAt) {
  const Variable none("ANYFP8_CUDA_CC", "");
  const std::vector<Device> all = all_devices();
  ASSERT_EQ(all.size(), 1 + cuda_devices().devices.size());
  for (size_t i = 1; i < all.size(); ++i) {
    const Device& card = all[i];
    EXPECT_EQ(card.kind, DeviceKind::kCuda);
    EXPECT_EQ(card.index, static_cast<int>(i) - 1);
    EXPECT_FALSE(card.name.empty());
    EXPECT_GE(card.cc, (ComputeCapability{5, 0}));
    EXPECT_GT(card.sm_count, 0);
    EXPECT_GE(card.smem_per_block, 48u * 1024);
    EXPECT_GT(card.l2_bytes, 0u);
    EXPECT_GT(card.memory_bytes, size_t{1} << 30);
    EXPECT_NO_THROW(check_present(card));
    EXPECT_EQ(device_from_name("cuda:" + std::to_string(i - 1)).name, card.name);
  }
}

TEST_F(CudaDevice, CapIsReadFromTheEnvironment) {
  const Variable cap("ANYFP8_CUDA_CC", "7.5");
  EXPECT_EQ(device_from_name("cuda:0").cc, (ComputeCapability{7, 5}));
  EXPECT_NO_THROW(check_present(device_from_name("cuda:0")));
  const Variable wrong("ANYFP8_CUDA_CC", "1.0");
  EXPECT_THROW((void)all_devices(), Error);
}

TEST_F(CudaDevice, MayBeDescribedAsLessAndNotAsMore) {
  const Device card = cuda_devices().devices.front();
  Device described = card;
  described.cc = {7, 5};
  described.smem_per_block = 64 << 10;
  EXPECT_NO_THROW(check_present(described));
  described.cc = {9, 0};
  if (card.cc.major == 9) {
    EXPECT_NO_THROW(check_present(described));
  } else {
    EXPECT_THROW(check_present(described), Error);
  }
  described = card;
  described.smem_per_block += 1;
  EXPECT_THROW(check_present(described), Error);
  described = card;
  described.cc.major += 1;
  EXPECT_THROW(check_present(described), Error);
}

TEST_F(CudaDevice, MemoryHoldsWhatIsCopiedAndPadsRows) {
  for (const Device& card : cuda_devices().devices) {
    const DeviceMemory memory(card, 3 * 8);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % 256, 0u);
    const DeviceGuard guard(card);
    const uint8_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    fill_on_device(memory.data(), 0xFF, memory.bytes(), {});
    copy_rows_to_device(memory.data(), 8, rows, 5, 3, {});
    std::vector<uint8_t> back(24);
    copy_to_host(back.data(), memory.data(), back.size(), {});
    EXPECT_EQ(back, (std::vector<uint8_t>{1,  2, 3, 4, 5,  0,  0,  0,  6,  7, 8, 9,
                                          10, 0, 0, 0, 11, 12, 13, 14, 15, 0, 0, 0}));
    EXPECT_FALSE(is_capturing({}));
  }
}

TEST_F(CudaDevice, MemoryThatDoesNotFitIsAnErrorThatSaysHowMuchIsFree) {
  const Device& card = cuda_devices().devices.front();
  const std::string text =
      error_text(ErrorCode::kCuda, [&] { const DeviceMemory memory(card, card.memory_bytes * 2); });
  EXPECT_NE(text.find("are free"), std::string::npos) << text;
  EXPECT_NO_THROW(synchronize({})) << "the error stayed behind";
}

TEST(Device, IsaTextNamesTheFlags) {
  EXPECT_EQ(isa_text({}), "scalar");
  EXPECT_EQ(isa_text({.avx2 = true, .avx512 = true, .avx512_bf16 = true}), "avx2 avx512 avx512_bf16");
  EXPECT_EQ(isa_text({.neon = true}), "neon");
}

}  // namespace
}  // namespace anyfp8
