#include "anyfp8/base/tensor.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

// One cache line, and one AVX-512 register.
constexpr size_t kAlignment = 64;

// A borrowed tensor without elements still has to be told apart from "no tensor".
constexpr std::byte kNoBytes{};

}  // namespace

int64_t num_elements(const Shape& shape) noexcept {
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  return count;
}

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

HostTensor HostTensor::borrow(DType dtype, Shape shape, const void* data, std::shared_ptr<const void> owner) {
  HostTensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = std::move(shape);
  tensor.data_ = data == nullptr ? &kNoBytes : static_cast<const std::byte*>(data);
  tensor.owner_ = std::move(owner);
  return tensor;
}

HostTensor HostTensor::allocate(DType dtype, Shape shape) {
  HostTensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = std::move(shape);
  const size_t bytes = tensor.size_bytes();
  const size_t padded = (bytes / kAlignment + 1) * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, padded);
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, padded);
  tensor.owner_ = std::shared_ptr<const void>(memory, [](const void* p) { std::free(const_cast<void*>(p)); });
  tensor.mutable_data_ = static_cast<std::byte*>(memory);
  tensor.data_ = tensor.mutable_data_;
  return tensor;
}

size_t HostTensor::size_bytes() const noexcept {
  return static_cast<size_t>(num_elements(shape_)) * dtype_bytes(dtype_);
}

std::byte* HostTensor::mutable_data() {
  if (!owned())
    throw fail(ErrorCode::kInvalidArgument, "a borrowed tensor {} is read-only", shape_text(shape_));
  return mutable_data_;
}

HostTensor HostTensor::reshaped(Shape shape) const {
  if (num_elements(shape) != size()) {
    throw fail(ErrorCode::kInvalidArgument, "{} cannot be seen as {}", shape_text(shape_), shape_text(shape));
  }
  HostTensor view = *this;
  view.shape_ = std::move(shape);
  return view;
}

HostTensor HostTensor::with_dtype(DType dtype) const {
  if (dtype_bytes(dtype) != dtype_bytes(dtype_)) {
    throw fail(ErrorCode::kInvalidArgument, "{} cannot be seen as {}", dtype_name(dtype_), dtype_name(dtype));
  }
  HostTensor view = *this;
  view.dtype_ = dtype;
  return view;
}

}  // namespace anyfp8
