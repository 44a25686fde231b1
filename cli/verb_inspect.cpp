#include <algorithm>

#include "cli/arguments.h"
#include "cli/model_layers.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

using Groups = std::vector<std::vector<size_t>>;

struct Arguments {
  std::filesystem::path model;
  bool json = false;
};

struct Totals {
  size_t fp8_layers = 0, fp8_parameters = 0, fp8_bytes = 0;
  size_t other_layers = 0, other_parameters = 0, other_bytes = 0;
};

Totals totals_of(const Inspection& inspection) {
  Totals totals;
  for (const LayerReport& layer : inspection.layers) {
    const bool fp8 = is_float8(layer.scheme.weight.dtype);
    (fp8 ? totals.fp8_layers : totals.other_layers) += 1;
    (fp8 ? totals.fp8_parameters : totals.other_parameters) += static_cast<size_t>(layer.n * layer.k);
    (fp8 ? totals.fp8_bytes : totals.other_bytes) += layer.bytes;
  }
  return totals;
}

double ratio(size_t bytes, size_t parameters) {
  return parameters == 0 ? 0 : static_cast<double>(bytes) / static_cast<double>(parameters);
}

// scheme_text() is "<weight>", or "<weight>, <what it asks of activations>".
std::string weight_text(const QuantScheme& scheme) {
  const std::string text = scheme_text(scheme);
  return text.substr(0, text.find(", "));
}
std::string activation_text(const QuantScheme& scheme) {
  const std::string text = scheme_text(scheme);
  return text.substr(std::min(text.size(), weight_text(scheme).size() + 2));
}

std::vector<std::string_view> modules_of(const Inspection& inspection) {
  std::vector<std::string_view> modules;
  for (const LayerReport& layer : inspection.layers) modules.push_back(layer.module);
  return modules;
}

nlohmann::json weight_json(const QuantScheme& scheme) {
  nlohmann::json json = {{"dtype", dtype_name(scheme.weight.dtype)}};
  if (is_float8(scheme.weight.dtype)) {
    json["group"] = group_text(scheme.weight.group);
    json["scale_dtype"] = dtype_name(scheme.weight.scale_dtype);
  }
  return json;
}

nlohmann::json notes_json(const std::vector<Anomaly>& notes) {
  nlohmann::json json = nlohmann::json::array();
  for (const Anomaly& note : notes) json.push_back({{"tensor", note.tensor}, {"text", note.text}});
  return json;
}

void print_notes(std::string_view title, Style style, const std::vector<Anomaly>& notes) {
  constexpr size_t kMostNotes = 100;
  if (notes.empty()) return;
  print_out("\n{}\n", styled(style, fmt::format("{} ({})", title, notes.size()), stdout));
  // Tensor above text: names are long and the sentences too.
  for (const Anomaly& note : std::span(notes).first(std::min(notes.size(), kMostNotes))) {
    // Some texts begin with the tensor.
    std::string_view text = note.text;
    if (text.starts_with(note.tensor + ": ")) text.remove_prefix(note.tensor.size() + 2);
    print_out("  {}\n    {}\n", printable(note.tensor), wrapped(printable(text), 4, line_width(stdout) - 4));
  }
  if (notes.size() > kMostNotes) print_out("  ... and {} more\n", notes.size() - kMostNotes);
}

void print_text(const Checkpoint& checkpoint, const Inspection& inspection, const Groups& groups) {
  const Totals totals = totals_of(inspection);
  const size_t files = checkpoint.shard_paths().size();
  print_out(
      "{}: {}, {} file{}, {}\n", styled(Style::kBold, printable(checkpoint.path().string()), stdout),
      inspection.format == nullptr ? "not quantised" : fmt::format("dialect {}", inspection.format->name),
      files, files == 1 ? "" : "s", bytes_text(static_cast<double>(checkpoint.file_bytes())));
  if (inspection.format != nullptr)
    print_out("{}\n", styled(Style::kDim, inspection.format->summary, stdout));
  write_out("\n");

  using Align = Table::Align;
  Table table({{"layers"},
               {"count", Align::kRight},
               {"n x k", Align::kRight},
               {"bytes", Align::kRight},
               {"weights"}});
  const auto modules = modules_of(inspection);
  for (const auto& group : std::span(groups).first(std::min(groups.size(), kMostGroupsShown))) {
    const LayerReport& first = inspection.layers[group.front()];
    size_t bytes = 0;
    for (const size_t i : group) bytes += inspection.layers[i].bytes;
    table.add({group_name(modules, group), std::to_string(group.size()),
               fmt::format("{} x {}", first.n, first.k), bytes_text(static_cast<double>(bytes)),
               weight_text(first.scheme)});
  }
  write_out(table.text(stdout));
  write_out(more_groups_text(groups.size()));

  Table sums({{"", Align::kLeft, Style::kDim}, {""}});
  if (totals.fp8_layers > 0) {
    sums.add({"FP8", fmt::format("{} layer{}, {} parameters in {}: {:.4f} bytes per parameter with scales",
                                 totals.fp8_layers, totals.fp8_layers == 1 ? "" : "s",
                                 count_text(static_cast<double>(totals.fp8_parameters)),
                                 bytes_text(static_cast<double>(totals.fp8_bytes)),
                                 ratio(totals.fp8_bytes, totals.fp8_parameters))});
    std::vector<std::string> asked;
    for (const LayerReport& layer : inspection.layers) {
      if (!is_float8(layer.scheme.weight.dtype)) continue;
      const std::string text = activation_text(layer.scheme);
      if (std::find(asked.begin(), asked.end(), text) == asked.end()) asked.push_back(text);
    }
    sums.add({"asks for", fmt::format("{}", fmt::join(asked, "; "))});
  }
  if (totals.other_layers > 0) {
    sums.add({"not FP8", fmt::format("{} layer{}, {} parameters in {}", totals.other_layers,
                                     totals.other_layers == 1 ? "" : "s",
                                     count_text(static_cast<double>(totals.other_parameters)),
                                     bytes_text(static_cast<double>(totals.other_bytes)))});
  }
  sums.add({"all tensors", bytes_text(static_cast<double>(inspection.tensor_bytes))});
  print_out("\n{}", sums.text(stdout));
  print_notes("odd, but loadable", Style::kYellow, inspection.anomalies);
  print_notes("cannot be loaded", Style::kRed, inspection.errors);
}

