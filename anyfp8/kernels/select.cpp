#include "anyfp8/kernels/select.h"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "anyfp8/base/text.h"
#include "anyfp8/kernels/kernel_list.h"

namespace anyfp8 {
namespace {

using Kernels = std::span<const Kernel* const>;

template <typename T>
bool contains(std::span<const T> items, const T& item) {
  return std::find(items.begin(), items.end(), item) != items.end();
}

std::string device_text(const Device& device) {
  if (device.kind == DeviceKind::kCpu) return fmt::format("cpu ({})", isa_text(device.isa));
  const std::string name = device.name.empty() ? "" : fmt::format(" ({})", device.name);
  return fmt::format("sm_{}{}{}", device.cc.major, device.cc.minor, name);
}

std::string layer_text(const LinearConfig& config) {
  return fmt::format("a layer of n = {}, k = {}, weights {}, {} in, {} out, policy {}", config.n, config.k,
                     scheme_text(config.scheme), dtype_name(config.in), dtype_name(config.out),
                     policy_name(config.policy));
}

constexpr int64_t kInfinity = TokenRange{}.end;

std::string range_text(TokenRange range) {
  if (range.end == kInfinity) return range.begin <= 0 ? "every m" : fmt::format("m >= {}", range.begin);
  if (range.begin <= 0) return fmt::format("m < {}", range.end);
  return fmt::format("{} <= m < {}", range.begin, range.end);
}

// A kernel of the list with the answer to "can it?", and where yes the m it is meant for.
struct Candidate {
  const Kernel* kernel;
  Verdict verdict;
  TokenRange tokens{0, 0};
  bool able() const { return static_cast<bool>(verdict); }
};

Verdict may_run(const Kernel& kernel, const Device& device, const LinearConfig& config,
                const SelectOptions& options) {
  ANYFP8_NEED(!contains(std::span(options.disable), std::string(kernel.name)),
              "disabled by ANYFP8_DISABLE or SelectOptions::disable");
  if (Verdict verdict = can_implement(kernel, config, device); !verdict) return verdict;
  ANYFP8_NEED(kernel.apply != nullptr || options.ignore_build,
              "not in this build (it has the kernel's rules, not its launch)");
  return Verdict::yes();
}

std::vector<Candidate> examine(Kernels kernels, const Device& device, const LinearConfig& config,
                               const SelectOptions& options) {
  std::vector<Candidate> candidates;
  for (const Kernel* kernel : kernels) {
    Candidate candidate{kernel, may_run(*kernel, device, config, options)};
    if (candidate.able()) candidate.tokens = kernel->tokens(config, device);
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

// An 8-bit weight lies in one layout, so all kernels of a layer read that one. Wider weights have no layout.
bool same_layout(const Kernel& a, const Kernel& b, const LinearConfig& config) {
  return a.layout == b.layout || !is_float8(config.scheme.weight.dtype);
}

// The ranges of one layer, each m with the first able kernel that reads the leader's layout. kernel is null
// where there is none.
std::vector<RangeChoice> ranges_with(const Candidate& leader, const std::vector<Candidate>& candidates,
                                     const LinearConfig& config) {
  const auto takes_part = [&](const Candidate& c) {
    return c.able() && !c.tokens.empty() && same_layout(*c.kernel, *leader.kernel, config);
  };
  std::vector<int64_t> bounds{0, kInfinity};
  for (const Candidate& c : candidates) {
    if (!takes_part(c)) continue;
    bounds.push_back(std::clamp<int64_t>(c.tokens.begin, 0, kInfinity));
    bounds.push_back(std::clamp<int64_t>(c.tokens.end, 0, kInfinity));
  }
  std::sort(bounds.begin(), bounds.end());
  bounds.erase(std::unique(bounds.begin(), bounds.end()), bounds.end());

  std::vector<RangeChoice> ranges;
  for (size_t i = 0; i + 1 < bounds.size(); ++i) {
    const auto first = std::find_if(candidates.begin(), candidates.end(), [&](const Candidate& c) {
      return takes_part(c) && c.tokens.contains(bounds[i]);
    });
    const Kernel* kernel = first == candidates.end() ? nullptr : first->kernel;
    if (!ranges.empty() && ranges.back().kernel == kernel) {
      ranges.back().tokens.end = bounds[i + 1];
    } else {
      ranges.push_back({{bounds[i], bounds[i + 1]}, kernel});
    }
  }
  return ranges;
}

bool covers_all(const std::vector<RangeChoice>& ranges) {
  return std::all_of(ranges.begin(), ranges.end(), [](const RangeChoice& r) { return r.kernel != nullptr; });
}

[[noreturn]] void throw_no_kernel(const Device& device, const LinearConfig& config, std::optional<int64_t> m,
                                  const std::vector<Candidate>& candidates) {
  std::string text = fmt::format("no kernel for {} of {} on {}:", m ? fmt::format("m = {}", *m) : "any m",
                                 layer_text(config), device_text(device));
  for (const Candidate& c : candidates) {
    text += fmt::format("\n  {}: {}", c.kernel->name,
                        c.able() ? "able, but not meant for this m" : c.verdict.reason());
  }
  throw Error(ErrorCode::kUnsupported, text);
}

// Why an able kernel serves no m.
std::string passed_over(const Candidate& candidate, const std::vector<RangeChoice>& ranges,
                        const LinearConfig& config, const SelectOptions& options) {
  const Kernel& first = *ranges.front().kernel;
  if (!options.force.empty()) return fmt::format("able, but {} is forced", options.force);
  if (candidate.tokens.empty()) return "able, but not meant for any m on this device";
  if (!same_layout(*candidate.kernel, first, config)) {
    return fmt::format("able, but reads {} weights, and the layer's lie {} for {}",
                       layout_name(candidate.kernel->layout), layout_name(first.layout), first.name);
  }
  if (config.policy == Policy::kInvariant) {
    return fmt::format("able, but a row must give the same bits at every m, so {} serves them all",
                       first.name);
  }
  std::vector<std::string_view> ahead;
  for (const RangeChoice& range : ranges) {
    const bool overlaps =
        range.tokens.begin < candidate.tokens.end && candidate.tokens.begin < range.tokens.end;
    if (overlaps && !contains(std::span<const std::string_view>(ahead), range.kernel->name)) {
      ahead.push_back(range.kernel->name);
    }
  }
  return fmt::format("able for {}, behind {}", range_text(candidate.tokens), fmt::join(ahead, " and "));
}

const Kernel* find_in(Kernels kernels, std::string_view name) {
  const auto found = std::find_if(kernels.begin(), kernels.end(),
                                  [&](const Kernel* kernel) { return kernel->name == name; });
  return found == kernels.end() ? nullptr : *found;
}

void check_names(Kernels kernels, const SelectOptions& options) {
  const auto need = [&](const std::string& name, std::string_view what) {
    if (find_in(kernels, name) != nullptr) return;
    throw fail(ErrorCode::kNotFound, "kernel '{}' is to be {} and does not exist; the kernels are {}", name,
               what, kernel_names(kernels));
  };
  if (!options.force.empty()) need(options.force, "forced");
  for (const std::string& name : options.disable) need(name, "disabled");
  if (contains(std::span(options.disable), options.force)) {
    throw fail(ErrorCode::kInvalidArgument, "kernel {} is both forced and disabled; drop one of the two",
               options.force);
  }
}

// Which kernel runs which m.
std::vector<RangeChoice> choose(const std::vector<Candidate>& candidates, const Device& device,
                                const LinearConfig& config, const SelectOptions& options) {
  if (!options.force.empty()) {
    for (const Candidate& c : candidates) {
      if (c.kernel->name != options.force) continue;
      if (c.able()) return {{TokenRange{}, c.kernel}};
      throw fail(ErrorCode::kUnsupported, "kernel {} is forced and cannot run {} on {}: {}", c.kernel->name,
                 layer_text(config), device_text(device), c.verdict.reason());
    }
  }
  // Two kernels sum in different orders: a row may not change its bits at their border, so one kernel serves
  // every m, and it is the one of single tokens, where a model spends its time.
  if (config.policy == Policy::kInvariant) {
    for (const Candidate& c : candidates) {
      if (c.able() && c.tokens.contains(1)) return {{TokenRange{}, c.kernel}};
    }
    throw_no_kernel(device, config, 1, candidates);
  }
  // The first able kernel's layout, unless the kernels that read it leave a gap.
  std::optional<int64_t> gap;
  for (const Candidate& leader : candidates) {
    if (!leader.able() || leader.tokens.empty()) continue;
    std::vector<RangeChoice> ranges = ranges_with(leader, candidates, config);
    if (covers_all(ranges)) return ranges;
    if (gap) continue;
    for (const RangeChoice& range : ranges) {
      if (range.kernel == nullptr && !gap) gap = range.tokens.begin;
    }
  }
  throw_no_kernel(device, config, gap, candidates);
}

// `range` in the place of what covers its tokens. Neighbours of one kernel and one origin become one.
void overlay(std::vector<RangeChoice>& ranges, const RangeChoice& range) {
  std::vector<RangeChoice> pieces{range};
  for (const RangeChoice& old : ranges) {
    RangeChoice before = old, after = old;
    before.tokens.end = std::min(old.tokens.end, range.tokens.begin);
    after.tokens.begin = std::max(old.tokens.begin, range.tokens.end);
    for (const RangeChoice& piece : {before, after}) {
      if (!piece.tokens.empty()) pieces.push_back(piece);
    }
  }
  std::sort(pieces.begin(), pieces.end(),
            [](const RangeChoice& a, const RangeChoice& b) { return a.tokens.begin < b.tokens.begin; });
  ranges.clear();
  for (const RangeChoice& piece : pieces) {
    if (!ranges.empty() && ranges.back().kernel == piece.kernel && ranges.back().tuned == piece.tuned) {
      ranges.back().tokens.end = piece.tokens.end;
    } else {
      ranges.push_back(piece);
    }
  }
}

// The layer's entry in the table over the built-in ranges. A kernel is taken by the rules of any other, so
// the worst that a table can do is to be slow.
void apply_tuning(const TuneTable& table, const std::vector<Candidate>& candidates, const Device& device,
                  const LinearConfig& config, Selection& selection) {
  const std::optional<TuneKey> key = tune_key(device, config);
  const TunedLayer* layer = key ? table.find(*key) : nullptr;
  if (layer == nullptr) return;
  const Kernel& placed_for = *selection.ranges.front().kernel;
  for (const TunedRange& range : layer->ranges) {
    const auto candidate = std::find_if(candidates.begin(), candidates.end(),
                                        [&](const Candidate& c) { return c.kernel->name == range.kernel; });
    const Verdict verdict = [&] {
      ANYFP8_NEED(range.tokens.begin >= 0 && !range.tokens.empty(), "that is no range");
      ANYFP8_NEED(candidate != candidates.end(), "there is no such kernel");
      if (!candidate->able()) return candidate->verdict;
      ANYFP8_NEED(same_layout(*candidate->kernel, placed_for, config),
                  "it reads {} weights, and the layer's lie {} for {}",
                  layout_name(candidate->kernel->layout), layout_name(placed_for.layout), placed_for.name);
      return Verdict::yes();
    }();
    if (verdict) {
      overlay(selection.ranges, {range.tokens, candidate->kernel, true});
    } else {
      selection.unused_tuning.push_back(
          fmt::format("{} for {}: {}", range.kernel, range_text(range.tokens), verdict.reason()));
    }
  }
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view{} : trimmed(value);
}

}  // namespace

const Kernel* find_kernel(std::string_view name) { return find_in(all_kernels(), name); }

SelectOptions SelectOptions::from_environment(bool tuning) {
  SelectOptions options;
  options.force = environment("ANYFP8_KERNEL");
  std::string_view rest = environment("ANYFP8_DISABLE");
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    if (const auto name = trimmed(rest.substr(0, comma)); !name.empty()) options.disable.emplace_back(name);
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
  }
  if (tuning) options.tuned = user_tune_table();
  return options;
}

Selection select_kernel(const Device& device, const LinearConfig& config, const SelectOptions& options) {
  const Kernels kernels = options.kernels.empty() ? all_kernels() : options.kernels;
  check_names(kernels, options);
  const std::vector<Candidate> candidates = examine(kernels, device, config, options);
  Selection selection;
  selection.ranges = choose(candidates, device, config, options);
  if (options.tuned != nullptr && options.force.empty())
    apply_tuning(*options.tuned, candidates, device, config, selection);
  for (const Candidate& c : candidates) {
    const bool used = std::any_of(selection.ranges.begin(), selection.ranges.end(),
                                  [&](const RangeChoice& range) { return range.kernel == c.kernel; });
    if (used) continue;
    selection.rejected.push_back(
        {.kernel = c.kernel->name,
         .reason = c.able() ? passed_over(c, selection.ranges, config, options) : c.verdict.reason(),
         .able = c.able()});
  }
  return selection;
}

Selection init_fp8_linear_kernel(const LinearConfig& config, const Device& device) {
  return select_kernel(device, config, SelectOptions::from_environment());
}

const Kernel& Selection::kernel_for(int64_t m) const {
  for (const RangeChoice& range : ranges) {
    if (range.tokens.contains(m)) return *range.kernel;
  }
  throw fail(ErrorCode::kInvalidArgument, "m = {} tokens; m must not be negative", m);
}

std::string Selection::explain() const {
  size_t range_width = 0, name_width = 0;
  for (const RangeChoice& range : ranges) {
    range_width = std::max(range_width, range_text(range.tokens).size());
    name_width = std::max(name_width, range.kernel->name.size());
  }
  for (const Rejection& rejection : rejected) name_width = std::max(name_width, rejection.kernel.size());
  range_width = std::max(range_width, std::string_view("not used").size());

  std::string text;
  for (const RangeChoice& range : ranges) {
    text += fmt::format("{:{}}  {:{}}  {}{}\n", range_text(range.tokens), range_width, range.kernel->name,
                        name_width, range.tuned ? "by tune: " : "", range.kernel->summary);
  }
  for (const Rejection& rejection : rejected) {
    text += fmt::format("{:{}}  {:{}}  {}\n", &rejection == rejected.data() ? "not used" : "", range_width,
                        rejection.kernel, name_width, rejection.reason);
  }
  for (const std::string& unused : unused_tuning) text += fmt::format("not used of tune: {}\n", unused);
  return text;
}

}  // namespace anyfp8
