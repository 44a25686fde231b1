#include "cli/model_layers.h"

#include <algorithm>
#include <map>
#include <set>

#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/config_json.h"

namespace anyfp8::cli {
namespace {

std::vector<std::string_view> parts_of(std::string_view module) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0;;) {
    const size_t end = module.find('.', begin);
    parts.push_back(module.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

bool is_number(std::string_view part) {
  return !part.empty() && part.size() <= 9 && part.find_first_not_of("0123456789") == std::string_view::npos;
}

int number_of(std::string_view part) { return std::stoi(std::string(part)); }

// "5", "{0..7}", "{0..3,5,9..11}"
std::string ranges_text(const std::set<int>& numbers) {
  constexpr size_t kMostPieces = 6;
  std::vector<std::string> pieces;
  for (auto it = numbers.begin(); it != numbers.end();) {
    const int first = *it;
    int last = first;
    for (++it; it != numbers.end() && *it == last + 1; ++it) last = *it;
    pieces.push_back(first == last ? std::to_string(first) : fmt::format("{}..{}", first, last));
  }
  if (numbers.size() == 1) return pieces.front();
  if (pieces.size() > kMostPieces) {
    pieces.resize(kMostPieces - 1);
    pieces.push_back(fmt::format("...,{}", *numbers.rbegin()));
  }
  return fmt::format("{{{}}}", fmt::join(pieces, ","));
}

}  // namespace

std::string anomaly_text(const Anomaly& anomaly) {
  return anomaly.text.starts_with(anomaly.tensor) ? anomaly.text : anomaly.tensor + ": " + anomaly.text;
}

bool is_embedding(std::string_view module) {
  const std::string_view last = parts_of(module).back();
  return last.find("embed") != std::string_view::npos || last == "wte" || last == "wpe";
}

bool module_before(std::string_view a, std::string_view b) {
  const auto parts_a = parts_of(a), parts_b = parts_of(b);
  return std::lexicographical_compare(parts_a.begin(), parts_a.end(), parts_b.begin(), parts_b.end(),
                                      [](std::string_view x, std::string_view y) {
                                        if (is_number(x) && is_number(y)) return number_of(x) < number_of(y);
                                        return x < y;
                                      });
}

std::vector<ModelLayer> linear_layers(const Checkpoint& checkpoint, const Inspection& inspection) {
  if (!inspection.errors.empty()) {
    const Anomaly& first = inspection.errors.front();
    throw fail(ErrorCode::kInvalidFile, "{}{}", anomaly_text(first),
               inspection.errors.size() == 1
                   ? ""
                   : fmt::format(" ({} more like it: see anyfp8 inspect)", inspection.errors.size() - 1));
  }
  const nlohmann::json& config = config_json(checkpoint);
  const auto tie = config.find("tie_word_embeddings");
  const bool tied = tie != config.end() && tie->is_boolean() && tie->get<bool>();
  std::vector<ModelLayer> layers;
  for (const LayerReport& report : inspection.layers) {
    ModelLayer layer{report.module,
                     report.module,
                     report.n,
                     report.k,
                     report.scheme,
                     report.bytes,
                     checkpoint.has(report.module + ".bias")};
    if (is_embedding(report.module)) {
      if (!tied || !report.module.ends_with("embed_tokens")) continue;
      layer.module = "lm_head";
    } else if (tied && report.module == "lm_head") {
      continue;  // present but unused
    }
    layers.push_back(std::move(layer));
  }
  if (layers.empty()) {
    throw fail(ErrorCode::kInvalidFile,
               "{} has no linear layer (a 2-D tensor <module>.weight); `anyfp8 inspect` shows "
               "what is in it",
               checkpoint.path().string());
  }
  std::stable_sort(layers.begin(), layers.end(), [](const ModelLayer& a, const ModelLayer& b) {
    return module_before(a.module, b.module);
  });
  std::stable_partition(layers.begin(), layers.end(),
                        [](const ModelLayer& layer) { return layer.module != "lm_head"; });
  return layers;
}

std::vector<std::vector<size_t>> group_layers(std::span<const std::string_view> modules,
                                              const std::function<std::string(size_t)>& alike) {
  std::vector<std::vector<size_t>> groups;
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < modules.size(); ++i) {
    std::string key = alike(i);
    for (const std::string_view part : parts_of(modules[i])) {
      key += '\n';
      key += is_number(part) ? std::string_view("#") : part;
    }
    const auto [place, is_new] = places.try_emplace(std::move(key), groups.size());
    if (is_new) groups.emplace_back();
    groups[place->second].push_back(i);
  }
  return groups;
}

std::string group_name(std::span<const std::string_view> modules, std::span<const size_t> members) {
  const auto first = parts_of(modules[members.front()]);
  std::vector<std::set<int>> numbers(first.size());  // for each part
  for (const size_t i : members) {
    const auto parts = parts_of(modules[i]);
    for (size_t p = 0; p < parts.size(); ++p) {
      if (is_number(parts[p])) numbers[p].insert(number_of(parts[p]));
    }
  }
  std::vector<std::string> parts;
  for (size_t p = 0; p < first.size(); ++p)
    parts.push_back(numbers[p].empty() ? std::string(first[p]) : ranges_text(numbers[p]));
  return fmt::format("{}", fmt::join(parts, "."));
}

std::string more_groups_text(size_t groups) {
  if (groups <= kMostGroupsShown) return {};
  return fmt::format("... and {} more groups\n", groups - kMostGroupsShown);
}

}  // namespace anyfp8::cli
