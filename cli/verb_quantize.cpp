#include <algorithm>
#include <chrono>
#include <fstream>
#include <regex>

#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/scheme/format.h"
#include "cli/arguments.h"
#include "cli/model_layers.h"
#include "cli/quantized_config.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLongestPattern = 512;

struct Arguments {
  fs::path in, out;
  QuantizeScheme scheme = QuantizeScheme::kBlock;
  std::optional<Dialect> dialect;
  std::vector<std::regex> ignore;
  bool force = false;
};

struct Done {
  size_t layers = 0, parameters = 0, bytes_before = 0, bytes_after = 0;
};

// Linear weights: 2-D, 16 or 32 bit. Embeddings are looked up, lm_head and a mixture's router decide between
// near equal numbers; no published FP8 model quantises those three.
bool is_quantizable(const TensorInfo& tensor, const std::vector<std::regex>& ignore, std::string& module) {
  constexpr std::string_view kSuffix = ".weight";
  if (!tensor.name.ends_with(kSuffix) || tensor.shape.size() != 2 || tensor.bytes == 0) return false;
  if (!tensor.dtype || !is_float16_or_32(*tensor.dtype)) return false;
  module = tensor.name.substr(0, tensor.name.size() - kSuffix.size());
  const std::string last = module.substr(module.rfind('.') + 1);
  if (is_embedding(module) || last == "lm_head" || last == "router" || module.ends_with("mlp.gate"))
    return false;
  return std::none_of(ignore.begin(), ignore.end(),
                      [&](const std::regex& r) { return std::regex_search(module, r); });
}

void refuse_quantized(const Checkpoint& checkpoint) {
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (tensor.dtype && is_float8(*tensor.dtype)) {
      throw fail(ErrorCode::kUnsupported,
                 "{} is quantised already ({} is {}); quantize starts from 16- or 32-bit weights",
                 checkpoint.path().string(), tensor.name, tensor.dtype_name);
    }
  }
  if (config_json(checkpoint).contains("quantization_config")) {
    throw fail(ErrorCode::kUnsupported,
               "{} is quantised already (its config.json has a quantization_config); quantize starts from "
               "16- or 32-bit weights",
               checkpoint.path().string());
  }
}

// A folder that is built under another name and gets its own when it is whole.
class NewFolder {
 public:
  NewFolder(const fs::path& target, const fs::path& source, bool force) : target_(target) {
    if (target_.filename().empty()) target_ = target_.parent_path();  // "out/"
    building_ = target_;
    building_ += ".anyfp8-partial";
    if (fs::exists(target_)) {
      if (!force)
        throw fail(ErrorCode::kInvalidArgument,
                   "{} exists; name another folder, or add --force to replace it", target.string());
      if (fs::equivalent(target_, source))
        throw fail(ErrorCode::kInvalidArgument, "{} is the input itself; name another folder",
                   target.string());
      check_replaceable();
    }
    fs::remove_all(building_);
    fs::create_directories(building_);
  }
  ~NewFolder() {
    std::error_code ignored;
    fs::remove_all(building_, ignored);
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  const fs::path& path() const { return building_; }
  void finish() {
    fs::remove_all(target_);
    fs::rename(building_, target_);
  }

 private:
  // --force must not empty a folder that holds other things than a model.
  void check_replaceable() const {
    bool safe = fs::is_directory(target_) && (fs::is_empty(target_) || fs::exists(target_ / "config.json"));
    if (safe) {
      for (const fs::directory_entry& entry : fs::directory_iterator(target_)) safe &= !entry.is_directory();
    }
    if (!safe) {
      throw fail(ErrorCode::kInvalidArgument,
                 "{} is no model folder (config.json and files only), so --force does not replace it",
                 target_.string());
    }
  }
  fs::path target_, building_;
};

// Tokenizer, generation settings, licence: every file beside the weights that is no weight.
void copy_small_files(const fs::path& in, const fs::path& out) {
  constexpr uintmax_t kSmallBytes = 100'000'000;
  constexpr std::string_view kWeights[] = {".safetensors", ".bin",  ".pt", ".pth",
                                           ".gguf",        ".onnx", ".h5", ".msgpack"};
  for (const fs::directory_entry& entry : fs::directory_iterator(in)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    if (!entry.is_regular_file() || name.starts_with(".") || name == "config.json" ||
        name.ends_with(".index.json"))
      continue;
    if (std::find(std::begin(kWeights), std::end(kWeights), extension) != std::end(kWeights)) continue;
    if (entry.file_size() <= kSmallBytes) fs::copy_file(entry.path(), out / name);
  }
}

nlohmann::ordered_json read_config_in_order(const fs::path& path) {
  std::ifstream file(path);
  return nlohmann::ordered_json::parse(file);  // Checkpoint::open has checked it
}

// One shard in, one shard out: memory holds the FP8 tensors of one file, the rest are views of the input.
Done quantize_shards(const Checkpoint& checkpoint, const Arguments& arguments, Dialect dialect,
                     const fs::path& out, std::vector<std::string>& unquantized) {
  const std::vector<TensorInfo> tensors = checkpoint.tensors();
  ProgressBar bar("quantising", static_cast<double>(checkpoint.file_bytes()));
  nlohmann::ordered_json weight_map;
  size_t total_size = 0;
  Done done;
  for (size_t shard = 0; shard < checkpoint.shard_paths().size(); ++shard) {
    const std::string file_name = checkpoint.shard_paths()[shard].filename().string();
    std::vector<NamedTensor> written;
    for (const TensorInfo& tensor : tensors) {
      if (tensor.shard != static_cast<int>(shard)) continue;
      const std::string name(tensor.name);
      std::string module;
      if (!is_quantizable(tensor, arguments.ignore, module)) {
        // lm_head is listed by all who read such lists, also where it is tied.
        if (!module.empty() && !is_embedding(module) && module != "lm_head") unquantized.push_back(module);
        written.push_back({name, checkpoint.tensor(name)});
      } else {
        const DType scale_dtype = scale_dtype_for(dialect, arguments.scheme, *tensor.dtype);
        try {
          const Fp8Weight weight = quantize(checkpoint.tensor(name), arguments.scheme, scale_dtype);
          for (NamedTensor& part : spelled(dialect, arguments.scheme, module, weight, scale_dtype)) {
            done.bytes_after += part.tensor.size_bytes();
            written.push_back(std::move(part));
          }
        } catch (Error& error) {
          error.in(name);
          throw;
        }
        ++done.layers;
        done.parameters += static_cast<size_t>(tensor.shape[0] * tensor.shape[1]);
        done.bytes_before += tensor.bytes;
      }
      bar.advance(static_cast<double>(tensor.bytes), name);
    }
    for (const NamedTensor& tensor : written) {
      weight_map[tensor.name] = file_name;
      total_size += tensor.tensor.size_bytes();
    }
    write_safetensors(out / file_name, written);
  }
  if (checkpoint.shard_paths().size() > 1) {
    const nlohmann::ordered_json index = {{"metadata", {{"total_size", total_size}}},
                                          {"weight_map", std::move(weight_map)}};
    write_text_file(out / "model.safetensors.index.json", index.dump(2) + "\n");
  }
  return done;
}

int run_quantize(const Arguments& arguments) {
  const auto begin = std::chrono::steady_clock::now();
  const Dialect dialect = arguments.dialect.value_or(
      arguments.scheme == QuantizeScheme::kChannel ? Dialect::kCompressedTensors : Dialect::kFp8);
  const Checkpoint checkpoint = Checkpoint::open(arguments.in);
  if (!fs::is_directory(arguments.in) || !fs::exists(arguments.in / "config.json")) {
    throw fail(ErrorCode::kInvalidArgument, "{} has no config.json; quantize needs a model folder with one",
               arguments.in.string());
  }
  refuse_quantized(checkpoint);
  NewFolder folder(arguments.out, arguments.in, arguments.force);
  std::vector<std::string> unquantized{"lm_head"};
  const Done done = quantize_shards(checkpoint, arguments, dialect, folder.path(), unquantized);
  if (done.layers == 0) {
    throw fail(ErrorCode::kInvalidArgument,
               "no layer of {} is left to quantise; `anyfp8 inspect` lists them, --ignore takes them out",
               arguments.in.string());
  }
  nlohmann::ordered_json config = read_config_in_order(arguments.in / "config.json");
  config["quantization_config"] = quantization_config_for(dialect, arguments.scheme, unquantized);
  write_text_file(folder.path() / "config.json", config.dump(2) + "\n");
  copy_small_files(arguments.in, folder.path());
  folder.finish();

  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  print_out(
      "{}: {} layers, {} parameters, {} -> {} ({:.4f} bytes per parameter) in {}\n",
      styled(Style::kBold, printable(arguments.out.string()), stdout), done.layers,
      count_text(static_cast<double>(done.parameters)), bytes_text(static_cast<double>(done.bytes_before)),
      bytes_text(static_cast<double>(done.bytes_after)),
      static_cast<double>(done.bytes_after) / static_cast<double>(done.parameters), seconds_text(seconds));
  return 0;
}

}  // namespace

