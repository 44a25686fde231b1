#include "anyfp8/checkpoint/fingerprint.h"

#include <cstdint>
#include <span>
#include <string_view>

#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/config_json.h"

namespace anyfp8 {
namespace {

constexpr size_t kSmallBytes = 64 << 10;  // a norm of the widest published models

class Fnv1a {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) state_ = (state_ ^ static_cast<uint64_t>(byte)) * 1099511628211u;
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  uint64_t value() const { return state_; }

 private:
  uint64_t state_ = 14695981039346656037u;
};

}  // namespace

std::string fingerprint(const Checkpoint& checkpoint) {
  Fnv1a hash;
  hash.add(config_json(checkpoint).dump());
  const std::vector<TensorInfo> tensors = checkpoint.tensors();
  for (const TensorInfo& tensor : tensors) {
    hash.add(fmt::format("{} {} {}\n", tensor.name, tensor.dtype_name, shape_text(tensor.shape)));
    if (tensor.dtype && tensor.bytes <= kSmallBytes) hash.add(checkpoint.tensor(tensor.name).bytes());
  }
  return fmt::format("{} tensors, {} bytes, fingerprint {:016x}", tensors.size(), checkpoint.file_bytes(),
                     hash.value());
}

}  // namespace anyfp8
