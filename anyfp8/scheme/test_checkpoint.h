#pragma once

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "anyfp8/base/float8.h"
#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/checkpoint/writer.h"

namespace anyfp8::test {

// A tensor of the dtype with the given values, or with codes counting up from `first_code` (finite e4m3
// only).
inline HostTensor values(DType dtype, Shape shape, const std::vector<float>& numbers) {
  HostTensor tensor = HostTensor::allocate(dtype, std::move(shape));
  std::byte* out = tensor.mutable_data();
  for (size_t i = 0; i < numbers.size(); ++i) {
    const float value = numbers[i];
    const uint16_t half = dtype == DType::kBF16 ? f32_to_bf16(value) : f32_to_f16(value);
    const uint8_t code = dtype == DType::kE4M3 ? f32_to_e4m3(value) : static_cast<uint8_t>(value);
    switch (dtype_bytes(dtype)) {
      case 4: std::memcpy(out + 4 * i, &value, 4); break;
      case 2: std::memcpy(out + 2 * i, &half, 2); break;
      default: out[i] = std::byte{code};
    }
  }
  return tensor;
}

inline HostTensor filled(DType dtype, const Shape& shape, float value) {
  return values(dtype, shape, std::vector<float>(static_cast<size_t>(num_elements(shape)), value));
}

// f32 [rows, cols]: sin(i * step) for element i.
inline HostTensor wave(int64_t rows, int64_t cols, double step) {
  std::vector<float> numbers(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = static_cast<float>(std::sin(static_cast<double>(i) * step));
  return values(DType::kF32, {rows, cols}, numbers);
}

// e4m3 [n, k] with every finite code in turn.
inline HostTensor counting_weight(int64_t n, int64_t k) {
  HostTensor tensor = HostTensor::allocate(DType::kE4M3, {n, k});
  for (int64_t i = 0; i < n * k; ++i) {
    const uint8_t code = static_cast<uint8_t>(i * 7 + i / 251);
    tensor.mutable_data()[i] = std::byte((code & 0x7F) == 0x7F ? code - 1 : code);
  }
  return tensor;
}

// A model directory that lives as long as the object.
class TempCheckpoint {
 public:
  TempCheckpoint(std::string_view config, const std::vector<NamedTensor>& tensors,
                 const Metadata& metadata = {}) {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() / fmt::format("anyfp8_scheme_{}_{}", ::getpid(), count++);
    std::filesystem::create_directories(path_);
    if (!config.empty()) add_file("config.json", config);
    write_safetensors(path_ / "model.safetensors", tensors, metadata);
  }
  ~TempCheckpoint() { std::filesystem::remove_all(path_); }
  TempCheckpoint(const TempCheckpoint&) = delete;
  TempCheckpoint& operator=(const TempCheckpoint&) = delete;

  void add_file(const char* name, std::string_view text) const { std::ofstream(path_ / name) << text; }
  Checkpoint open() const { return Checkpoint::open(path_); }

 private:
  std::filesystem::path path_;
};

}  // namespace anyfp8::test
