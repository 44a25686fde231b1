#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anyfp8/base/export.h"
#include "anyfp8/base/tensor.h"

namespace anyfp8 {

using Metadata = std::vector<std::pair<std::string, std::string>>;

struct NamedTensor {
  std::string name;
  HostTensor tensor;
};

// Writes tensors as the reference implementation does (descending alignment of the dtype, then name; header
// padded with spaces to a multiple of 8), into a temporary file beside `path` that is renamed at the end, so
// that a reader sees the old file or the new one and a mapped source may be its own target. A file that
// the reference implementation wrote comes back byte for byte. Error(kIo) leaves no temporary file behind.
ANYFP8_API void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                                  const Metadata& metadata = {{"format", "pt"}});

// The same for any small text or JSON file.
ANYFP8_API void write_text_file(const std::filesystem::path& path, std::string_view text);

}  // namespace anyfp8
