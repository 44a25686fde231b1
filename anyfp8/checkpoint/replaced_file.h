#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace anyfp8 {

// A file written under a temporary name in the directory of `path`, which commit() renames to `path`.
// Destroyed before that, it leaves nothing behind. Every failure is Error(kIo).
class ReplacedFile {
 public:
  explicit ReplacedFile(const std::filesystem::path& path);
  ~ReplacedFile();
  ReplacedFile(const ReplacedFile&) = delete;
  ReplacedFile& operator=(const ReplacedFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void commit();

 private:
  [[noreturn]] void refuse(int error) const;

  std::filesystem::path path_, temporary_;
  int fd_ = -1;
};

}  // namespace anyfp8
