#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace anyfp8 {

// The modules a config lists as not quantised, in any of the meanings in the wild: the exact path, a path
// above it, the end of the path, "re:" and a regular expression matched at the start, or a wildcard. The
// file's dtypes decide what is quantised, so the list only serves to point at contradictions, and an entry
// that cannot be read is one more of them.
class SkipList {
 public:
  explicit SkipList(std::vector<std::string> entries);
  bool names(std::string_view module) const;
  const std::vector<std::string>& unreadable() const noexcept { return unreadable_; }

 private:
  std::vector<std::string> entries_;
  std::vector<std::string> unreadable_;
};

}  // namespace anyfp8
