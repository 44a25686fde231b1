#pragma once

#include <filesystem>
#include <set>
#include <string>

namespace anyfp8::cli {

// A folder that is built under a name of its own beside its target, and takes the target's name when it is
// whole. Whatever goes wrong before that, the target stays as it was.
class OutputFolder {
 public:
  // `written`: the names of the files that the folder will have. Error where the target cannot become it:
  //   - its parent folder does not exist, or it is no folder
  //   - it is the folder `source`, by whatever path, or holds a file that one of `source` is a link to
  //   - it is not empty, and `replace` was not asked for
  //   - it holds anything but files of `written` and the usual files of a model
  OutputFolder(const std::filesystem::path& target, const std::filesystem::path& source,
               std::set<std::string> written, bool replace);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::filesystem::path& path() const { return building_; }
  void finish();

 private:
  void check_target() const;

  std::filesystem::path shown_;   // as the caller spelled it
  std::filesystem::path target_;  // without links, where it exists
  std::set<std::string> written_;
  bool replace_;
  std::filesystem::path building_;
};

}  // namespace anyfp8::cli