void print_as_json(const Checkpoint& checkpoint, const Inspection& inspection, const Groups& groups) {
  const Totals totals = totals_of(inspection);
  const auto modules = modules_of(inspection);
  const auto row_of = [&](size_t index) {
    const auto& group = groups[index];
    const LayerReport& first = inspection.layers[group.front()];
    nlohmann::json row = {{"name", group_name(modules, group)},
                          {"n", first.n},
                          {"k", first.k},
                          {"scheme", scheme_text(first.scheme)},
                          {"weight", weight_json(first.scheme)},
                          {"modules", nlohmann::json::array()}};
    size_t bytes = 0;
    for (const size_t i : group) {
      bytes += inspection.layers[i].bytes;
      row["modules"].push_back(inspection.layers[i].module);
    }
    row["bytes"] = bytes;
    return row;
  };
  nlohmann::json files = nlohmann::json::array();
  for (const auto& path : checkpoint.shard_paths()) files.push_back(path.string());
  print_json(
      {{"schema_version", 1},
       {"model", checkpoint.path().string()},
       {"dialect", inspection.format == nullptr ? nlohmann::json() : nlohmann::json(inspection.format->name)},
       {"files", std::move(files)},
       {"file_bytes", checkpoint.file_bytes()},
       {"tensor_bytes", inspection.tensor_bytes},
       {"fp8_layers", totals.fp8_layers},
       {"fp8_parameters", totals.fp8_parameters},
       {"fp8_bytes", totals.fp8_bytes},
       {"fp8_bytes_per_parameter", ratio(totals.fp8_bytes, totals.fp8_parameters)},
       {"other_layers", totals.other_layers},
       {"other_parameters", totals.other_parameters},
       {"other_bytes", totals.other_bytes},
       {"anomalies", notes_json(inspection.anomalies)},
       {"errors", notes_json(inspection.errors)}},
      "groups", groups.size(), row_of);
}

int run_inspect(const Arguments& arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.model);
  Inspection inspection = naming(arguments.model, [&] { return inspect(checkpoint); });
  std::stable_sort(
      inspection.layers.begin(), inspection.layers.end(),
      [](const LayerReport& a, const LayerReport& b) { return module_before(a.module, b.module); });
  const Groups groups = group_layers(modules_of(inspection), [&](size_t i) {
    const LayerReport& layer = inspection.layers[i];
    return fmt::format("{} {} {}", layer.n, layer.k, scheme_text(layer.scheme));
  });
  (arguments.json ? print_as_json : print_text)(checkpoint, inspection, groups);
  if (!inspection.errors.empty()) {
    flush_out();
    const Anomaly& first = inspection.errors.front();
    throw fail(
        ErrorCode::kInvalidFile, "{}: {} cannot be loaded; {}", arguments.model.string(),
        inspection.errors.size() == 1 ? "a tensor" : fmt::format("{} tensors", inspection.errors.size()),
        anomaly_text(first));
  }
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = add_verb(app, "inspect", "Show a checkpoint's dialect, layers, sizes, oddities",
                            "anyfp8 inspect models/kjv-qwen3-fp8");
  add_model(*verb, arguments->model);
  add_json(*verb, arguments->json);
  verb->callback([arguments, &run] { run = [arguments] { return run_inspect(*arguments); }; });
}

}  // namespace anyfp8::cli
