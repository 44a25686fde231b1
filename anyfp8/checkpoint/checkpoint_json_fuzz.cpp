#include <cstdint>
#include <cstdlib>

#include "anyfp8/base/error.h"
#include "anyfp8/checkpoint/json_reader.h"

// Whatever the bytes, as an index and as a config: a value or Error(kInvalidFile).
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace anyfp8;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  size_t members = 0;
  const MemberSink count = [&](std::string_view, std::string_view) { ++members; };
  for (const std::string_view streamed : {"", "weight_map"}) {
    try {
      read_json(text, 1000, streamed, count);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInvalidFile) std::abort();
    }
  }
  if (members > size) std::abort();
  return 0;
}
