#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "anyfp8/base/error.h"
#include "anyfp8/kernels/select.h"

namespace anyfp8::cli {

// Arguments that several verbs have, with one meaning and one text. A wrong value is a usage error (exit
// code 2) that lists the right ones; the values are checked while the command line is parsed.

// `example` is a command line that works, the last thing --help prints.
CLI::App* add_verb(CLI::App& app, const std::string& name, const std::string& summary,
                   const std::string& example);

void add_model(CLI::App& verb, std::filesystem::path& model);
void add_json(CLI::App& verb, bool& json);
void add_threads(CLI::App& verb);  // sets the library's thread count

struct DeviceChoice {
  std::optional<Device> named;
  bool present = true;  // this process could run kernels on it
  Device device() const { return named ? *named : cpu_device(); }
};
// allow_absent: also names of hardware that is not here.
void add_device(CLI::App& verb, DeviceChoice& choice, bool allow_absent);

void add_policy(CLI::App& verb, Policy& policy);
// `names`: those of "f32", "bf16", "f16" that this verb takes.
void add_activations(CLI::App& verb, DType& dtype, const std::vector<std::string>& names);
// --kernel and --disable; both start from the environment.
void add_kernel_wishes(CLI::App& verb, SelectOptions& select);

void check_kernel_name(const std::string& option, const std::string& name);

CLI::Validator not_empty();

// Finite and in [least, most].
CLI::Validator number_between(double least, double most);

// For values that the command line parser cannot check: an anyfp8::Error becomes a usage error of `option`.
template <typename Parse>
auto checked(const std::string& option, Parse&& parse) {
  try {
    return parse();
  } catch (const Error& error) {
    throw CLI::ValidationError(option, error.what());
  }
}

}  // namespace anyfp8::cli
