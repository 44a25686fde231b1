#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

#include "anyfp8/base/export.h"

namespace anyfp8 {

enum class ErrorCode : uint8_t {
  kInvalidArgument,  // the caller's values do not fit together
  kNotFound,         // a file, tensor or kernel of that name does not exist
  kInvalidFile,      // a file breaks the rules of its format
  kUnsupported,      // understood, and not something this library or build can do
  kIo,               // the operating system refused
  kCuda,
  kInternal,  // a bug in anyfp8
};

ANYFP8_API std::string_view error_code_name(ErrorCode code) noexcept;

// The one exception of the library. The text is one sentence for a person: what was found, what was
// needed, what to do. Each layer of the call adds its place in front with in():
//   throw Error(kInvalidFile, "shape [4, 3] does not fit 10 bytes").in("model.safetensors")
class ANYFP8_API Error : public std::exception {
 public:
  Error(ErrorCode code, std::string message);
  ErrorCode code() const noexcept { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }
  Error&& in(std::string_view where) &&;  // "where: message"
  Error& in(std::string_view where) &;

 private:
  ErrorCode code_;
  std::string message_;
};

}  // namespace anyfp8
