#include "cli/selection_text.h"

#include <limits>
#include <map>

#include "cli/model_layers.h"
#include "cli/terminal.h"

namespace anyfp8::cli {
namespace {

constexpr int64_t kEndless = std::numeric_limits<int64_t>::max();

// "any m", "m < 17", "m 17 to 511", "m >= 512"
std::string tokens_text(TokenRange tokens) {
  if (tokens.end == kEndless) return tokens.begin == 0 ? "any m" : fmt::format("m >= {}", tokens.begin);
  if (tokens.begin == 0) return fmt::format("m < {}", tokens.end);
  return fmt::format("m {} to {}", tokens.begin, tokens.end - 1);
}

std::string choice_text(const Selection& selection) {
  if (selection.ranges.size() == 1) return std::string(selection.ranges.front().kernel->name);
  std::vector<std::string> pieces;
  for (const RangeChoice& range : selection.ranges) {
    pieces.push_back(fmt::format("{} for {}", range.kernel->name, tokens_text(range.tokens)));
  }
  return fmt::format("{}", fmt::join(pieces, ", "));
}

// Members in order of layers that `alike` gives the same text.
std::vector<std::vector<size_t>> partition(std::span<const PlannedLayer> layers,
                                           std::string (*alike)(const PlannedLayer&)) {
  std::vector<std::vector<size_t>> groups;
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto [place, is_new] = places.try_emplace(alike(layers[i]), groups.size());
    if (is_new) groups.emplace_back();
    groups[place->second].push_back(i);
  }
  return groups;
}

std::string scheme_and_reasons(const PlannedLayer& layer) {
  return scheme_text(layer.config.scheme) + "\n" + layer.selection.explain();
}

std::string scheme_and_choice(const PlannedLayer& layer) {
  return scheme_text(layer.config.scheme) + "\n" + choice_text(layer.selection);
}

std::vector<LayerGroup> names_of(std::span<const PlannedLayer> layers, std::span<const size_t> members) {
  std::vector<std::string> modules;
  for (const size_t i : members) modules.push_back(layers[i].module);
  return group_layers(modules, [&](size_t i) {
    const LinearConfig& config = layers[members[i]].config;
    return fmt::format("{} {}", config.n, config.k);
  });
}

std::string layers_text(size_t count) { return count == 1 ? "1 layer" : fmt::format("{} layers", count); }

}  // namespace

std::string selections_text(std::span<const PlannedLayer> layers, std::FILE* stream) {
  using Align = Table::Align;
  std::string text;
  for (const std::vector<size_t>& members : partition(layers, scheme_and_reasons)) {
    const PlannedLayer& first = layers[members.front()];
    if (!text.empty()) text += '\n';
    text +=
        styled(Style::kBold,
               fmt::format("{}, {}", layers_text(members.size()), scheme_text(first.config.scheme)), stream) +
        "\n";
    Table names({{""}, {"", Align::kRight}, {"", Align::kRight}}, 2);
    for (const LayerGroup& group : names_of(layers, members)) {
      const LinearConfig& config = layers[members[group.members.front()]].config;
      names.add(
          {group.name, std::to_string(group.members.size()), fmt::format("{} x {}", config.n, config.k)});
    }
    text += names.text(stream);
    for (const RangeChoice& range : first.selection.ranges) {
      const Kernel& kernel = *range.kernel;
      text += fmt::format(
          "  {} {}{}\n", styled(Style::kGreen, fmt::format("{}:", tokens_text(range.tokens)), stream),
          styled(Style::kBold, kernel.name, stream),
          kernel.apply == nullptr ? styled(Style::kYellow, " (not in this build)", stream) : "");
    }
    if (first.selection.rejected.empty()) continue;
    text += styled(Style::kDim, "  not used:", stream) + "\n";
    Table rest({{"", Align::kLeft, Style::kDim}, {""}}, 4);
    for (const Rejection& rejection : first.selection.rejected)
      rest.add({std::string(rejection.kernel), rejection.reason});
    text += rest.text(stream);
  }
  return text;
}

std::string selections_summary(std::span<const PlannedLayer> layers, std::FILE* stream) {
  std::string text;
  for (const std::vector<size_t>& members : partition(layers, scheme_and_choice)) {
    const PlannedLayer& first = layers[members.front()];
    text += fmt::format("{} {}: {}\n", layers_text(members.size()), scheme_text(first.config.scheme),
                        styled(Style::kBold, choice_text(first.selection), stream));
  }
  return text;
}

nlohmann::json selections_json(std::span<const PlannedLayer> layers) {
  nlohmann::json groups = nlohmann::json::array();
  for (const std::vector<size_t>& members : partition(layers, scheme_and_reasons)) {
    const PlannedLayer& first = layers[members.front()];
    nlohmann::json group = {{"scheme", scheme_text(first.config.scheme)},
                            {"layers", nlohmann::json::array()},
                            {"choices", nlohmann::json::array()},
                            {"rejected", nlohmann::json::array()}};
    for (const size_t i : members) {
      group["layers"].push_back(
          {{"module", layers[i].module}, {"n", layers[i].config.n}, {"k", layers[i].config.k}});
    }
    for (const RangeChoice& range : first.selection.ranges) {
      group["choices"].push_back(
          {{"m_begin", range.tokens.begin},
           {"m_end", range.tokens.end == kEndless ? nlohmann::json() : nlohmann::json(range.tokens.end)},
           {"kernel", range.kernel->name},
           {"built", range.kernel->apply != nullptr}});
    }
    for (const Rejection& rejection : first.selection.rejected) {
      group["rejected"].push_back(
          {{"kernel", rejection.kernel}, {"reason", rejection.reason}, {"able", rejection.able}});
    }
    groups.push_back(std::move(group));
  }
  return groups;
}

}  // namespace anyfp8::cli
