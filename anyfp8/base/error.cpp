#include "anyfp8/base/error.h"

#include <utility>

namespace anyfp8 {

std::string_view error_code_name(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kInvalidArgument: return "invalid argument";
    case ErrorCode::kNotFound: return "not found";
    case ErrorCode::kInvalidFile: return "invalid file";
    case ErrorCode::kUnsupported: return "unsupported";
    case ErrorCode::kIo: return "input/output";
    case ErrorCode::kCuda: return "cuda";
    case ErrorCode::kInternal: return "internal";
  }
  return "?";
}

Error::Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

Error& Error::in(std::string_view where) & {
  message_.insert(0, ": ").insert(0, where);
  return *this;
}

Error&& Error::in(std::string_view where) && { return std::move(in(where)); }

}  // namespace anyfp8
