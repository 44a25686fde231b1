#include "cli/selection_text.h"

#include <algorithm>
#include <limits>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

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
  const RangeChoice& first = selection.ranges.front();
  if (selection.ranges.size() == 1)
    return fmt::format("{}{}", first.kernel->name, first.tuned ? " (tuned)" : "");
  std::vector<std::string> pieces;
  for (const RangeChoice& range : selection.ranges) {
    pieces.push_back(fmt::format("{} for {}{}", range.kernel->name, tokens_text(range.tokens),
                                 range.tuned ? " (tuned)" : ""));
  }
  return fmt::format("{}", fmt::join(pieces, ", "));
}

// Members in order of layers that `alike` gives the same text.
std::vector<std::vector<size_t>> partition(std::span<const PlannedLayer> layers,
                                           std::string (*alike)(const PlannedLayer&)) {
  std::vector<std::vector<size_t>> groups;
  std::map<std::string, size_t> places;
  std::unordered_map<const Selection*, size_t> seen;  // a selection belongs to one scheme
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto [known, is_unseen] = seen.try_emplace(layers[i].selection, 0);
    if (is_unseen) {
      const auto [place, is_new] = places.try_emplace(alike(layers[i]), groups.size());
      if (is_new) groups.emplace_back();
      known->second = place->second;
    }
    groups[known->second].push_back(i);
  }
  return groups;
}

// "e4m3 row, weight-only, policy accuracy"
std::string scheme_and_policy(const PlannedLayer& layer) {
  return fmt::format("{}, policy {}", scheme_text(layer.config.scheme), policy_name(layer.config.policy));
}

std::string scheme_and_reasons(const PlannedLayer& layer) {
  return scheme_and_policy(layer) + "\n" + layer.selection->explain();
}

std::string scheme_and_choice(const PlannedLayer& layer) {
  return scheme_text(layer.config.scheme) + "\n" + choice_text(*layer.selection);
}

// "cpu_avx2_w8a16, cpu_reference: runs on CPUs", kernels with one reason together.
std::string rejections_text(std::span<const Rejection> rejected, std::FILE* stream) {
  constexpr int kIndent = 4, kHanging = 6;
  std::vector<std::pair<std::string_view, std::vector<std::string_view>>> reasons;
  for (const Rejection& rejection : rejected) {
    auto place = std::find_if(reasons.begin(), reasons.end(),
                              [&](const auto& reason) { return reason.first == rejection.reason; });
    if (place == reasons.end()) place = reasons.insert(place, {rejection.reason, {}});
    place->second.push_back(rejection.kernel);
  }
  std::string text;
  for (const auto& [reason, kernels] : reasons) {
    text += std::string(kIndent, ' ') +
            wrapped(printable(fmt::format("{}: {}", fmt::join(kernels, ", "), reason)), kHanging,
                    line_width(stream) - kHanging) +
            "\n";
  }
  return text;
}

std::string layers_text(size_t count) { return count == 1 ? "1 layer" : fmt::format("{} layers", count); }

}  // namespace

std::string selections_text(std::span<const PlannedLayer> layers, std::FILE* stream) {
  using Align = Table::Align;
  std::string text, reasons_before;
  size_t groups_seen = 0;
  for (const std::vector<size_t>& members : partition(layers, scheme_and_reasons)) {
    const PlannedLayer& first = layers[members.front()];
    std::vector<std::string_view> modules;
    for (const size_t i : members) modules.push_back(layers[i].module);
    const auto groups = group_layers(modules, [&](size_t i) {
      return fmt::format("{} {}", layers[members[i]].config.n, layers[members[i]].config.k);
    });
    const size_t groups_before = groups_seen;
    groups_seen += groups.size();
    if (groups_before >= kMostGroupsShown) continue;
    if (!text.empty()) text += '\n';
    text += styled(Style::kBold, fmt::format("{}, {}", layers_text(members.size()), scheme_and_policy(first)),
                   stream) +
            "\n";
    Table names({{""}, {"", Align::kRight}, {"", Align::kRight}}, 2);
    for (const auto& group :
         std::span(groups).first(std::min(groups.size(), kMostGroupsShown - groups_before))) {
      const LinearConfig& config = layers[members[group.front()]].config;
      names.add({group_name(modules, group), std::to_string(group.size()),
                 fmt::format("{} x {}", config.n, config.k)});
    }
    text += names.text(stream);
    for (const RangeChoice& range : first.selection->ranges) {
      const Kernel& kernel = *range.kernel;
      text += fmt::format(
          "  {} {}{}{}\n", styled(Style::kGreen, fmt::format("{}:", tokens_text(range.tokens)), stream),
          styled(Style::kBold, kernel.name, stream), range.tuned ? " (tuned)" : "",
          kernel.apply == nullptr ? styled(Style::kYellow, " (not in this build)", stream) : "");
    }
    for (const std::string& unused : first.selection->unused_tuning) {
      text += fmt::format("  {}\n", wrapped(styled(Style::kYellow, "not used of the tuned table:", stream) +
                                                " " + printable(unused),
                                            4, line_width(stream) - 4));
    }
    if (first.selection->rejected.empty()) continue;
    const std::string reasons = rejections_text(first.selection->rejected, stream);
    const bool repeated = reasons == reasons_before;
    text += styled(Style::kDim, repeated ? "  not used: as above" : "  not used:", stream) + "\n";
    if (!repeated) text += reasons;
    reasons_before = reasons;
  }
  return text + more_groups_text(groups_seen);
}

std::string selections_summary(std::span<const PlannedLayer> layers, std::FILE* stream) {
  std::string text;
  for (const std::vector<size_t>& members : partition(layers, scheme_and_choice)) {
    const PlannedLayer& first = layers[members.front()];
    text += fmt::format("{} {}: {}\n", layers_text(members.size()), scheme_text(first.config.scheme),
                        styled(Style::kBold, choice_text(*first.selection), stream));
  }
  return text;
}

nlohmann::json selections_json(std::span<const PlannedLayer> layers) {
  nlohmann::json groups = nlohmann::json::array();
  for (const std::vector<size_t>& members : partition(layers, scheme_and_reasons)) {
    const PlannedLayer& first = layers[members.front()];
    nlohmann::json group = {{"scheme", scheme_text(first.config.scheme)},
                            {"policy", policy_name(first.config.policy)},
                            {"layers", nlohmann::json::array()},
                            {"choices", nlohmann::json::array()},
                            {"rejected", nlohmann::json::array()}};
    for (const size_t i : members) {
      group["layers"].push_back(
          {{"module", layers[i].module}, {"n", layers[i].config.n}, {"k", layers[i].config.k}});
    }
    for (const RangeChoice& range : first.selection->ranges) {
      group["choices"].push_back(
          {{"m_begin", range.tokens.begin},
           {"m_end", range.tokens.end == kEndless ? nlohmann::json() : nlohmann::json(range.tokens.end)},
           {"kernel", range.kernel->name},
           {"tuned", range.tuned},
           {"built", range.kernel->apply != nullptr}});
    }
    group["unused_tuning"] = first.selection->unused_tuning;
    for (const Rejection& rejection : first.selection->rejected) {
      group["rejected"].push_back(
          {{"kernel", rejection.kernel}, {"reason", rejection.reason}, {"able", rejection.able}});
    }
    groups.push_back(std::move(group));
  }
  return groups;
}

}  // namespace anyfp8::cli
