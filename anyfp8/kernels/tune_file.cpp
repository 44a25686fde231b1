#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "anyfp8/base/log.h"
#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/checkpoint/json_fields.h"
#include "anyfp8/kernels/tune_table.h"

// The file of a TuneTable. It lies where other programs may write, so it is read as a checkpoint is: bounded,
// every value checked.
namespace anyfp8 {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // written in the order that people read

constexpr int kSchemaVersion = 1;
constexpr size_t kMostBytes = 4 << 20, kMostRanges = 1000, kMostText = 500;
constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

std::string text_member(const nlohmann::json& object, const char* key) {
  const nlohmann::json& value = need_member(object, key);
  if (!value.is_string() || value.get_ref<const std::string&>().size() > kMostText)
    throw wrong_value(key, value, fmt::format("a text of at most {} bytes", kMostText));
  return value.get<std::string>();
}

int64_t count_member(const nlohmann::json& object, const char* key, int64_t least) {
  constexpr int64_t kMost = int64_t{1} << 40;
  const nlohmann::json& value = need_member(object, key);
  if (!value.is_number_integer() || value < least || value > kMost)
    throw wrong_value(key, value, fmt::format("an integer from {} to {}", least, kMost));
  return value.get<int64_t>();
}

DType dtype_member(const nlohmann::json& object, const char* key) {
  const std::string name = text_member(object, key);
  for (const DType dtype : kTypes) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw wrong_value(key, name, "f32, bf16 or f16");
}

const nlohmann::json& list_member(const nlohmann::json& object, const char* key) {
  const nlohmann::json& value = need_member(object, key);
  if (!value.is_array()) throw wrong_value(key, value, "a list");
  return value;
}

// It will stand in plans, on terminals.
std::string kernel_member(const nlohmann::json& object) {
  std::string name = text_member(object, "kernel");
  if (name.empty() || name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") != std::string::npos)
    throw wrong_value("kernel", name, "a name of a-z, 0-9 and _");
  return name;
}

TunedLayer layer_from(const nlohmann::json& json) {
  TunedLayer layer{.key = {.device = text_member(json, "device"),
                           .scheme = text_member(json, "scheme"),
                           .in = dtype_member(json, "in"),
                           .n = count_member(json, "n", 1),
                           .k = count_member(json, "k", 1)},
                   .ranges = {}};
  const nlohmann::json& ranges = list_member(json, "ranges");
  if (ranges.size() > kMostRanges)
    throw fail(ErrorCode::kInvalidFile, "has {} ranges, at most {} are read", ranges.size(), kMostRanges);
  int64_t free_from = 0;
  for (const nlohmann::json& range : ranges) {
    const int64_t begin = count_member(range, "begin", free_from);
    const bool open = find_member(range, "end") == nullptr;
    const int64_t end = open ? TokenRange{}.end : count_member(range, "end", begin + 1);
    layer.ranges.push_back({{begin, end}, kernel_member(range)});
    free_from = end;
  }
  return layer;
}

TuneTable table_from(const nlohmann::json& json) {
  if (const int64_t version = count_member(json, "schema_version", 0); version != kSchemaVersion) {
    throw fail(ErrorCode::kInvalidFile, "has schema_version {}, this program reads {}", version,
               kSchemaVersion);
  }
  if (const std::string version = text_member(json, "anyfp8"); version != ANYFP8_VERSION) {
    throw fail(ErrorCode::kInvalidFile,
               "was measured with anyfp8 {}, this is {}, whose kernels take other times", value_text(version),
               ANYFP8_VERSION);
  }
  TuneTable table;
  const nlohmann::json& layers = list_member(json, "layers");
  for (size_t i = 0; i < layers.size(); ++i) {
    TunedLayer layer = at_place(fmt::format("layers[{}]", i), [&] { return layer_from(layers[i]); });
    if (table.find(layer.key) != nullptr) throw fail(ErrorCode::kInvalidFile, "layers[{}] is there twice", i);
    table.layers.push_back(std::move(layer));
  }
  return table;
}

Json json_of(const TunedLayer& layer) {
  Json ranges = Json::array();
  for (const TunedRange& range : layer.ranges) {
    const bool open = range.tokens.end == TokenRange{}.end;
    ranges.push_back({{"begin", range.tokens.begin},
                      {"end", open ? Json() : Json(range.tokens.end)},
                      {"kernel", range.kernel}});
  }
  const TuneKey& key = layer.key;
  return {{"device", key.device}, {"scheme", key.scheme}, {"in", dtype_name(key.in)},
          {"n", key.n},           {"k", key.k},           {"ranges", std::move(ranges)}};
}

const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? nullptr : value;
}

}  // namespace

