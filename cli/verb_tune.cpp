#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "anyfp8/linear/linear.h"
#include "cli/arguments.h"
#include "cli/bench_kernel.h"
#include "cli/bench_rounds.h"
#include "cli/bench_weights.h"
#include "cli/model_layers.h"
#include "cli/shape_arguments.h"
#include "cli/terminal.h"
#include "cli/tune_layer.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

struct Arguments {
  std::filesystem::path model;
  std::vector<MatrixShape> shapes;
  std::string scheme = "channel";
  DeviceChoice device;
  std::optional<Policy> policy;
  DType activations = DType::kBF16;
  std::vector<int64_t> tokens;
  double seconds = 0.05;
  bool json = false;
};

// Powers of two, which tune_layer() divides further. A CPU takes seconds for more.
std::vector<int64_t> default_tokens(const Device& device) {
  const int64_t last = device.kind == DeviceKind::kCuda ? 8192 : 512;
  std::vector<int64_t> tokens;
  for (int64_t m = 1; m <= last; m *= 2) tokens.push_back(m);
  return tokens;
}

struct Layer {
  std::string name;
  Fp8Weight weight;
  LinearConfig config;
};

LinearOptions linear_options(const Arguments& arguments) {
  return {.in = arguments.activations, .out = arguments.activations, .policy = arguments.policy};
}

std::vector<Layer> random_layers(const Arguments& arguments) {
  std::vector<Layer> layers;
  for (const MatrixShape shape : arguments.shapes) {
    Fp8Weight weight = random_weight(shape, arguments.scheme);
    const LinearConfig config = linear_config(weight, linear_options(arguments));
    layers.push_back({fmt::format("{} x {}", shape.n, shape.k), std::move(weight), config});
  }
  return layers;
}

// Of layers that share their TuneKey the first.
std::vector<Layer> model_layers(const Arguments& arguments, const Device& device) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.model);
  const Inspection inspection = naming(arguments.model, [&] { return inspect(checkpoint); });
  std::vector<Layer> layers;
  std::vector<TuneKey> seen;
  for (const ModelLayer& layer :
       naming(arguments.model, [&] { return linear_layers(checkpoint, inspection); })) {
    Fp8Weight weight = load_weight(checkpoint, inspection.format, layer.weight);
    const LinearConfig config = linear_config(weight, linear_options(arguments));
    const TuneKey key = *tune_key(device, config);
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) continue;
    seen.push_back(key);
    layers.push_back(
        {fmt::format("{} ({} x {})", layer.module, layer.n, layer.k), std::move(weight), config});
  }
  return layers;
}

// The kernels of one layer, each on copies of the weight of its own, made when it is first asked for.
class LayerTimes {
 public:
  LayerTimes(const Arguments& arguments, const Device& device, const Layer& layer)
      : arguments_(arguments), device_(device), layer_(layer), weights_(copies_of(layer.weight, device)) {}

  KernelTimes operator()(std::span<const Kernel* const> kernels, int64_t m) {
    if (!activations_ ||
        activations_->x.shape()[0] != m)  // each m is measured twice where something may change
      activations_ = random_activations(m, layer_.config.k, layer_.config.in, layer_.config.out);
    std::vector<BenchMethod*> timed;
    for (const Kernel* kernel : kernels) {
      BenchMethod& method = method_of(*kernel);
      if (const Verdict prepared = method.prepare(*activations_); !prepared)
        throw fail(ErrorCode::kUnsupported, "{} at m = {}: {}", kernel->name, m, prepared.reason());
      timed.push_back(&method);
    }
    constexpr size_t kLeastReplays = 7;  // on a GPU, of 2 ms each
    const bool cuda = device_.kind == DeviceKind::kCuda;
    KernelTimes times;
    for (const Samples& samples : measure_rounds(timed, arguments_.seconds, cuda ? kLeastReplays : 0)) {
      // The least of the rounds: what other processes add is no property of the kernel. The median of five
      // was off by a factor of 100 on a CPU that a compiler had half of.
      const Spread spread = spread_us(samples);
      times.us.push_back(spread.least);
      times.disturbed = times.disturbed || spread.disturbed;
    }
    ++measured;
    disturbed += times.disturbed ? 1 : 0;
    return times;
  }

