#include "anyfp8/checkpoint/checkpoint.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>

#include "anyfp8/base/log.h"
#include "anyfp8/base/mapped_file.h"
#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/checkpoint/json_reader.h"
#include "anyfp8/checkpoint/near_names.h"
#include "anyfp8/checkpoint/safetensors.h"
#include "anyfp8/checkpoint/safetensors_rules.h"
#include "anyfp8/checkpoint/untrusted_text.h"

namespace anyfp8 {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kIndexName = "model.safetensors.index.json";
constexpr std::string_view kSingleName = "model.safetensors";
constexpr std::string_view kWeightMap = "weight_map";
constexpr size_t kMaxConfigBytes = size_t{4} << 20;
constexpr size_t kMaxIndexBytes = size_t{64} << 20;  // the largest published one has 9 MB
// The smallest value with its comma takes 2 bytes of text and up to 170 in memory; real files need more
// than 16 bytes of text for each.
constexpr size_t kTextBytesPerValue = 16;
constexpr size_t kMaxIndexValues = 4096;  // beside weight_map
constexpr size_t kMaxShards = 4096;       // published: 200
constexpr size_t kMaxFileNameBytes = 255;
// Of all shards together, for the reason of kMaxTensors; published: 150,000.
constexpr size_t kMaxCheckpointTensors = size_t{1} << 19;
constexpr size_t kMaxListed = 6;

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

std::shared_ptr<const MappedFile> map_bounded(const fs::path& path, size_t max_bytes) {
  auto file = MappedFile::open(path);
  if (file->bytes().size() > max_bytes) {
    throw fail(ErrorCode::kInvalidFile, "{}: has {} bytes, at most {} are read", path.string(),
               file->bytes().size(), max_bytes);
  }
  return file;
}

nlohmann::json read_object_or_empty(const fs::path& path) {
  if (!is_there(path)) return nlohmann::json::object();
  nlohmann::json value = read_json_file(path, kMaxConfigBytes);
  if (!value.is_object()) {
    throw fail(ErrorCode::kInvalidFile, "{}: must hold an object, found {}", path.string(),
               value.type_name());
  }
  return value;
}

// The file names of a directory, sorted.
std::vector<std::string> list_directory(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error) throw fail(ErrorCode::kIo, "{}: cannot be listed: {}", directory.string(), error.message());
  std::sort(names.begin(), names.end());
  return names;
}

Error no_safetensors(const fs::path& directory, const std::vector<std::string>& names) {
  const auto has_ending = [&](std::string_view ending) {
    return std::any_of(names.begin(), names.end(), [&](const std::string& n) { return n.ends_with(ending); });
  };
  std::string advice = "a model directory has model.safetensors, or shards and model.safetensors.index.json";
  if (std::find(names.begin(), names.end(), "snapshots") != names.end()) {
    advice = "this is a Hugging Face cache folder, give the directory of a revision in its snapshots";
  } else if (has_ending(".gguf")) {
    advice = "GGUF files are not read, the safetensors files they were made from are needed";
  } else if (has_ending(".bin") || has_ending(".pt") || has_ending(".pth")) {
    advice = "PyTorch pickles are not read, save the model as safetensors first";
  }
  if (names.empty())
    return fail(ErrorCode::kNotFound, "{}: the directory is empty; {}", directory.string(), advice);
  std::string listed;
  for (size_t i = 0; i < std::min(names.size(), kMaxListed); ++i) {
    listed += fmt::format("{}{}", i == 0 ? "" : ", ", shown(names[i]));
  }
  if (names.size() > kMaxListed) listed += fmt::format(" and {} more", names.size() - kMaxListed);
  return fail(ErrorCode::kNotFound, "{}: no .safetensors file, only {}; {}", directory.string(), listed,
              advice);
}