void add_quantize(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb =
      add_verb(app, "quantize", "Write an FP8 copy of a 16-bit model",
               "anyfp8 quantize models/qwen3-8b models/qwen3-8b-fp8 --scheme block --ignore 'layers\\.0\\.'");
  verb->add_option("IN", arguments->in, "Folder of a model with 16- or 32-bit weights")
      ->type_name("")
      ->required();
  verb->add_option("OUT", arguments->out, "Folder to write")->type_name("")->required();
  verb->add_option_function<std::string>(
          "--scheme",
          [arguments](const std::string& name) {
            arguments->scheme = checked("--scheme", [&] { return quantize_scheme_from_name(name); });
          },
          "One scale per: tensor, channel, block (128 x 128), mxfp8 (1 x 32)")
      ->type_name("NAME")
      ->required();
  verb->add_option_function<std::string>(
          "--dialect",
          [arguments](const std::string& name) {
            if (name != "fp8" && name != "compressed-tensors") {
              throw CLI::ValidationError("--dialect", name + " is none of fp8, compressed-tensors");
            }
            arguments->dialect = name == "fp8" ? Dialect::kFp8 : Dialect::kCompressedTensors;
          },
          "fp8 or compressed-tensors (default: fp8; for channel the latter)")
      ->type_name("NAME");
  verb->add_option_function<std::vector<std::string>>(
          "--ignore",
          [arguments](const std::vector<std::string>& patterns) {
            for (const std::string& pattern : patterns) {
              if (pattern.size() > kLongestPattern)
                throw CLI::ValidationError("--ignore", "a pattern longer than 512 characters");
              try {
                arguments->ignore.emplace_back(pattern, std::regex::ECMAScript | std::regex::optimize);
              } catch (const std::regex_error&) {
                throw CLI::ValidationError("--ignore", pattern + " is no regular expression");
              }
            }
          },
          "Leave layers whose name has a match as they are (may be repeated)")
      ->type_name("REGEX")
      ->allow_extra_args(false);
  verb->add_flag("--force", arguments->force, "Replace OUT when it is a model folder");
  verb->callback([arguments, &run] {
    if (arguments->dialect)
      checked("--dialect", [&] { check_dialect(*arguments->dialect, arguments->scheme); });
    run = [arguments] { return run_quantize(*arguments); };
  });
}

}  // namespace anyfp8::cli