fs::path tune_path() {
  if (const char* named = variable("ANYFP8_TUNE_CACHE"))
    return std::string_view(named) == "off" ? fs::path() : fs::path(named);
  const fs::path file = fs::path("anyfp8") / "tune.json";
  if (const char* cache = variable("XDG_CACHE_HOME")) return cache / file;
  if (const char* home = variable("HOME")) return fs::path(home) / ".cache" / file;
  return {};
}

TuneTable read_tune_table(const fs::path& path) {
  const nlohmann::json json = read_json_file(path, kMostBytes);
  return at_place(path.string(), [&] { return table_from(json); });
}

void write_tune_table(const fs::path& path, const TuneTable& table) {
  Json json{
      {"schema_version", kSchemaVersion},
      {"anyfp8", ANYFP8_VERSION},
      {"about",
       "Written by anyfp8 tune: for these m (begin <= m < end) another kernel than the built-in choice was "
       "faster. May be deleted; ANYFP8_TUNE_CACHE=off does without it."},
      {"layers", Json::array()}};
  for (const TunedLayer& layer : table.layers) json["layers"].push_back(json_of(layer));
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  const fs::path partial = path.string() + fmt::format(".partial-{}", getpid());
  std::ofstream file(partial, std::ios::binary);
  file << json.dump(1, ' ', false, Json::error_handler_t::replace) << "\n";
  file.close();
  if (file) fs::rename(partial, path, error);
  if (!file || error) {
    std::error_code ignored;
    fs::remove(partial, ignored);
    throw fail(ErrorCode::kIo, "{} cannot be written{}; name another file in ANYFP8_TUNE_CACHE",
               path.string(), error ? ": " + error.message() : "");
  }
}

std::shared_ptr<const TuneTable> user_tune_table() {
  struct Seen {
    fs::path path;
    ino_t inode = 0;
    off_t bytes = 0;
    timespec changed{};
    std::shared_ptr<const TuneTable> table;
  };
  static std::mutex mutex;
  static Seen seen;  // a model has hundreds of layers, and each asks
  const fs::path path = tune_path();
  if (path.empty()) return nullptr;
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    if (variable("ANYFP8_TUNE_CACHE") != nullptr) {
      log_once(LogLevel::kWarning,
               fmt::format("ANYFP8_TUNE_CACHE is {}, which is not there; the built-in choices hold",
                           path.string()));
    }
    return nullptr;
  }
  const std::lock_guard lock(mutex);
  if (seen.path == path && seen.inode == status.st_ino && seen.bytes == status.st_size &&
      seen.changed.tv_sec == status.st_mtim.tv_sec && seen.changed.tv_nsec == status.st_mtim.tv_nsec) {
    return seen.table;
  }
  seen = {path, status.st_ino, status.st_size, status.st_mtim, nullptr};
  try {
    seen.table = std::make_shared<const TuneTable>(read_tune_table(path));
  } catch (const Error& error) {
    log_once(
        LogLevel::kWarning,
        fmt::format("{}; the built-in choices hold until `anyfp8 tune` has written it again", error.what()));
  }
  return seen.table;
}

}  // namespace anyfp8
