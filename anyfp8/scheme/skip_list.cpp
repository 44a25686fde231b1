#include "anyfp8/scheme/skip_list.h"

#include <fnmatch.h>

#include <utility>

#include "anyfp8/base/error.h"
#include "anyfp8/scheme/quantization_config.h"

namespace anyfp8 {
namespace {

bool is_regex(std::string_view entry) { return entry.starts_with("re:"); }

bool ends_with_path(std::string_view module, std::string_view tail) {
  return module.size() > tail.size() && module.ends_with(tail) &&
         module[module.size() - tail.size() - 1] == '.';
}

bool begins_with_path(std::string_view module, std::string_view head) {
  return module.size() > head.size() && module.starts_with(head) && module[head.size()] == '.';
}

bool matches(const std::string& entry, const std::string& module) {
  if (is_regex(entry)) return regex_matches_start(std::string_view(entry).substr(3), module);
  if (entry == module || begins_with_path(module, entry) || ends_with_path(module, entry)) return true;
  return entry.find_first_of("*?[") != std::string::npos && ::fnmatch(entry.c_str(), module.c_str(), 0) == 0;
}

}  // namespace

SkipList::SkipList(std::vector<std::string> entries) {
  for (std::string& entry : entries) {
    if (entry.empty()) continue;
    try {
      matches(entry, "");
      entries_.push_back(std::move(entry));
    } catch (const Error&) {
      unreadable_.push_back(std::move(entry));
    }
  }
}

bool SkipList::names(std::string_view module) const {
  const std::string path(module);
  for (const std::string& entry : entries_) {
    if (matches(entry, path)) return true;
  }
  return false;
}

}  // namespace anyfp8