  int measured = 0, disturbed = 0;

 private:
  BenchMethod& method_of(const Kernel& kernel) {
    std::unique_ptr<BenchMethod>& method = methods_[&kernel];
    if (method == nullptr) {
      std::vector<Linear> copies;
      for (const Fp8Weight& weight : weights_)
        copies.push_back(
            Linear::create(device_, weight, linear_options(arguments_), {.force = std::string(kernel.name)}));
      method = kernel_method(std::move(copies), weights_.front().resident_bytes());
    }
    return *method;
  }

  const Arguments& arguments_;
  const Device& device_;
  const Layer& layer_;
  std::vector<Fp8Weight> weights_;
  std::optional<Activations> activations_;
  std::map<const Kernel*, std::unique_ptr<BenchMethod>> methods_;
};

std::string range_text(TokenRange tokens) {
  if (tokens.end == TokenRange{}.end) return fmt::format("m >= {}", tokens.begin);
  return fmt::format("m {} to {}", tokens.begin, tokens.end - 1);
}

void print_layer(const Layer& layer, const TuneResult& result) {
  using Align = Table::Align;
  print_out("\n{}, policy {}\n", styled(Style::kBold, printable(layer.name), stdout),
            policy_name(layer.config.policy));
  if (result.points.empty()) return print_out("  one kernel can run it\n");
  Table table({{"m", Align::kRight}, {"built in"}, {"us", Align::kRight}, {"faster"}, {"us", Align::kRight}},
              2);
  for (const TunePoint& point : result.points) {
    const bool change = point.best != point.built_in;
    table.add({std::to_string(point.m), std::string(point.built_in->name),
               fmt::format("{:.1f}", point.built_in_us), change ? std::string(point.best->name) : "",
               change ? fmt::format("{:.1f}", point.best_us) : ""});
  }
  write_out(table.text(stdout));
  for (const TunedRange& range : result.ranges)
    print_out("  {} {}\n", styled(Style::kGreen, range_text(range.tokens) + ":", stdout), range.kernel);
  if (result.ranges.empty()) print_out("  the built-in choice stands\n");
  flush_out();
}

nlohmann::json layer_json(const Layer& layer, const TuneResult& result) {
  nlohmann::json json{{"name", layer.name},
                      {"scheme", scheme_text(layer.config.scheme)},
                      {"policy", policy_name(layer.config.policy)},
                      {"n", layer.config.n},
                      {"k", layer.config.k},
                      {"points", nlohmann::json::array()},
                      {"ranges", nlohmann::json::array()}};
  for (const TunePoint& point : result.points) {
    json["points"].push_back({{"m", point.m},
                              {"built_in", point.built_in->name},
                              {"built_in_us", point.built_in_us},
                              {"best", point.best->name},
                              {"best_us", point.best_us}});
  }
  for (const TunedRange& range : result.ranges) {
    const bool open = range.tokens.end == TokenRange{}.end;
    json["ranges"].push_back({{"begin", range.tokens.begin},
                              {"end", open ? nlohmann::json() : nlohmann::json(range.tokens.end)},
                              {"kernel", range.kernel}});
  }
  return json;
}

// What is there already is kept, unless it cannot be used.
TuneTable table_to_extend(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return {};
  try {
    return read_tune_table(path);
  } catch (const Error& error) {
    print_err("{}; it is written anew\n", printable(error.what()));
    return {};
  }
}

