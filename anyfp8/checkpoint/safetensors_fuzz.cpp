#include <cstdlib>

#include "anyfp8/base/error.h"
#include "anyfp8/checkpoint/safetensors.h"

// Whatever the bytes, parse() gives a header that can be walked, or Error(kInvalidFile).
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace anyfp8;
  try {
    const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
    const SafetensorsHeader header = SafetensorsHeader::parse(file);
    for (size_t i = 0; i < header.size(); ++i) {
      const SafetensorsHeader::Entry entry = header.entry(i);
      if (header.find(entry.name) != i) std::abort();
      if (entry.begin > entry.end || entry.end > size - header.data_offset()) std::abort();
      if (entry.dtype_name.size() > size || entry.shape.size() > 8) std::abort();
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidFile) std::abort();
  }
  return 0;
}
