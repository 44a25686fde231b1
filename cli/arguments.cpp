#include "cli/arguments.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <sstream>

#include "anyfp8/base/text.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/parallel/launch.h"

namespace anyfp8::cli {
namespace {

void add_activations_option(CLI::App& verb, const std::vector<std::string>& names, const std::string& preset,
                            const std::function<void(DType)>& take) {
  const auto parse = [take, names](const std::string& name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      throw CLI::ValidationError("--activations",
                                 fmt::format("{} is none of {}", name, fmt::join(names, ", ")));
    }
    take(name == "f32" ? DType::kF32 : name == "f16" ? DType::kF16 : DType::kBF16);
  };
  verb.add_option_function<std::string>("--activations", parse,
                                        fmt::format("Type of activations: {}", fmt::join(names, ", ")))
      ->type_name("TYPE")
      ->default_str(preset);
}

}  // namespace

CLI::App* add_verb(CLI::App& app, const std::string& name, const std::string& summary,
                   const std::string& example) {
  CLI::App* verb = app.add_subcommand(name, summary);
  verb->footer("Example:\n  " + example);
  verb->fallthrough();  // --no-color and -v may stand after the verb
  return verb;
}

void add_model(CLI::App& verb, std::filesystem::path& model) {
  verb.add_option("MODEL", model, "Folder of a model, or one .safetensors file")
      ->type_name("")
      ->required()
      ->check(not_empty());
}

void add_json(CLI::App& verb, bool& json) {
  verb.add_flag("--json", json, "One JSON object instead of text");
}

namespace {
bool threads_given = false;
}  // namespace

bool threads_were_named() { return threads_given || std::getenv("ANYFP8_THREADS") != nullptr; }

void add_threads(CLI::App& verb) {
  verb.add_option_function<int>(
          "--threads",
          [](int count) {
            set_num_threads(count);
            threads_given = true;
          },
          "CPU threads (default: ANYFP8_THREADS, else all)")
      ->type_name("N")
      ->check(CLI::Range(1, 1024));
}

void add_device(CLI::App& verb, DeviceChoice& choice, bool allow_absent) {
  const auto parse = [&choice, allow_absent](const std::string& spelled) {
    std::string name = CLI::detail::to_lower(spelled);
    // Of several ranks each has its own.
    if (name == "cuda")
      name = checked("--device", [] { return fmt::format("cuda:{}", launch_from_environment().local_rank); });
    choice.named = checked("--device", [&] { return device_from_name(name); });
    const std::vector<std::string> absent = virtual_device_names();
    choice.present = std::find(absent.begin(), absent.end(), name) == absent.end();
    if (!choice.present && !allow_absent) {
      throw CLI::ValidationError(
          "--device", name + " describes hardware that is not here; `anyfp8 devices` lists what is");
    }
  };
  verb.add_option_function<std::string>("--device", parse,
                                        allow_absent ? "cpu, sm_86, cpu:avx2, ...: it need not be here"
                                                     : "cpu, cuda, or a device of `anyfp8 devices`")
      ->type_name("NAME")
      ->default_str("cpu");
}

void add_policy(CLI::App& verb, std::optional<Policy>& policy) {
  const auto parse = [&policy](const std::string& name) {
    for (const Policy known : {Policy::kAccuracy, Policy::kSpeed, Policy::kInvariant}) {
      if (name == policy_name(known)) {
        policy = known;
        return;
      }
    }
    throw CLI::ValidationError("--policy", name + " is none of accuracy, speed, invariant");
  };
  verb.add_option_function<std::string>("--policy", parse, "accuracy, speed or invariant")
      ->type_name("NAME")
      ->default_str("speed where the checkpoint quantises activations");
}

void add_activations(CLI::App& verb, DType& dtype, const std::vector<std::string>& names) {
  add_activations_option(verb, names, std::string(dtype_name(dtype)),
                         [&dtype](DType named) { dtype = named; });
}

void add_activations(CLI::App& verb, std::optional<DType>& dtype, const std::vector<std::string>& names,
                     const std::string& preset) {
  add_activations_option(verb, names, preset, [&dtype](DType named) { dtype = named; });
}

void add_kernel_wishes(CLI::App& verb, SelectOptions& select) {
  select = SelectOptions::from_environment(/*tuning=*/false);
  verb.add_option_function<std::string>(
          "--kernel",
          [&select](const std::string& name) {
            check_kernel_name("--kernel", name);
            select.force = name;
          },
          "Use this kernel or fail (ANYFP8_KERNEL)")
      ->type_name("NAME");
  verb.add_option_function<std::string>(
          "--disable",
          [&select](const std::string& names) {
            std::istringstream stream(names);
            for (std::string name; std::getline(stream, name, ',');) {
              check_kernel_name("--disable", name);
              select.disable.push_back(name);
            }
          },
          "Do without these kernels (ANYFP8_DISABLE)")
      ->type_name("A,B");
}

void check_kernel_name(const std::string& option, const std::string& name) {
  if (find_kernel(name) != nullptr) return;
  std::vector<std::string_view> names;
  for (const Kernel* kernel : all_kernels()) names.push_back(kernel->name);
  throw CLI::ValidationError(option,
                             fmt::format("{} is no kernel; there are {}", name, fmt::join(names, ", ")));
}

CLI::Validator not_empty() {
  return CLI::Validator(
      [](const std::string& text) { return text.empty() ? "the name is empty" : std::string(); }, "");
}

CLI::Validator number_between(double least, double most) {
  return CLI::Validator(
      [least, most](const std::string& text) {
        double value = 0;
        // The comparison is false for NaN.
        if (CLI::detail::lexical_cast(text, value) && value >= least && value <= most) return std::string();
        return fmt::format("{} is not a number from {} to {}", text, least, most);
      },
      fmt::format("{} to {}", least, most));
}

}  // namespace anyfp8::cli
