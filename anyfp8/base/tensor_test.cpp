#include "anyfp8/base/tensor.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "anyfp8/base/error.h"

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
