#pragma once

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <string_view>
#include <utility>

#include "anyfp8/anyfp8.h"
#include "anyfp8/base/text.h"
#include "anyfp8/c_api.h"
#include "anyfp8/c_api_json.h"

// What the functions of the C ABI have in common: handles, errors, and arguments as C++ has them.

struct anyfp8_device {
  anyfp8::Device value;
};
struct anyfp8_checkpoint {
  explicit anyfp8_checkpoint(anyfp8::Checkpoint opened) : value(std::move(opened)) {}
  anyfp8::Checkpoint value;
  // Found at the first use: it may have to look at every tensor, or not exist.
  const anyfp8::Format* format() const {
    std::call_once(once_, [this] { format_ = anyfp8::find_format(value); });
    return format_;
  }

 private:
  mutable std::once_flag once_;
  mutable const anyfp8::Format* format_ = nullptr;
};
struct anyfp8_weight {
  anyfp8::Fp8Weight value;
};
struct anyfp8_linear {
  anyfp8::Linear value;
};
struct anyfp8_workspace {
  anyfp8::Workspace value;
};

namespace anyfp8 {

// The message of this thread's last failed call.
std::string& last_error();
// Keeps the message, and returns the code.
int failed(int code, const char* message) noexcept;

// Runs the body of one function of the C ABI; what it throws becomes the code and the message.
template <typename Body>
int guarded(Body&& body) noexcept {
  try {
    body();
    return ANYFP8_OK;
  } catch (const Error& e) {
    return failed(1 + static_cast<int>(e.code()), e.what());
  } catch (const std::bad_alloc&) {
    return failed(ANYFP8_OUT_OF_MEMORY, "there is not enough memory for this call");
  } catch (const std::exception& e) {
    return failed(ANYFP8_INTERNAL, e.what());
  } catch (...) {
    return failed(ANYFP8_INTERNAL, "an exception of an unknown type was thrown inside anyfp8");
  }
}

template <typename T>
T& need(T* argument, std::string_view name) {
  if (argument == nullptr) throw fail(ErrorCode::kInvalidArgument, "the argument `{}` is NULL", name);
  return *argument;
}

// A function whose result is *result = make(), or NULL when that throws.
template <typename T, typename Make>
int give(T** result, std::string_view name, Make&& make) noexcept {
  return guarded([&] {
    need(result, name) = nullptr;
    *result = make();
  });
}

// Text that anyfp8_string_free() frees.
char* new_text(std::string_view text);
// A path or name that is not UTF-8 does not make a description fail.
char* new_json(const Json& json);

// A struct of the caller in the form of this library: a shorter one, of an older header, is filled up with
// zeros; a longer one is taken as long as it asks for nothing this library does not know.
template <typename Struct>
Struct read_struct(const Struct* given, size_t first_bytes, std::string_view name) {
  const size_t bytes = need(given, name).struct_size;
  if (bytes < first_bytes || bytes > 4096) {
    throw fail(ErrorCode::kInvalidArgument,
               "{}.struct_size is {}; set it to the sizeof of its type, {} bytes", name, bytes,
               sizeof(Struct));
  }
  const auto* raw = reinterpret_cast<const unsigned char*>(given);
  for (size_t i = sizeof(Struct); i < bytes; ++i) {
    if (raw[i] != 0) {
      throw fail(ErrorCode::kUnsupported, "byte {} of `{}` is set, a member that anyfp8 {} does not have yet",
                 i, name, ANYFP8_VERSION);
    }
  }
  Struct result{};
  std::memcpy(&result, given, std::min(bytes, sizeof(Struct)));
  return result;
}

DType dtype_from_c(int32_t code, std::string_view name);
DType dtype_or(int32_t code, DType preset, std::string_view name);  // 0: preset
void need_zero(int32_t value, std::string_view name);

struct CreateOptions {
  LinearOptions linear;
  SelectOptions select;
};

CreateOptions options_from_c(const anyfp8_linear_options* given);  // may be NULL

}  // namespace anyfp8
