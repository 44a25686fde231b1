#pragma once

// Internal: text is built with fmt everywhere. Public headers never include this file.
#include <fmt/format.h>

#include "anyfp8/base/error.h"

namespace anyfp8 {

// throw fail(ErrorCode::kInvalidFile, "needs {} bytes, has {}", need, have);
template <typename... Args>
Error fail(ErrorCode code, fmt::format_string<Args...> text, Args&&... args) {
  return Error(code, fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace anyfp8
