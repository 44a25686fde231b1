#include "anyfp8/checkpoint/replaced_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

// Linux writes at most 2^31 - 4096 bytes at once.
constexpr size_t kMaxWriteBytes = size_t{1} << 30;

std::filesystem::path temporary_name() {
  static std::atomic<unsigned> count{0};
  return fmt::format(".anyfp8-{}-{}.tmp", ::getpid(), count++);
}

}  // namespace

ReplacedFile::ReplacedFile(const std::filesystem::path& path) : path_(path) {
  do {  // a name left over by a process that died with our id is passed over
    temporary_ = path.parent_path() / temporary_name();
    // 0666 less the umask, as any new file.
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd_ < 0 && (errno == EEXIST || errno == EINTR));
  if (fd_ < 0) refuse(errno);
}

ReplacedFile::~ReplacedFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void ReplacedFile::refuse(int error) const {
  throw fail(ErrorCode::kIo, "{}: cannot be written: {}", path_.string(), std::strerror(error));
}

void ReplacedFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), std::min(bytes.size(), kMaxWriteBytes));
    if (written >= 0) {
      bytes = bytes.subspan(static_cast<size_t>(written));
    } else if (errno != EINTR) {
      refuse(errno);
    }
  }
}

void ReplacedFile::commit() {
  if (::close(std::exchange(fd_, -1)) != 0) refuse(errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) refuse(errno);
  temporary_.clear();
}

}  // namespace anyfp8