int run_tune(const Arguments& arguments) {
  const std::filesystem::path path = tune_path();
  if (path.empty()) {
    throw fail(ErrorCode::kInvalidArgument,
               "there is nowhere to keep the result: set ANYFP8_TUNE_CACHE to a file (it is {})",
               std::getenv("ANYFP8_TUNE_CACHE") == nullptr ? "not set, and HOME is not either" : "off");
  }
  const Device device = arguments.device.device();
  const std::vector<int64_t> tokens = arguments.tokens.empty() ? default_tokens(device) : arguments.tokens;
  TuneTable table = table_to_extend(path);
  const std::vector<Layer> layers =
      arguments.model.empty() ? random_layers(arguments) : model_layers(arguments, device);
  if (!arguments.json)
    print_out("{}, activations {}\n", tune_device(device), dtype_name(arguments.activations));
  SelectOptions select = SelectOptions::from_environment(/*tuning=*/false);
  select.force.clear();  // all are compared
  std::vector<nlohmann::json> rows;
  size_t changed = 0;
  int measured = 0, disturbed = 0;
  {
    ProgressBar bar("tuning", static_cast<double>(layers.size()), arguments.json);
    for (const Layer& layer : layers) {
      bar.advance(0, layer.name);
      const Selection built_in = select_kernel(device, layer.config, select);
      const std::vector<const Kernel*> kernels = tunable_kernels(built_in, layer.config);
      TuneResult result;
      if (kernels.size() > 1) {
        LayerTimes times(arguments, device, layer);
        result = tune_layer(built_in, kernels, tokens, std::ref(times));
        measured += times.measured;
        disturbed += times.disturbed;
      }
      changed += result.ranges.empty() ? 0 : 1;
      table.put({*tune_key(device, layer.config), result.ranges});
      write_tune_table(path, table);  // each at once: what was measured stays when the next is interrupted
      if (arguments.json) {
        rows.push_back(layer_json(layer, result));
      } else {
        print_layer(layer, result);
      }
      bar.advance(1, layer.name);
    }
  }
  if (disturbed > 0) {
    print_err(
        "{} of {} measurements were disturbed by other processes and changed nothing; tune again when the "
        "machine is idle\n",
        disturbed, measured);
  }
  if (arguments.json) {
    print_json({{"schema_version", 1},
                {"device", tune_device(device)},
                {"activations", dtype_name(arguments.activations)},
                {"path", path.string()},
                {"measured", measured},
                {"disturbed", disturbed},
                {"layers", rows}});
  } else {
    print_out("\n{} of {} changed; saved in {}\n", changed, layers.size(), printable(path.string()));
  }
  return 0;
}

}  // namespace

void add_tune(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = add_verb(app, "tune", "Measure from which m on which kernel is faster here, and keep that",
                            "anyfp8 tune models/kjv-qwen3-fp8 --activations f32");
  verb->add_option("MODEL", arguments->model, "Folder of a model, or one .safetensors file; or give --shape")
      ->type_name("")
      ->check(not_empty());
  add_shapes(*verb, arguments->shapes, "none");
  verb->add_option("--scheme", arguments->scheme, "Of --shape, as for bench: channel, w8a8-channel, ...")
      ->type_name("NAME")
      ->capture_default_str()
      ->check(CLI::IsMember(scheme_names()));
  add_device(*verb, arguments->device, false);
  add_policy(*verb, arguments->policy);
  add_activations(*verb, arguments->activations, {"bf16", "f16", "f32"});
  verb->add_option("--m", arguments->tokens, "Token counts to begin with (default: powers of two)")
      ->type_name("M,M")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16));
  verb->add_option("--seconds", arguments->seconds, "Time for each kernel at each m")
      ->type_name("S")
      ->default_str("0.05")
      ->check(number_between(0, 3600));
  add_json(*verb, arguments->json);
  verb->callback([arguments, &run] {
    if (arguments->model.empty() == arguments->shapes.empty())
      throw CLI::ValidationError("MODEL", "give a model or --shape, one of the two");
    if (arguments->policy == Policy::kInvariant)
      throw CLI::ValidationError("--policy",
                                 "invariant layers have one kernel for every m; there is nothing to tune");
    drop_repeats(arguments->shapes);
    std::sort(arguments->tokens.begin(), arguments->tokens.end());
    drop_repeats(arguments->tokens);
    run = [arguments] { return run_tune(*arguments); };
  });
}

}  // namespace anyfp8::cli
