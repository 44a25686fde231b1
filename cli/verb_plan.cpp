#include <algorithm>
#include <map>

#include "cli/arguments.h"
#include "cli/model_layers.h"
#include "cli/selection_text.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

struct Arguments {
  std::filesystem::path model;
  DeviceChoice device;
  std::optional<Policy> policy;
  DType activations = DType::kBF16;
  SelectOptions select;
  bool json = false;
};

// What selection sees of a layer and can differ within a plan.
std::string selection_key(const LinearConfig& config) {
  return fmt::format("{} {} {} {} {}", config.n, config.k, config.bias,
                     dtype_name(config.scheme.weight.scale_dtype), scheme_text(config.scheme));
}

// select_kernel()'s error without the lines that say why each kernel refuses. Those are what plan is for:
// they go to stdout, as a plan would.
Error without_reasons(const Error& error, bool json) {
  std::string_view text = error.what();
  const size_t end = text.find(":\n");
  if (end == std::string_view::npos) return error;
  const std::string_view first = text.substr(0, end);
  for (text.remove_prefix(end + 2); !json && !text.empty();) {
    const std::string_view line = text.substr(0, text.find('\n'));
    print_out("{}\n", wrapped(printable(line), 6, line_width(stdout) - 6));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
  }
  flush_out();
  return Error(error.code(), std::string(first));
}

int run_plan(const Arguments& arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.model);
  const std::vector<ModelLayer> layers =
      naming(arguments.model, [&] { return linear_layers(checkpoint, inspect(checkpoint)); });
  const Device device = arguments.device.device();
  SelectOptions select = arguments.select;
  select.ignore_build = !arguments.device.present;
  select.tuned = user_tune_table();
  std::map<std::string, Selection> selections;  // one for all layers that selection cannot tell apart
  std::vector<PlannedLayer> planned;
  for (const ModelLayer& layer : layers) {
    LinearConfig config;
    config.n = layer.n;
    config.k = layer.k;
    config.scheme = layer.scheme;
    config.in = config.out = arguments.activations;
    config.bias = layer.bias;
    config.policy = arguments.policy.value_or(default_policy(layer.scheme));
    const auto [place, is_new] = selections.try_emplace(selection_key(config));
    if (is_new) {
      try {
        place->second = select_kernel(device, config, select);
      } catch (const Error& error) {
        throw without_reasons(error, arguments.json).in(layer.module);
      }
    }
    planned.push_back({layer.module, config, &place->second});
  }
  if (arguments.json) {
    print_json(
        {{"schema_version", 1},
         {"model", checkpoint.path().string()},
         {"device", device.name},
         {"device_present", arguments.device.present},
         {"policy", arguments.policy ? nlohmann::json(policy_name(*arguments.policy)) : nlohmann::json()},
         {"activations", dtype_name(arguments.activations)},
         {"groups", selections_json(planned)}});
    return 0;
  }
  print_out("{} on {}{}, activations {}\n\n",
            styled(Style::kBold, printable(arguments.model.string()), stdout), device.name,
            arguments.device.present ? "" : " (not here)", dtype_name(arguments.activations));
  write_out(selections_text(planned, stdout));
  return 0;
}

}  // namespace

void add_plan(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = add_verb(app, "plan", "Show which kernel runs which layer, and why",
                            "anyfp8 plan models/kjv-qwen3-fp8 --device sm_86");
  add_model(*verb, arguments->model);
  add_device(*verb, arguments->device, true);
  add_policy(*verb, arguments->policy);
  add_activations(*verb, arguments->activations, {"bf16", "f16", "f32"});
  add_kernel_wishes(*verb, arguments->select);
  add_json(*verb, arguments->json);
  verb->callback([arguments, &run] { run = [arguments] { return run_plan(*arguments); }; });
}

}  // namespace anyfp8::cli
