#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "anyfp8/base/dtype.h"
#include "anyfp8/base/export.h"

namespace anyfp8 {

class MappedFile;

using Shape = std::vector<int64_t>;

// Elements of a shape; rank 0 has one. The shapes the library holds were checked for overflow.
ANYFP8_API int64_t num_elements(const Shape& shape) noexcept;
ANYFP8_API std::string shape_text(const Shape& shape);  // "[4096, 128]"

// A matrix somebody else owns, on the device it is used on: element (r, c) is data[r * row_stride + c].
// Rows may be strided (row_stride >= cols), the elements of a row lie side by side.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;        // m
  int64_t cols = 0;        // k or n
  int64_t row_stride = 0;  // in elements
};

// A contiguous row-major tensor in host memory: either a borrowed range of something kept alive by
// `owner` (a mapped file) and then read-only, or memory of its own. Copies share the bytes.
class ANYFP8_API HostTensor {
 public:
  HostTensor() = default;  // empty: no bytes, defined() is false
  static HostTensor borrow(DType dtype, Shape shape, const void* data, std::shared_ptr<const void> owner);
  // The same of a mapped file, whose pages release() can give back.
  static HostTensor borrow_file(DType dtype, Shape shape, const void* data,
                                std::shared_ptr<const MappedFile> file);
  // Zeroed, 64-byte aligned, owned. From 2 MiB on it takes memory where it is first written, in huge pages
  // where the system has them: reading a weight is up to a quarter faster in them (one Zen 4 core).
  static HostTensor allocate(DType dtype, Shape shape);

  bool defined() const noexcept { return data_ != nullptr; }
  bool owned() const noexcept { return mutable_data_ != nullptr; }
  DType dtype() const noexcept { return dtype_; }
  const Shape& shape() const noexcept { return shape_; }
  int64_t size() const noexcept { return num_elements(shape_); }
  size_t size_bytes() const noexcept;
  const std::byte* data() const noexcept { return data_; }
  std::span<const std::byte> bytes() const noexcept { return {data_, size_bytes()}; }
  std::byte* mutable_data();  // Error(kInvalidArgument) when borrowed

  // Bytes [begin, end) will not be read soon: whole pages of a mapped file in there stop counting as memory
  // of this process. Reading them again is slow once, and right. Does nothing to memory that is no mapped
  // file.
  void release(size_t begin, size_t end) const noexcept;

  template <typename T>
  const T* as() const noexcept {
    return reinterpret_cast<const T*>(data_);
  }

  // The same bytes under another shape with as many elements, or as another dtype of the same width.
  HostTensor reshaped(Shape shape) const;
  HostTensor with_dtype(DType dtype) const;
  // Entries [begin, end) of the first dimension, the same bytes. Error(kInvalidArgument) outside of it.
  HostTensor slice(int64_t begin, int64_t end) const;

 private:
  DType dtype_ = DType::kU8;
  Shape shape_;
  const std::byte* data_ = nullptr;
  std::byte* mutable_data_ = nullptr;
  std::shared_ptr<const void> owner_;
  bool mapped_file_ = false;
};

}  // namespace anyfp8
