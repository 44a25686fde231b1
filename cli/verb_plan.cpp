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
  Policy policy = Policy::kAccuracy;
  DType activations = DType::kBF16;
  SelectOptions select;
  bool json = false;
};

int run_plan(const Arguments& arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.model);
  const std::vector<ModelLayer> layers = linear_layers(checkpoint, inspect(checkpoint));
  const Device device = arguments.device.device();
  SelectOptions select = arguments.select;
  select.ignore_build = !arguments.device.present;
  std::vector<PlannedLayer> planned;
  for (const ModelLayer& layer : layers) {
    LinearConfig config;
    config.n = layer.n;
    config.k = layer.k;
    config.scheme = layer.scheme;
    config.in = config.out = arguments.activations;
    config.bias = layer.bias;
    config.policy = arguments.policy;
    try {
      planned.push_back({layer.module, config, select_kernel(device, config, select)});
    } catch (Error& error) {
      error.in(layer.module);
      throw;
    }
  }
  if (arguments.json) {
    print_json({{"schema_version", 1},
                {"model", checkpoint.path().string()},
                {"device", device.name},
                {"device_present", arguments.device.present},
                {"policy", policy_name(arguments.policy)},
                {"activations", dtype_name(arguments.activations)},
                {"groups", selections_json(planned)}});
    return 0;
  }
  print_out("{} on {}{}, policy {}, activations {}\n\n",
            styled(Style::kBold, printable(arguments.model.string()), stdout), device.name,
            arguments.device.present ? "" : " (not here)", policy_name(arguments.policy),
            dtype_name(arguments.activations));
  write_out(selections_text(planned, stdout));
  return 0;
}

}  // namespace

void add_plan(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = add_verb(app, "plan", "Show which kernel runs which layer, and why not the others",
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
