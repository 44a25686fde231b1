#include "cli/tune_layer.h"

#include <algorithm>
#include <cmath>

namespace anyfp8::cli {
namespace {

// Two runs of one kernel on an otherwise idle machine differ by less than that.
constexpr double kLeastGain = 1.03;

const RangeChoice& range_of(const Selection& selection, int64_t m) {
  return *std::find_if(selection.ranges.begin(), selection.ranges.end(),
                       [m](const RangeChoice& range) { return range.tokens.contains(m); });
}

bool is_change(const TunePoint& point) { return point.best != point.built_in; }

class Tuner {
 public:
  Tuner(const Selection& built_in, std::span<const Kernel* const> kernels, const MeasureKernels& measure)
      : built_in_(built_in), alive_(kernels.begin(), kernels.end()), measure_(measure) {}

  TunePoint decide(int64_t m, std::vector<const Kernel*> kernels) {
    const Kernel* const standing = range_of(built_in_, m).kernel;
    if (std::find(kernels.begin(), kernels.end(), standing) == kernels.end()) kernels.push_back(standing);
    const KernelTimes first = measure_(kernels, m);
    times_ = first.us;
    measured_ = kernels;
    const auto us = [&](const Kernel* kernel) {
      return times_[static_cast<size_t>(std::find(kernels.begin(), kernels.end(), kernel) - kernels.begin())];
    };
    const Kernel* best =
        kernels[static_cast<size_t>(std::min_element(times_.begin(), times_.end()) - times_.begin())];
    TunePoint point{m, standing, standing, us(standing), us(standing)};
    if (first.disturbed || us(standing) <= kLeastGain * us(best)) return point;
    const Kernel* const two[] = {standing, best};
    const auto [again, disturbed] = measure_(two, m);
    if (disturbed || again[0] <= kLeastGain * again[1]) return point;
    return {m, standing, best, std::max(us(standing), again[0]), std::max(us(best), again[1])};
  }

  // The measured m of a first pass, ascending, with what can still win.
  TunePoint next(int64_t m) {
    const TunePoint point = decide(m, alive_);
    drop_hopeless();
    return point;
  }

  // The points between two that want different kernels.
  void refine(const TunePoint& a, const TunePoint& b, std::vector<TunePoint>& points) {
    if (a.best == b.best || b.m - a.m <= std::max<int64_t>(1, a.m / 16)) return;
    const TunePoint middle = decide(a.m + (b.m - a.m) / 2, {a.best, b.best});
    refine(a, middle, points);
    points.push_back(middle);
    refine(middle, b, points);
  }

 private:
  // Far behind, and its time grows as fast as the tokens do: a reference kernel would take minutes at the
  // largest m. One that decodes the whole weight first is far behind too, and stays, as its time does not
  // grow.
  void drop_hopeless() {
    constexpr double kFarBehind = 4, kGrowth = 1.6;
    const double best = *std::min_element(times_.begin(), times_.end());
    std::vector<const Kernel*> alive;
    for (size_t i = 0; i < measured_.size(); ++i) {
      const auto before = std::find(before_.begin(), before_.end(), measured_[i]);
      const bool grows = before != before_.end() &&
                         times_[i] > kGrowth * before_us_[static_cast<size_t>(before - before_.begin())];
      if (!(grows && times_[i] > kFarBehind * best)) alive.push_back(measured_[i]);
    }
    std::swap(alive_, alive);
    before_ = measured_;
    before_us_ = times_;
  }

  const Selection& built_in_;
  std::vector<const Kernel*> alive_, measured_, before_;
  const MeasureKernels& measure_;
  std::vector<double> times_, before_us_;
};

// `kernel` for [begin, end), except where it is the built-in choice anyway.
void add_range(const Selection& built_in, TokenRange tokens, const Kernel* kernel,
               std::vector<TunedRange>& ranges) {
  for (const RangeChoice& range : built_in.ranges) {
    const TokenRange part{std::max(tokens.begin, range.tokens.begin), std::min(tokens.end, range.tokens.end)};
    if (part.empty() || range.kernel == kernel) continue;
    if (!ranges.empty() && ranges.back().kernel == kernel->name && ranges.back().tokens.end == part.begin) {
      ranges.back().tokens.end = part.end;
    } else {
      ranges.push_back({part, std::string(kernel->name)});
    }
  }
}

}  // namespace

TuneResult tune_layer(const Selection& built_in, std::span<const Kernel* const> kernels,
                      std::span<const int64_t> tokens, const MeasureKernels& measure) {
  Tuner tuner(built_in, kernels, measure);
  std::vector<TunePoint> coarse;
  for (const int64_t m : tokens) coarse.push_back(tuner.next(m));
  TuneResult result;
  std::vector<TunePoint>& points = result.points;
  for (size_t i = 0; i < coarse.size(); ++i) {
    if (i > 0) tuner.refine(coarse[i - 1], coarse[i], points);
    points.push_back(coarse[i]);
  }
  for (size_t i = 0; i < points.size(); ++i) {
    const TunePoint& point = points[i];
    const RangeChoice& here = range_of(built_in, point.m);
    const bool first = i == 0, last = i + 1 == points.size();
    if (first && is_change(point))
      add_range(built_in, {here.tokens.begin, point.m}, point.best, result.ranges);
    const bool meets_next = !last && points[i + 1].best == point.best;
    const TokenRange onward{point.m, last ? here.tokens.end : meets_next ? points[i + 1].m : point.m + 1};
    if (is_change(point) || (meets_next && is_change(points[i + 1])))
      add_range(built_in, onward, point.best, result.ranges);
  }
  return result;
}

std::vector<const Kernel*> tunable_kernels(const Selection& selection, const LinearConfig& config) {
  const Kernel& first = *selection.ranges.front().kernel;
  std::vector<const Kernel*> kernels;
  for (const Kernel* kernel : all_kernels()) {
    const bool used = std::any_of(selection.ranges.begin(), selection.ranges.end(),
                                  [&](const RangeChoice& range) { return range.kernel == kernel; });
    const bool able = std::any_of(selection.rejected.begin(), selection.rejected.end(),
                                  [&](const Rejection& r) { return r.able && r.kernel == kernel->name; });
    // A weight lies in one layout; 16-bit ones have none.
    if (used || (able && (kernel->layout == first.layout || !is_float8(config.scheme.weight.dtype))))
      kernels.push_back(kernel);
  }
  return kernels;
}

}  // namespace anyfp8::cli
