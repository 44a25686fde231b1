#include "anyfp8/base/tensor.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "anyfp8/base/mapped_file.h"
#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

// One cache line, and one AVX-512 register.
constexpr size_t kAlignment = 64;

// A borrowed tensor without elements still has to be told apart from "no tensor".
constexpr std::byte kNoBytes{};

constexpr size_t kHugePage = size_t{2} << 20;

std::shared_ptr<void> allocate_small(size_t bytes) {
  const size_t padded = (bytes / kAlignment + 1) * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, padded);
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, padded);
  return {memory, [](void* p) { std::free(p); }};
}

// Begins at a huge page; what follows the last whole one is in small pages, so nothing is wasted.
std::shared_ptr<void> allocate_large(size_t bytes) {
  const size_t mapped = bytes + kAlignment + kHugePage;
  void* memory = mapped < bytes
                     ? MAP_FAILED
                     : ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  void* begin = memory;
  size_t room = mapped;
  std::align(kHugePage, bytes, begin, room);
  ::madvise(begin, bytes, MADV_HUGEPAGE);
  return {begin, [memory, mapped](void*) { ::munmap(memory, mapped); }};
}

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

HostTensor HostTensor::borrow_file(DType dtype, Shape shape, const void* data,
                                   std::shared_ptr<const MappedFile> file) {
  HostTensor tensor = borrow(dtype, std::move(shape), data, std::move(file));
  tensor.mapped_file_ = true;
  return tensor;
}

HostTensor HostTensor::allocate(DType dtype, Shape shape) {
  HostTensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = std::move(shape);
  const size_t bytes = tensor.size_bytes();
  const std::shared_ptr<void> memory = bytes < kHugePage ? allocate_small(bytes) : allocate_large(bytes);
  tensor.mutable_data_ = static_cast<std::byte*>(memory.get());
  tensor.owner_ = memory;
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

void HostTensor::release(size_t begin, size_t end) const noexcept {
  if (!mapped_file_ || begin >= end) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(data_);
  const uintptr_t first = (address + begin + page - 1) / page * page, last = (address + end) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
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

HostTensor HostTensor::slice(int64_t begin, int64_t end) const {
  if (shape_.empty() || begin < 0 || begin > end || end > shape_[0]) {
    throw fail(ErrorCode::kInvalidArgument, "entries [{}, {}) asked for of a tensor {}", begin, end,
               shape_text(shape_));
  }
  HostTensor view = *this;
  view.shape_[0] = end - begin;
  const int64_t each = shape_[0] == 0 ? 0 : size() / shape_[0] * static_cast<int64_t>(dtype_bytes(dtype_));
  view.data_ += begin * each;
  if (owned()) view.mutable_data_ += begin * each;
  return view;
}

}  // namespace anyfp8
