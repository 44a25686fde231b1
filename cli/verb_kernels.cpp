#include "anyfp8/kernels/select.h"
#include "cli/arguments.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

std::vector<std::string> names_of(std::span<const DType> dtypes) {
  std::vector<std::string> names;
  for (const DType dtype : dtypes) names.emplace_back(dtype_name(dtype));
  return names;
}

// A group pattern of a kernel's table: extents may be "any".
std::string pattern_text(Group group) {
  const auto extent = [](int32_t e) {
    return e == kAnyExtent ? std::string("any") : e == 0 ? "all" : std::to_string(e);
  };
  if (group.rows >= 0 && group.cols >= 0) return group_text(group);
  return group.rows == kAnyExtent && group.cols == kAnyExtent
             ? "any"
             : fmt::format("{}x{}", extent(group.rows), extent(group.cols));
}

std::vector<std::string> groups_of(const Kernel& kernel) {
  std::vector<std::string> texts;
  for (const Group group : kernel.weight_groups) texts.push_back(pattern_text(group));
  return texts;
}

int kernels(bool json) {
  if (json) {
    nlohmann::json rows = nlohmann::json::array();
    for (const Kernel* k : all_kernels()) {
      rows.push_back({{"name", k->name},
                      {"summary", k->summary},
                      {"device", k->device == DeviceKind::kCpu ? "cpu" : "cuda"},
                      {"layout", layout_name(k->layout)},
                      {"weights", names_of(k->weight_dtypes)},
                      {"weight_groups", groups_of(*k)},
                      {"scales", names_of(k->scale_dtypes)},
                      {"inputs", names_of(k->in_dtypes)},
                      {"outputs", names_of(k->out_dtypes)},
                      {"activations", k->activation == ActivationUse::kAsGiven ? "as_given" : "quantized"},
                      {"batch_invariant", k->batch_invariant},
                      {"built", k->apply != nullptr}});
    }
    print_json({{"schema_version", 1}, {"kernels", std::move(rows)}});
    return 0;
  }
  for (const Kernel* k : all_kernels()) {
    print_out("{}  {}{}\n", styled(Style::kBold, k->name, stdout),
              k->device == DeviceKind::kCpu ? "cpu" : "cuda",
              k->apply != nullptr ? "" : styled(Style::kYellow, ", not in this build", stdout));
    Table table({{"", Table::Align::kLeft, Style::kDim}, {""}}, 2);
    table.add({"does", std::string(k->summary)});
    table.add(
        {"weights", fmt::format("{} in {}, scales {}, groups {}", fmt::join(names_of(k->weight_dtypes), " "),
                                layout_name(k->layout), fmt::join(names_of(k->scale_dtypes), " "),
                                fmt::join(groups_of(*k), " "))});
    table.add({"x, y", fmt::format("{} -> {}{}{}", fmt::join(names_of(k->in_dtypes), " "),
                                   fmt::join(names_of(k->out_dtypes), " "),
                                   k->activation == ActivationUse::kQuantized ? ", quantised to fp8" : "",
                                   k->batch_invariant ? ", batch invariant" : "")});
    write_out(table.text(stdout));
  }
  write_out("\nMost preferred first: for each layer and token count the first that can do it is used.\n");
  return 0;
}

}  // namespace

void add_kernels(CLI::App& app, Run& run) {
  auto json = std::make_shared<bool>(false);
  CLI::App* verb = add_verb(app, "kernels", "List the kernels and what each can do", "anyfp8 kernels --json");
  add_json(*verb, *json);
  verb->callback([json, &run] { run = [json] { return kernels(*json); }; });
}

}  // namespace anyfp8::cli
