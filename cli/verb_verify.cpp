#include <algorithm>
#include <cmath>
#include <map>

#include "anyfp8/linear/linear.h"
#include "cli/arguments.h"
#include "cli/model_layers.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "cli/verify_layer.h"

namespace anyfp8::cli {
namespace {

struct Arguments {
  std::filesystem::path model;
  DeviceChoice device;
  // Default: f32 on the CPU, since the rounding of a 16-bit y would hide a kernel's own errors; bf16 on a
  // GPU, whose tensor cores take no f32.
  std::optional<DType> activations;
  std::optional<Policy> policy;
  SelectOptions select;
  bool json = false;

  LinearOptions linear() const {
    const bool cpu = device.device().kind == DeviceKind::kCpu;
    const DType dtype = activations.value_or(cpu ? DType::kF32 : DType::kBF16);
    return {.in = dtype, .out = dtype, .policy = policy};
  }
};

struct LayerResult {
  std::string module;
  const Kernel* kernel;
  int64_t n, k;
  Deviation worst;
};

// The layers of one scheme: means of their dB.
struct SchemeAccuracy {
  int layers = 0;
  bool emulated = false;
  struct Mean {
    double sum = 0;
    int count = 0;
    void add(const std::optional<Sqnr>& sqnr) {
      if (!sqnr) return;
      sum += std::min(sqnr->db(), 999.0);  // a layer that is exact
      ++count;
    }
    std::string text() const { return count == 0 ? "-" : fmt::format("{:.1f}", sum / count); }
    nlohmann::json json() const { return count == 0 ? nlohmann::json() : nlohmann::json(sum / count); }
  };
  std::array<std::array<Mean, 2>, 2> db;  // [activation kind][W8A16, W8A8]

  void add(const LayerCheck& check) {
    ++layers;
    emulated = emulated || check.emulated;
    for (size_t kind = 0; kind < kActivationKinds.size(); ++kind) {
      db[kind][0].add(check.accuracy[kind].w8a16);
      db[kind][1].add(check.accuracy[kind].w8a8);
    }
  }
};
using Accuracies = std::map<std::string, SchemeAccuracy>;

nlohmann::json accuracies_json(const Accuracies& accuracies) {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& [scheme, a] : accuracies) {
    list.push_back({{"scheme", scheme},
                    {"layers", a.layers},
                    {"w8a16_db", {{"normal", a.db[0][0].json()}, {"outliers", a.db[1][0].json()}}},
                    {"w8a8_db", {{"normal", a.db[0][1].json()}, {"outliers", a.db[1][1].json()}}},
                    {"w8a8_emulated", a.emulated}});
  }
  return list;
}

void print_accuracies(const Accuracies& accuracies) {
  using Align = Table::Align;
  Table table({{"SQNR in dB"},
               {"layers", Align::kRight},
               {"W8A16", Align::kRight},
               {"W8A8", Align::kRight},
               {"outliers: W8A16", Align::kRight},
               {"W8A8", Align::kRight}});
  bool emulated = false;
  for (const auto& [scheme, a] : accuracies) {
    emulated = emulated || a.emulated;
    const char* mark = a.emulated ? "*" : "";
    table.add({scheme, std::to_string(a.layers), a.db[0][0].text(), a.db[0][1].text() + mark,
               a.db[1][0].text(), a.db[1][1].text() + mark});
  }
  print_out(
      "\n{}{}\n", table.text(stdout),
      wrapped(
          fmt::format("Of y against the product with x as it is: 30 dB is a relative error of 3 %. Outliers: "
                      "one channel of x in a hundred is 64 times as large.{}",
                      emulated ? " *: emulated, no kernel here quantises activations." : ""),
          0, line_width(stdout)));
}

void print_as_json(const Arguments& arguments, const std::vector<LayerResult>& results,
                   const Accuracies& accuracies, size_t failures) {
  const auto row_of = [&](size_t i) -> nlohmann::json {
    const LayerResult& r = results[i];
    return {{"module", r.module},
            {"kernel", r.kernel->name},
            {"n", r.n},
            {"k", r.k},
            {"worst_relative_error",
             std::isnan(r.worst.error) ? nlohmann::json() : nlohmann::json(r.worst.error)},
            {"bound", r.worst.bound},
            {"row", r.worst.row},
            {"token", r.worst.token},
            {"m", r.worst.m},
            {"ok", r.worst.share() <= 1}};
  };
  print_json({{"schema_version", 1},
              {"model", arguments.model.string()},
              {"activations", dtype_name(arguments.linear().in)},
              {"tokens", kVerifiedTokens},
              {"accuracy", accuracies_json(accuracies)},
              {"failures", failures}},
             "layers", results.size(), row_of);
}

void print_text(const std::vector<LayerResult>& results) {
  using Align = Table::Align;
  std::vector<std::string_view> modules;
  for (const LayerResult& r : results) modules.push_back(r.module);
  Table table({{"layers"}, {"kernel"}, {"worst error", Align::kRight}, {"bound", Align::kRight}, {""}});
  const auto groups = group_layers(modules, [&](size_t i) {
    return fmt::format("{} {} {} {}", results[i].kernel->name, results[i].n, results[i].k,
                       results[i].worst.share() <= 1);
  });
  for (const auto& group : std::span(groups).first(std::min(groups.size(), kMostGroupsShown))) {
    const LayerResult& worst = results[*std::max_element(group.begin(), group.end(), [&](size_t a, size_t b) {
      return results[a].worst.share() < results[b].worst.share();
    })];
    table.add({group_name(modules, group), std::string(worst.kernel->name),
               fmt::format("{:.1e}", worst.worst.error), fmt::format("{:.1e}", worst.worst.bound),
               worst.worst.share() <= 1 ? "ok" : "WRONG"});
  }
  write_out(table.text(stdout));
  write_out(more_groups_text(groups.size()));
  print_out("\n{}\n",
            wrapped("Errors are relative to the sum of |x||w| of the element; bound: the roundings "
                    "that the sums and the type of y can add up to. W8A8 is held to x as it quantises it.",
                    0, line_width(stdout)));
}

int run_verify(Arguments arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.model);
  const Inspection inspection = naming(arguments.model, [&] { return inspect(checkpoint); });
  const std::vector<ModelLayer> layers =
      naming(arguments.model, [&] { return linear_layers(checkpoint, inspection); });
  const Device device = arguments.device.device();
  const LinearOptions options = arguments.linear();
  arguments.select.tuned = user_tune_table();
  double total = 0;
  for (const ModelLayer& layer : layers) total += static_cast<double>(layer.n * layer.k);

