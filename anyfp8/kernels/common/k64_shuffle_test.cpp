#include "anyfp8/kernels/common/k64_shuffle.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "anyfp8/device/cuda_devices.h"
#include "anyfp8/device/device_memory.h"

namespace anyfp8 {
namespace {

std::vector<uint8_t> random_bytes(size_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

std::vector<uint8_t> shuffled(const std::vector<uint8_t>& natural) {
  std::vector<uint8_t> result(natural.size());
  for (size_t i = 0; i < natural.size(); i += kShuffleChunk) shuffle_chunk(&natural[i], &result[i]);
  return result;
}

// The order as it is drawn, from the numbers in the drawing.
TEST(K64Shuffle, PutsTheBytesOfALaneSideBySide) {
  uint8_t natural[kShuffleChunk], chunk[kShuffleChunk];
  for (int k = 0; k < kShuffleChunk; ++k) natural[k] = static_cast<uint8_t>(k);
  shuffle_chunk(natural, chunk);
  const uint8_t lane_0[] = {0, 8, 1, 9, 16, 24, 17, 25, 32, 40, 33, 41, 48, 56, 49, 57};
  const uint8_t lane_3[] = {6, 14, 7, 15, 22, 30, 23, 31, 38, 46, 39, 47, 54, 62, 55, 63};
  EXPECT_EQ(std::memcmp(chunk, lane_0, 16), 0);
  EXPECT_EQ(std::memcmp(chunk + 48, lane_3, 16), 0);
  uint8_t back[kShuffleChunk];
  unshuffle_chunk(chunk, back);
  EXPECT_EQ(std::memcmp(back, natural, sizeof(back)), 0);
}

TEST(K64Shuffle, WordsOfTheGpuGiveTheSameBytes) {
  const std::vector<uint8_t> natural = random_bytes(kShuffleChunk), expected = shuffled(natural);
  uint32_t from[16], to[16], back[16];
  std::memcpy(from, natural.data(), sizeof(from));
  shuffle_words(from, to);
  EXPECT_EQ(std::memcmp(to, expected.data(), sizeof(to)), 0);
  unshuffle_words(to, back);
  EXPECT_EQ(std::memcmp(back, from, sizeof(back)), 0);
}

TEST(K64Shuffle, UnshufflesRowsOfAnyLength) {
  for (const int64_t k : {1, 63, 64, 65, 127, 128, 200}) {
    std::vector<uint8_t> natural = random_bytes(static_cast<size_t>(shuffled_pitch(k)));
    const std::vector<uint8_t> row = shuffled(natural);
    std::vector<uint8_t> back(static_cast<size_t>(k) + 1, 0xAB);
    unshuffle_row(row.data(), back.data(), k);
    natural.resize(static_cast<size_t>(k));
    natural.push_back(0xAB);
    EXPECT_EQ(back, natural) << "k = " << k;
  }
}

#ifdef ANYFP8_HAVE_CUDA
TEST(K64Shuffle, OnADeviceIsTheSameAndComesBack) {
  if (cuda_devices().devices.empty()) GTEST_SKIP() << cuda_devices().absence;
  const Device& card = cuda_devices().devices.front();
  const DeviceGuard guard(card);
  // One thread, a block and a bit, and more chunks than the largest grid has threads.
  for (const int64_t chunks : {int64_t{0}, int64_t{1}, int64_t{257}, (int64_t{1} << 20) + 5}) {
    const std::vector<uint8_t> natural = random_bytes(static_cast<size_t>(chunks * kShuffleChunk));
    const DeviceMemory memory(card, natural.size() + kShuffleChunk);
    std::vector<uint8_t> back(natural.size());
    fill_on_device(memory.data(), 0xFF, memory.bytes(), {});
    copy_to_device(memory.data(), natural.data(), natural.size(), {});
    shuffle_on_device(memory.data(), chunks, {});
    copy_to_host(back.data(), memory.data(), back.size(), {});
    EXPECT_TRUE(back == shuffled(natural)) << chunks << " chunks";
    unshuffle_on_device(memory.data(), chunks, {});
    copy_to_host(back.data(), memory.data(), back.size(), {});
    EXPECT_TRUE(back == natural) << chunks << " chunks";
    std::vector<uint8_t> after(kShuffleChunk);
    copy_to_host(after.data(), static_cast<const uint8_t*>(memory.data()) + natural.size(), after.size(), {});
    EXPECT_EQ(after, std::vector<uint8_t>(kShuffleChunk, 0xFF)) << "wrote past the last chunk";
  }
}
#endif

}  // namespace
}  // namespace anyfp8
