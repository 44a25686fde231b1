#include "anyfp8/checkpoint/near_names.h"

#include <algorithm>
#include <vector>

#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/untrusted_text.h"

namespace anyfp8 {
namespace {

constexpr size_t kMaxEdits = 6;
constexpr size_t kMaxComparedBytes = 160;
constexpr size_t kFar = kMaxEdits + 1;

bool ends_with_component(std::string_view name, std::string_view end) {
  return !end.empty() && name.size() > end.size() && name.ends_with(end) &&
         name[name.size() - end.size() - 1] == '.';
}

// Insertions, deletions and substitutions.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

size_t NearNames::distance(std::string_view candidate) {
  if (ends_with_component(candidate, wanted_) || ends_with_component(wanted_, candidate)) return 0;
  const size_t longer = std::max(candidate.size(), wanted_.size());
  const size_t shorter = std::min(candidate.size(), wanted_.size());
  if (longer - shorter > kMaxEdits || longer > kMaxComparedBytes || distances_left_ == 0) return kFar;
  --distances_left_;
  return std::min(edit_distance(candidate, wanted_), kFar);
}

void NearNames::offer(std::string_view candidate) {
  Candidate entering{candidate, distance(candidate)};
  for (Candidate& place : best_) {
    if (place.name.empty() || entering.distance < place.distance) std::swap(place, entering);
    if (entering.name.empty()) return;
  }
}

std::string NearNames::advice() const {
  const bool near = !best_[0].name.empty() && best_[0].distance < kFar;
  std::string text;
  for (const Candidate& candidate : best_) {
    if (candidate.name.empty() || (near && candidate.distance == kFar)) break;
    text += fmt::format("{} {}", text.empty() ? (near ? "; near:" : "; it has") : ",", shown(candidate.name));
  }
  return text;
}

}  // namespace anyfp8
