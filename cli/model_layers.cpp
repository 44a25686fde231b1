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
    throw fail(ErrorCode::kInvalidFile, "{}: {}{}", first.tensor, first.text,
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

std::vector<LayerGroup> group_layers(std::span<const std::string> modules,
                                     const std::function<std::string(size_t)>& alike) {
  struct Pattern {
    std::vector<std::string> parts;      // numbers left empty
    std::vector<std::set<int>> numbers;  // for each part
  };
  std::vector<LayerGroup> groups;
  std::vector<Pattern> patterns;
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < modules.size(); ++i) {
    const auto parts = parts_of(modules[i]);
    std::string key = alike(i);
    for (const std::string_view part : parts)
      key += fmt::format("\n{}", is_number(part) ? std::string_view("#") : part);
    const auto [place, is_new] = places.try_emplace(std::move(key), groups.size());
    if (is_new) {
      groups.emplace_back();
      patterns.push_back({{}, std::vector<std::set<int>>(parts.size())});
      for (const std::string_view part : parts)
        patterns.back().parts.emplace_back(is_number(part) ? "" : part);
    }
    groups[place->second].members.push_back(i);
    for (size_t p = 0; p < parts.size(); ++p) {
      if (is_number(parts[p])) patterns[place->second].numbers[p].insert(number_of(parts[p]));
    }
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<std::string> parts = patterns[g].parts;
    for (size_t p = 0; p < parts.size(); ++p) {
      if (!patterns[g].numbers[p].empty()) parts[p] = ranges_text(patterns[g].numbers[p]);
    }
    groups[g].name = fmt::format("{}", fmt::join(parts, "."));
  }
  return groups;
}

}  // namespace anyfp8::cli