void check_shard_name(std::string_view tensor, std::string_view file) {
  std::string_view fault;
  if (file.empty()) fault = "is empty";
  if (file.size() > kMaxFileNameBytes) fault = "is longer than a file name can be";
  if (file == "." || file == "..") fault = "is a directory";
  if (file.find_first_of(std::string_view("/\\\0", 3)) != std::string_view::npos) {
    fault = "must be a plain file name, without separators";
  }
  if (!fault.empty()) {
    throw fail(ErrorCode::kInvalidFile, "weight_map puts {} into {}, which {}", shown(tensor), shown(file),
               fault);
  }
}

// Calls sink(tensor, file) for each member of weight_map; errors get the path of the index.
void read_index(const fs::path& path, const MappedFile& index, const MemberSink& sink) {
  try {
    const nlohmann::json root = read_json(text_of(index), kMaxIndexValues, kWeightMap, sink);
    if (!root.is_object() || !root.contains(kWeightMap) || !root[std::string(kWeightMap)].is_object()) {
      throw fail(ErrorCode::kInvalidFile, "an index must be an object with the object weight_map");
    }
  } catch (Error& error) {
    error.in(path.string());
    throw;
  }
}

}  // namespace

struct Checkpoint::Impl {
  struct Place {
    uint32_t shard, entry;
  };

  fs::path path;
  std::vector<fs::path> shard_paths;
  std::vector<std::shared_ptr<const MappedFile>> files;
  std::vector<SafetensorsHeader> headers;
  std::vector<Place> tensors;  // by name
  nlohmann::json config = nlohmann::json::object();
  mutable std::mutex siblings_mutex;
  mutable std::map<std::string, nlohmann::json> siblings;  // by file name, see sibling_json()
  size_t file_bytes = 0;
  size_t header_tensors = 0;
  size_t metadata_bytes = 0, metadata_entries = 0;

  SafetensorsHeader::Entry entry(Place place) const { return headers[place.shard].entry(place.entry); }

  void open_directory();
  void open_shards_of_index(const fs::path& index_path);
  void open_shard(const fs::path& shard);
  void show_all_tensors();
  void sort_tensors();
  const Place* find(std::string_view name) const;
  TensorInfo info(Place place) const;
};

void Checkpoint::Impl::open_directory() {
  config = read_object_or_empty(path / "config.json");
  if (is_there(path / kIndexName)) {
    open_shards_of_index(path / kIndexName);
    return;
  }
  if (is_there(path / kSingleName)) {
    open_shard(path / kSingleName);
  } else {
    const std::vector<std::string> names = list_directory(path);
    for (const std::string& name : names) {
      // consolidated*: the same weights once more under other names, beside the shards.
      if (name.ends_with(".safetensors") && !name.starts_with("consolidated")) open_shard(path / name);
    }
    if (files.empty()) throw no_safetensors(path, names);
  }
  show_all_tensors();
}

