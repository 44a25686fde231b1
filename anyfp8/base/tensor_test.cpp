#include "anyfp8/base/tensor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "anyfp8/base/error.h"
#include "anyfp8/base/mapped_file.h"
#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

TEST(HostTensor, AllocatedMemoryIsZeroAlignedAndShared) {
  HostTensor tensor = HostTensor::allocate(DType::kF32, {3, 5});
  EXPECT_TRUE(tensor.owned());
  EXPECT_EQ(tensor.size_bytes(), 60u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data()) % 64, 0u);
  for (int i = 0; i < 15; ++i) EXPECT_EQ(tensor.as<float>()[i], 0);
  const HostTensor copy = tensor;
  tensor.mutable_data()[0] = std::byte{1};
  EXPECT_EQ(copy.data()[0], std::byte{1});
}

// Large memory comes from the system in another way.
TEST(HostTensor, LargeMemoryIsZeroAlignedAndWritableToTheEnd) {
  HostTensor tensor = HostTensor::allocate(DType::kU8, {3 << 20});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data()) % 64, 0u);
  EXPECT_TRUE(std::ranges::all_of(tensor.bytes(), [](std::byte b) { return b == std::byte{0}; }));
  std::ranges::fill_n(tensor.mutable_data(), 3 << 20, std::byte{7});
  tensor.release(0, tensor.size_bytes());  // no mapped file: keeps what was written
  EXPECT_TRUE(std::ranges::all_of(tensor.bytes(), [](std::byte b) { return b == std::byte{7}; }));
}

// KiB in memory of the mapping that begins at `address`; 0 where the system does not say.
int64_t resident_kib(const void* address) {
  std::ifstream smaps("/proc/self/smaps");
  const std::string begin = fmt::format("{:x}-", reinterpret_cast<uintptr_t>(address));
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.find('-') < line.find(' ')) inside = line.starts_with(begin);
    if (inside && line.starts_with("Rss:")) return std::stoll(line.substr(4));
  }
  return 0;
}

TEST(HostTensor, ReleasedPagesOfAFileLeaveMemoryAndReadTheSameAgain) {
  constexpr int64_t kBytes = 1 << 20;
  std::string text(kBytes, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 7 + i / 4096);
  const auto path = std::filesystem::temp_directory_path() / fmt::format("anyfp8_tensor_{}", ::getpid());
  std::ofstream(path, std::ios::binary) << text;
  const auto file = MappedFile::open(path);
  std::filesystem::remove(path);  // the mapping keeps it
  const HostTensor tensor = HostTensor::borrow_file(DType::kU8, {kBytes}, file->bytes().data(), file);
  const auto same = [&] { return std::memcmp(tensor.data(), text.data(), text.size()) == 0; };
  EXPECT_TRUE(same());
  const int64_t before = resident_kib(tensor.data());
  tensor.release(100, kBytes - 100);
  const int64_t after = resident_kib(tensor.data());
  EXPECT_TRUE(same());
  if (before == 0) GTEST_SKIP() << "an emulator does not say what is in memory";
  EXPECT_EQ(before, kBytes / 1024);
  // The pages at both ends hold bytes that were not released.
  EXPECT_EQ(after, 2 * ::sysconf(_SC_PAGESIZE) / 1024);
}

TEST(HostTensor, BorrowedMemoryIsReadOnlyAndKeptAlive) {
  auto owner = std::make_shared<std::vector<uint8_t>>(std::vector<uint8_t>{1, 2, 3, 4, 5, 6});
  const std::weak_ptr<void> alive = owner;
  HostTensor tensor = HostTensor::borrow(DType::kE4M3, {2, 3}, owner->data(), owner);
  EXPECT_EQ(tensor.as<uint8_t>(), owner->data());
  EXPECT_THROW(tensor.mutable_data(), Error);
  owner.reset();
  EXPECT_FALSE(alive.expired());
  EXPECT_EQ(tensor.reshaped({6}).as<uint8_t>()[5], 6);
  tensor = {};
  EXPECT_TRUE(alive.expired());
}

TEST(HostTensor, EmptyAndRankZeroAreNotUndefined) {
  EXPECT_FALSE(HostTensor().defined());
  const HostTensor empty = HostTensor::borrow(DType::kF32, {0, 4}, nullptr, nullptr);
  EXPECT_TRUE(empty.defined());
  EXPECT_EQ(empty.size_bytes(), 0u);
  EXPECT_EQ(HostTensor::allocate(DType::kF16, {}).size_bytes(), 2u);
  EXPECT_EQ(shape_text({4096, 128}), "[4096, 128]");
}

TEST(HostTensor, ViewsMustFit) {
  const HostTensor tensor = HostTensor::allocate(DType::kU8, {4, 6});
  EXPECT_EQ(tensor.reshaped({24}).data(), tensor.data());
  EXPECT_THROW(tensor.reshaped({5, 5}), Error);
  EXPECT_EQ(tensor.with_dtype(DType::kE8M0).dtype(), DType::kE8M0);
  EXPECT_THROW(tensor.with_dtype(DType::kBF16), Error);
}

}  // namespace
}  // namespace anyfp8
