#pragma once

#include <array>
#include <string>
#include <string_view>

namespace anyfp8 {

// Picks, of the names offered, those a wrong name most likely meant: one that has it as its end or the
// reverse (a missing prefix), or a few edits away. Work is bounded whatever is offered.
class NearNames {
 public:
  explicit NearNames(std::string_view wanted) : wanted_(wanted) {}

  void offer(std::string_view candidate);  // must outlive this object
  std::string advice() const;  // "; near: \"a\", \"b\"" or, with nothing near, "; such as ..."; may be empty

 private:
  struct Candidate {
    std::string_view name;
    size_t distance;
  };
  size_t distance(std::string_view candidate);

  std::string_view wanted_;
  std::array<Candidate, 3> best_{};  // nearest first; empty names are free places
  size_t distances_left_ = 20'000;   // full edit distances, about 10 us each
};

}  // namespace anyfp8