// Two passes over the text, so that the names need no memory of their own: first the files, then each
// name as a place in one of them.
void Checkpoint::Impl::open_shards_of_index(const fs::path& index_path) {
  const auto index = map_bounded(index_path, kMaxIndexBytes);
  std::map<std::string, uint32_t, std::less<>> shards;
  read_index(index_path, *index, [&](std::string_view tensor, std::string_view file) {
    if (shards.contains(file)) return;
    check_shard_name(tensor, file);
    if (shards.size() == kMaxShards) throw fail(ErrorCode::kInvalidFile, "more than {} shards", kMaxShards);
    shards.emplace(file, 0);
  });
  if (shards.empty()) throw fail(ErrorCode::kInvalidFile, "{}: weight_map is empty", index_path.string());

  const auto absent = [&](const auto& shard) { return !is_there(path / shard.first); };
  const auto first_absent = std::find_if(shards.begin(), shards.end(), absent);
  if (first_absent != shards.end()) {
    throw fail(ErrorCode::kNotFound,
               "{}: {} of its {} shards are not there, {} is the first; finish the download",
               index_path.string(), std::count_if(shards.begin(), shards.end(), absent), shards.size(),
               shown(first_absent->first));
  }
  for (auto& [file, number] : shards) {
    number = static_cast<uint32_t>(files.size());
    open_shard(path / file);
  }

  read_index(index_path, *index, [&](std::string_view tensor, std::string_view file) {
    const auto shard = shards.find(file);
    const auto found = shard == shards.end() ? std::nullopt : headers[shard->second].find(tensor);
    if (!found) {
      throw fail(ErrorCode::kInvalidFile, "weight_map puts {} into {}, which has no such tensor",
                 shown(tensor), shown(file));
    }
    if (tensors.size() == header_tensors)
      throw fail(ErrorCode::kInvalidFile, "weight_map names a tensor twice");
    tensors.push_back({shard->second, static_cast<uint32_t>(*found)});
  });
  sort_tensors();
  if (tensors.size() < header_tensors) {
    log_message(LogLevel::kWarning,
                fmt::format("{}: {} tensors of the shards are not in the index and are left out",
                            index_path.string(), header_tensors - tensors.size()));
  }
}

void Checkpoint::Impl::open_shard(const fs::path& shard) {
  if (files.size() == kMaxShards)
    throw fail(ErrorCode::kInvalidFile, "{}: more than {} shards", path.string(), kMaxShards);
  auto file = MappedFile::open(shard);
  try {
    headers.push_back(SafetensorsHeader::parse(file->bytes()));
    header_tensors += headers.back().size();
    if (header_tensors > kMaxCheckpointTensors) {
      throw fail(ErrorCode::kInvalidFile, "more than {} tensors in all shards", kMaxCheckpointTensors);
    }
    metadata_entries += headers.back().metadata().size();
    for (const auto& [key, value] : headers.back().metadata()) metadata_bytes += key.size() + value.size();
    if (metadata_bytes > kMaxMetadataBytes || metadata_entries > kMaxMetadataEntries) {
      throw fail(ErrorCode::kInvalidFile, "__metadata__ of all shards is longer than {} bytes or {} entries",
                 kMaxMetadataBytes, kMaxMetadataEntries);
    }
  } catch (Error& error) {
    error.in(shard.string());
    throw;
  }
  file_bytes += file->bytes().size();
  files.push_back(std::move(file));
  shard_paths.push_back(shard);
}

void Checkpoint::Impl::show_all_tensors() {
  tensors.reserve(header_tensors);
  for (uint32_t shard = 0; shard < headers.size(); ++shard) {
    for (uint32_t entry = 0; entry < headers[shard].size(); ++entry) tensors.push_back({shard, entry});
  }
  sort_tensors();
}

void Checkpoint::Impl::sort_tensors() {
  std::sort(tensors.begin(), tensors.end(), [&](Place a, Place b) { return entry(a).name < entry(b).name; });
  const auto twice = std::adjacent_find(tensors.begin(), tensors.end(),
                                        [&](Place a, Place b) { return entry(a).name == entry(b).name; });
  if (twice == tensors.end()) return;
  throw fail(
      ErrorCode::kInvalidFile,
      "{}: tensor {} is there twice, in {} and in {}; remove the file that does not belong to the model",
      path.string(), shown(entry(*twice).name), shown(shard_paths[twice->shard].filename().string()),
      shown(shard_paths[twice[1].shard].filename().string()));
}

const Checkpoint::Impl::Place* Checkpoint::Impl::find(std::string_view name) const {
  const auto place = std::lower_bound(tensors.begin(), tensors.end(), name,
                                      [&](Place p, std::string_view n) { return entry(p).name < n; });
  return place == tensors.end() || entry(*place).name != name ? nullptr : &*place;
}

