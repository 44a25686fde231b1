#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "anyfp8/base/export.h"
#include "anyfp8/base/tensor.h"

namespace anyfp8 {

// What a safetensors header says of one tensor. dtype is absent for types this library has no name for
// (F4, F6_E2M3, C64, a later one): such a tensor is listed, and an error only when its bytes are asked for.
struct TensorInfo {
  std::string_view name;        // lives as long as the Checkpoint
  std::string_view dtype_name;  // as written in the file: "F8_E4M3", "BF16"
  std::optional<DType> dtype;
  Shape shape;
  size_t bytes = 0;
  int shard = 0;  // index into Checkpoint::shard_paths()
};

// A Hugging Face model directory (config.json, model.safetensors or shards with an index), or a single
// .safetensors file, opened and checked whole: every header is parsed, no tensor byte is read. Tensors are
// views of the mapped files and keep them mapped. Immutable, safe to share between threads.
class ANYFP8_API Checkpoint {
 public:
  // Error kNotFound, kIo, or kInvalidFile with the file, what was found there and what the format wants.
  static Checkpoint open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const std::vector<std::filesystem::path>& shard_paths() const;
  size_t file_bytes() const;  // all shards

  std::vector<TensorInfo> tensors() const;  // sorted by name
  bool has(std::string_view name) const;
  std::optional<TensorInfo> info(std::string_view name) const;

  // The bytes, not copied. Error(kNotFound) with near names, kUnsupported for an unknown dtype.
  HostTensor tensor(std::string_view name) const;

  // A value of the file header's __metadata__ (the first shard that has the key).
  std::optional<std::string> metadata(std::string_view key) const;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  explicit Checkpoint(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace anyfp8
