#include "cli/output_folder.h"

#include <unistd.h>

#include <utility>

#include "anyfp8/base/text.h"

namespace anyfp8::cli {
namespace {

namespace fs = std::filesystem;

// What a Hugging Face model folder has beside its weights.
const std::set<std::string> kModelFiles = {"config.json",        "generation_config.json",
                                           "model.safetensors",  "model.safetensors.index.json",
                                           "tokenizer.json",     "tokenizer_config.json",
                                           "tokenizer.model",    "special_tokens_map.json",
                                           "added_tokens.json",  "vocab.json",
                                           "merges.txt",         "chat_template.jinja",
                                           "chat_template.json", "preprocessor_config.json"};

bool is_model_file(const std::string& name) {
  return kModelFiles.contains(name) || (name.starts_with("model-") && name.ends_with(".safetensors"));
}

bool is_there(const fs::path& path) { return fs::exists(fs::symlink_status(path)); }

fs::path parent_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : "."; }

// A name beside `target` that nothing has.
fs::path unused_name(const fs::path& target) {
  fs::path name;
  for (int i = 0; name.empty() || is_there(name); ++i)
    name = parent_of(target) / fmt::format(".anyfp8-partial-{}-{}", getpid(), i);
  return name;
}

}  // namespace

OutputFolder::OutputFolder(const fs::path& target, const fs::path& source, std::set<std::string> written,
                           bool replace)
    : shown_(target), target_(target), written_(std::move(written)), replace_(replace) {
  if (target_.filename().empty()) target_ = parent_of(target_);  // "out/"
  if (is_there(target_)) {
    if (!fs::is_directory(target_))
      throw fail(ErrorCode::kInvalidArgument, "{} is there and no folder; name another one", shown_.string());
    target_ = fs::canonical(target_);
    for (const fs::directory_entry& entry : fs::directory_iterator(source)) {
      // A model of links would lose what they point at.
      if (fs::equivalent(target_, source) ||
          (entry.is_symlink() && fs::exists(entry) && fs::canonical(entry).parent_path() == target_))
        throw fail(ErrorCode::kInvalidArgument, "{} is the input itself; name another folder",
                   shown_.string());
    }
    check_target();
  } else if (const fs::path parent = parent_of(target_); !fs::is_directory(parent)) {
    throw fail(ErrorCode::kNotFound, "{} is to be made in {}, which is no folder; make that one first",
               shown_.string(), parent.string());
  }
  const fs::path name = unused_name(target_);
  if (std::error_code error; !fs::create_directory(name, error)) {
    throw fail(ErrorCode::kIo, "no folder can be made in {}: {}", parent_of(target_).string(),
               error ? error.message() : "another process takes the same names");
  }
  building_ = name;
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  fs::remove_all(building_, ignored);
}

void OutputFolder::check_target() const {
  for (const fs::directory_entry& entry : fs::directory_iterator(target_)) {
    const std::string name = entry.path().filename().string();
    if (!replace_) {
      throw fail(ErrorCode::kInvalidArgument,
                 "{} is not empty; name another folder, or add --force to replace "
                 "the model in it",
                 shown_.string());
    }
    if (!entry.is_regular_file() || (!written_.contains(name) && !is_model_file(name))) {
      throw fail(
          ErrorCode::kInvalidArgument,
          "{} holds {}, which is no file of a model, so --force does not replace it; move that away or "
          "name another folder",
          shown_.string(), name);
    }
  }
}

void OutputFolder::finish() {
  if (is_there(target_)) {
    check_target();  // building took its time
    const fs::path old = unused_name(target_);
    fs::rename(target_, old);
    try {
      fs::rename(building_, target_);
    } catch (...) {
      std::error_code ignored;
      fs::rename(old, target_, ignored);
      throw;
    }
    fs::remove_all(old);
  } else {
    fs::rename(building_, target_);
  }
  building_.clear();
}

}  // namespace anyfp8::cli
