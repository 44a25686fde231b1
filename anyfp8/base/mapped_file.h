#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace anyfp8 {

// A regular file mapped read-only and shared. The mapping lives as long as the object; what other
// processes write into the file shows through, and a file cut short under the mapping raises SIGBUS on
// access, as with any mmap: replace model files by rename, never by truncation.
class MappedFile {
 public:
  // Error(kNotFound / kIo) naming the path. Directories, pipes and devices are refused.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  const std::byte* data_;
  size_t size_;
};

}  // namespace anyfp8