TensorInfo Checkpoint::Impl::info(Place place) const {
  const SafetensorsHeader::Entry e = entry(place);
  return {e.name,          e.dtype_name,
          e.dtype,         Shape(e.shape.begin(), e.shape.end()),
          e.end - e.begin, static_cast<int>(place.shard)};
}

Checkpoint Checkpoint::open(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    throw fail(ErrorCode::kNotFound, "{}: there is no such file or directory", path.string());
  }
  if (error) throw fail(ErrorCode::kIo, "{}: {}", path.string(), error.message());
  auto impl = std::make_shared<Impl>();
  impl->path = path;
  if (fs::is_directory(status)) {
    impl->open_directory();
  } else {
    impl->open_shard(path);
    impl->show_all_tensors();
  }
  return Checkpoint(std::move(impl));
}

const fs::path& Checkpoint::path() const { return impl_->path; }
const std::vector<fs::path>& Checkpoint::shard_paths() const { return impl_->shard_paths; }
size_t Checkpoint::file_bytes() const { return impl_->file_bytes; }

std::vector<TensorInfo> Checkpoint::tensors() const {
  std::vector<TensorInfo> all;
  all.reserve(impl_->tensors.size());
  for (const Impl::Place place : impl_->tensors) all.push_back(impl_->info(place));
  return all;
}

bool Checkpoint::has(std::string_view name) const { return impl_->find(name) != nullptr; }

std::optional<TensorInfo> Checkpoint::info(std::string_view name) const {
  const Impl::Place* place = impl_->find(name);
  if (place == nullptr) return std::nullopt;
  return impl_->info(*place);
}

HostTensor Checkpoint::tensor(std::string_view name) const {
  const Impl::Place* place = impl_->find(name);
  if (place == nullptr) {
    NearNames near(name);
    for (const Impl::Place other : impl_->tensors) near.offer(impl_->entry(other).name);
    throw fail(ErrorCode::kNotFound, "{}: no tensor {} among {}{}", path().string(), shown(name),
               impl_->tensors.size(), near.advice());
  }
  const SafetensorsHeader::Entry entry = impl_->entry(*place);
  if (!entry.dtype) {
    throw fail(ErrorCode::kUnsupported, "{}: tensor {} has dtype {}, which cannot be read here",
               impl_->shard_paths[place->shard].string(), shown(name), shown(entry.dtype_name));
  }
  const auto& file = impl_->files[place->shard];
  const std::byte* data = file->bytes().data() + impl_->headers[place->shard].data_offset() + entry.begin;
  return HostTensor::borrow_file(*entry.dtype, Shape(entry.shape.begin(), entry.shape.end()), data, file);
}

std::optional<std::string> Checkpoint::metadata(std::string_view key) const {
  for (const SafetensorsHeader& header : impl_->headers) {
    for (const auto& [name, value] : header.metadata()) {
      if (name == key) return value;
    }
  }
  return std::nullopt;
}

const nlohmann::json& config_json(const Checkpoint& checkpoint) { return checkpoint.impl().config; }

const nlohmann::json& sibling_json(const Checkpoint& checkpoint, const char* file_name) {
  const Checkpoint::Impl& impl = checkpoint.impl();
  std::lock_guard lock(impl.siblings_mutex);
  const auto known = impl.siblings.find(file_name);
  if (known != impl.siblings.end()) return known->second;
  std::error_code error;
  const fs::path path = impl.path / file_name;  // nothing lies beside a single file
  nlohmann::json value;
  if (fs::is_directory(impl.path, error) && is_there(path)) value = read_json_file(path, kMaxConfigBytes);
  return impl.siblings.emplace(file_name, std::move(value)).first->second;
}

nlohmann::json read_json_file(const fs::path& path, size_t max_bytes) {
  const auto file = map_bounded(path, max_bytes);
  try {
    return read_json(text_of(*file), max_bytes / kTextBytesPerValue);
  } catch (Error& error) {
    error.in(path.string());
    throw;
  }
}

}  // namespace anyfp8
