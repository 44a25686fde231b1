#include "anyfp8/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "anyfp8/base/text.h"

namespace anyfp8 {

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const auto refuse = [&](int error) {
    const ErrorCode code = error == ENOENT || error == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kIo;
    return fail(code, "{}: {}", path.string(), std::strerror(error));
  };
  // O_NONBLOCK: opening a pipe must not wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw refuse(errno);
  struct stat status {};
  if (::fstat(fd, &status) != 0) {
    const int error = errno;
    ::close(fd);
    throw refuse(error);
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(fd);
    throw fail(ErrorCode::kIo, "{}: is not a regular file", path.string());
  }
  const size_t size = static_cast<size_t>(status.st_size);
  void* memory = nullptr;  // an empty file maps to nothing
  if (size != 0) {
    memory = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
      const int error = errno;
      ::close(fd);
      throw refuse(error);
    }
  }
  ::close(fd);
  return std::shared_ptr<const MappedFile>(new MappedFile(static_cast<const std::byte*>(memory), size));
}

MappedFile::~MappedFile() {
  if (size_ != 0) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace anyfp8
