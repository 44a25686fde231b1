#include "anyfp8/c_api_arguments.h"

#include <cstdlib>
#include <memory>
#include <string>

namespace anyfp8 {

std::string& last_error() {
  static thread_local std::string message;
  return message;
}

int failed(int code, const char* message) noexcept {
  try {
    last_error() = message;
  } catch (...) {  // no memory for the text: an empty one, the code still says what happened
    last_error().clear();
  }
  return code;
}

char* new_text(std::string_view text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  std::memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  return copy;
}

char* new_json(const Json& json) {
  return new_text(json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

DType dtype_from_c(int32_t code, std::string_view name) {
  if (code < ANYFP8_F64 || code > ANYFP8_E8M0) {
    throw fail(ErrorCode::kInvalidArgument,
               "{} = {} is no element type; see ANYFP8_F32 and the others in c_api.h", name, code);
  }
  return static_cast<DType>(code - 1);
}

DType dtype_or(int32_t code, DType preset, std::string_view name) {
  return code == 0 ? preset : dtype_from_c(code, name);
}

void need_zero(int32_t value, std::string_view name) {
  if (value != 0) throw fail(ErrorCode::kInvalidArgument, "{} = {}; it must be 0", name, value);
}

CreateOptions options_from_c(const anyfp8_linear_options* given) {
  constexpr size_t kFirstBytes = 48;  // of the struct as it was first published
  const anyfp8_linear_options options =
      given == nullptr ? anyfp8_linear_options{} : read_struct(given, kFirstBytes, "options");
  CreateOptions result{{}, SelectOptions::from_environment(options.tune_cache == nullptr)};
  result.linear.in = dtype_or(options.in_dtype, DType::kBF16, "in_dtype");
  result.linear.out = dtype_or(options.out_dtype, DType::kBF16, "out_dtype");
  if (options.policy < ANYFP8_POLICY_DEFAULT || options.policy > ANYFP8_POLICY_INVARIANT) {
    throw fail(ErrorCode::kInvalidArgument, "policy = {}; 0 is the default, 1 accuracy, 2 speed, 3 invariant",
               options.policy);
  }
  if (options.policy != ANYFP8_POLICY_DEFAULT) result.linear.policy = static_cast<Policy>(options.policy - 1);
  if (options.tune_cache != nullptr && *options.tune_cache != '\0')
    result.select.tuned = std::make_shared<const TuneTable>(read_tune_table(options.tune_cache));
  if (options.force != nullptr) result.select.force = options.force;
  if (options.ignore_build != 0 && options.ignore_build != 1) {
    throw fail(ErrorCode::kInvalidArgument, "options.ignore_build = {}; it is 0 or 1", options.ignore_build);
  }
  result.select.ignore_build = options.ignore_build == 1;
  if (options.disable == nullptr && options.disable_count != 0) {
    throw fail(ErrorCode::kInvalidArgument, "options.disable is NULL and disable_count {}",
               options.disable_count);
  }
  if (options.disable != nullptr) {
    result.select.disable.clear();
    for (size_t i = 0; i < options.disable_count; ++i) {
      result.select.disable.emplace_back(&need(options.disable[i], "options.disable[i]"));
    }
  }
  return result;
}

}  // namespace anyfp8
