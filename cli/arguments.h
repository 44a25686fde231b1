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
bool threads_were_named();         // by --threads or ANYFP8_THREADS

struct DeviceChoice {
  std::optional<Device> named;
  bool present = true;  // this process could run kernels on it
  Device device() const { return named ? *named : cpu_device(); }
};
// allow_absent: also names of hardware that is not here.
void add_device(CLI::App& verb, DeviceChoice& choice, bool allow_absent);

// Without the option `policy` stays empty: each layer has its default_policy().
void add_policy(CLI::App& verb, std::optional<Policy>& policy);
// `names`: those of "f32", "bf16", "f16" that this verb takes.
void add_activations(CLI::App& verb, DType& dtype, const std::vector<std::string>& names);
// The same where the default is not one value: `preset` says what it is.
void add_activations(CLI::App& verb, std::optional<DType>& dtype, const std::vector<std::string>& names,
                     const std::string& preset);
// --kernel and --disable; both start from the environment. The verb itself adds user_tune_table() when it
// runs: a file is not read, and no warning given, while the command line is parsed.
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