  std::vector<LayerResult> results;
  Accuracies accuracies;
  {
    ProgressBar bar("verifying", total);
    for (const ModelLayer& layer : layers) {
      try {
        const Fp8Weight weight = load_weight(checkpoint, inspection.format, layer.weight);
        const LayerCheck check =
            verify_layer(weight, Linear::create(device, weight, options, arguments.select));
        for (const KernelCheck& kernel : check.kernels)
          results.push_back({layer.module, kernel.kernel, layer.n, layer.k, kernel.worst});
        accuracies[scheme_text(layer.scheme)].add(check);
      } catch (Error& error) {
        if (std::string_view(error.what()).find(layer.module) == std::string_view::npos)
          error.in(layer.module);
        throw;
      }
      bar.advance(static_cast<double>(layer.n * layer.k), layer.module);
    }
  }
  const auto worse = [](const LayerResult& a, const LayerResult& b) {
    return a.worst.share() < b.worst.share();
  };
  const LayerResult& worst = *std::max_element(results.begin(), results.end(), worse);
  const auto failures = static_cast<size_t>(std::count_if(
      results.begin(), results.end(), [](const LayerResult& r) { return r.worst.share() > 1; }));
  if (arguments.json) {
    print_as_json(arguments, results, accuracies, failures);
  } else {
    print_text(results);
    print_accuracies(accuracies);
  }
  const std::string where =
      fmt::format("{} row {}, token {} of m = {}: {} is off by {:.2e}, the bound is {:.2e}", worst.module,
                  worst.worst.row, worst.worst.token, worst.worst.m, worst.kernel->name, worst.worst.error,
                  worst.worst.bound);
  if (failures > 0) {
    flush_out();
    throw fail(ErrorCode::kInternal,
               "{} of {} layers are wrong, most of all {}; run with --disable {} and report it", failures,
               results.size(), where, worst.kernel->name);
  }
  if (!arguments.json)
    print_out("{}\n", wrapped(fmt::format("{} {} layer{}; nearest to its bound: {}",
                                          styled(Style::kGreen, "ok:", stdout), layers.size(),
                                          layers.size() == 1 ? "" : "s", printable(where)),
                              0, line_width(stdout)));
  return 0;
}

}  // namespace

void add_verify(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb =
      add_verb(app, "verify", "Check each layer's kernel against double precision, and what W8A8 costs",
               "anyfp8 verify models/kjv-qwen3-fp8");
  add_model(*verb, arguments->model);
  add_device(*verb, arguments->device, false);
  add_activations(*verb, arguments->activations, {"bf16", "f16", "f32"}, "f32; bf16 on a GPU");
  add_policy(*verb, arguments->policy);
  add_kernel_wishes(*verb, arguments->select);
  add_threads(*verb);
  add_json(*verb, arguments->json);
  verb->callback([arguments, &run] { run = [arguments] { return run_verify(*arguments); }; });
}

}  // namespace anyfp8::cli
