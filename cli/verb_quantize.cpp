#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>

#include "anyfp8/base/log.h"
#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/scheme/format.h"
#include "cli/arguments.h"
#include "cli/model_layers.h"
#include "cli/output_folder.h"
#include "cli/quantized_config.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLongestPattern = 512, kLongestName = 512;

// libstdc++'s usual executor backtracks, without bound in time and with a stack frame for each character of
// the name; the breadth-first one has neither fault.
#if defined(__GLIBCXX__)
constexpr auto kRegexFlags = std::regex::ECMAScript | std::regex_constants::__polynomial;
#else
constexpr auto kRegexFlags = std::regex::ECMAScript;
#endif

struct Ignore {
  std::string pattern;
  std::regex regex;
};

struct Arguments {
  fs::path in, out;
  QuantizeScheme scheme = QuantizeScheme::kBlock;
  std::optional<Dialect> dialect;
  std::vector<Ignore> ignore;
  bool force = false;
};

struct Done {
  size_t layers = 0, parameters = 0, bytes_before = 0, bytes_after = 0;
  std::vector<std::string> unquantized{"lm_head"};  // listed by all who read such lists, also where tied
  std::set<std::string> unused_patterns;
};

// "<module>" of a 2-D `<module>.weight` of 16 or 32 bit; empty for other tensors.
std::string linear_module(const TensorInfo& tensor) {
  constexpr std::string_view kSuffix = ".weight";
  if (!tensor.name.ends_with(kSuffix) || tensor.shape.size() != 2 || tensor.bytes == 0) return {};
  if (!tensor.dtype || !is_float16_or_32(*tensor.dtype)) return {};
  return std::string(tensor.name.substr(0, tensor.name.size() - kSuffix.size()));
}

// Embeddings are looked up, lm_head and a mixture's routers decide between near equal numbers; no published
// FP8 model quantises those three.
bool stays_16bit(const std::string& module) {
  const std::string last = module.substr(module.rfind('.') + 1);
  constexpr std::string_view kNames[] = {"lm_head", "gate", "shared_expert_gate", "router"};
  return is_embedding(module) || std::find(std::begin(kNames), std::end(kNames), last) != std::end(kNames);
}

bool is_ignored(const std::string& module, const std::vector<Ignore>& ignore,
                std::set<std::string>& unused_patterns) {
  bool ignored = false;
  if (module.size() > kLongestName) return false;
  for (const Ignore& one : ignore) {
    if (!std::regex_search(module, one.regex)) continue;
    ignored = true;
    unused_patterns.erase(one.pattern);
  }
  return ignored;
}

void refuse_quantized(const Checkpoint& checkpoint) {
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (tensor.dtype && is_float8(*tensor.dtype)) {
      throw fail(ErrorCode::kUnsupported,
                 "{} is quantised already ({} is {}); quantize starts from 16- or 32-bit weights",
                 checkpoint.path().string(), tensor.name, tensor.dtype_name);
    }
  }
  const nlohmann::json& config = config_json(checkpoint);
  const auto found = config.find("quantization_config");
  if (found != config.end() && !found->is_null()) {
    throw fail(ErrorCode::kUnsupported,
               "{} is quantised already (its config.json has a quantization_config); quantize starts from "
               "16- or 32-bit weights",
               checkpoint.path().string());
  }
}

// Tokenizer, generation settings, licence: every file beside the weights that is no weight.
std::set<std::string> small_files(const fs::path& in) {
  constexpr uintmax_t kSmallBytes = 100'000'000;
  constexpr std::string_view kWeights[] = {".safetensors", ".bin",  ".pt", ".pth",
                                           ".gguf",        ".onnx", ".h5", ".msgpack"};
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(in)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    // reference.*: what the 16-bit model computes, which the FP8 one does not.
    if (!entry.is_regular_file() || name.starts_with(".") || name.starts_with("reference.") ||
        name == "config.json" || name.ends_with(".index.json"))
      continue;
    if (std::find(std::begin(kWeights), std::end(kWeights), extension) != std::end(kWeights)) continue;
    if (entry.file_size() <= kSmallBytes) names.insert(name);
  }
  return names;
}

// The content alone: a copy of a read-only file need not be read-only.
void copy_content(const fs::path& from, const fs::path& to) {
  std::ifstream file(from, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file) throw fail(ErrorCode::kIo, "{} cannot be read", from.string());
  write_text_file(to, text);
}

std::string shard_name(size_t shard, size_t shards) {
  return shards == 1 ? "model.safetensors"
                     : fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
}

nlohmann::ordered_json read_config_in_order(const fs::path& path) {
  std::ifstream file(path);
  return nlohmann::ordered_json::parse(file);  // Checkpoint::open has checked it
}

// One shard in, one shard out: memory holds the FP8 tensors of one file, the rest are views of the input.
Done quantize_shards(const Checkpoint& checkpoint, const Arguments& arguments, Dialect dialect,
                     const fs::path& out) {
  const std::vector<TensorInfo> tensors = checkpoint.tensors();
  ProgressBar bar("quantising", static_cast<double>(checkpoint.file_bytes()));
  nlohmann::ordered_json weight_map;
  size_t total_size = 0;
  Done done;
  for (const Ignore& one : arguments.ignore) done.unused_patterns.insert(one.pattern);
  const size_t shards = checkpoint.shard_paths().size();
  for (size_t shard = 0; shard < shards; ++shard) {
    const std::string file_name = shard_name(shard, shards);
    std::vector<NamedTensor> written;
    for (const TensorInfo& tensor : tensors) {
      if (tensor.shard != static_cast<int>(shard)) continue;
      const std::string name(tensor.name);
      const std::string module = linear_module(tensor);
      const bool ignored = is_ignored(module, arguments.ignore, done.unused_patterns);
      if (module.empty() || ignored || stays_16bit(module)) {
        if (!module.empty() && !is_embedding(module) && module != "lm_head")
          done.unquantized.push_back(module);
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
  if (shards > 1) {
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
  const std::set<std::string> copied = small_files(arguments.in);
  OutputFolder folder(arguments.out, arguments.in, copied, arguments.force);
  const Done done = quantize_shards(checkpoint, arguments, dialect, folder.path());
  if (done.layers == 0) {
    throw fail(ErrorCode::kInvalidArgument,
               "no layer of {} is left to quantise; `anyfp8 inspect` lists them, --ignore takes them out",
               arguments.in.string());
  }
  nlohmann::ordered_json config = read_config_in_order(arguments.in / "config.json");
  config["quantization_config"] = quantization_config_for(dialect, arguments.scheme, done.unquantized);
  write_text_file(folder.path() / "config.json", config.dump(2) + "\n");
  for (const std::string& name : copied) copy_content(arguments.in / name, folder.path() / name);
  folder.finish();
  for (const std::string& pattern : done.unused_patterns)
    log_message(LogLevel::kWarning, fmt::format("--ignore {} matches no layer", pattern));

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
  CLI::App* verb = add_verb(app, "quantize", "Write an FP8 copy of a 16-bit model",
                            "anyfp8 quantize qwen3-8b qwen3-8b-fp8 --scheme block --ignore 'layers\\.0\\.'");
  verb->add_option("IN", arguments->in, "Folder of a model with 16- or 32-bit weights")
      ->type_name("")
      ->required()
      ->check(not_empty());
  verb->add_option("OUT", arguments->out, "Folder to write")->type_name("")->required()->check(not_empty());
  verb->add_option_function<std::string>(
          "--scheme",
          [arguments](const std::string& name) {
            arguments->scheme = checked("--scheme", [&] { return quantize_scheme_from_name(name); });
          },
          "tensor, channel, block (128 x 128), mxfp8 (1 x 32)")
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
          "compressed-tensors (default for channel), or fp8")
      ->type_name("NAME");
  verb->add_option_function<std::vector<std::string>>(
          "--ignore",
          [arguments](const std::vector<std::string>& patterns) {
            for (const std::string& pattern : patterns) {
              if (pattern.empty() || pattern.size() > kLongestPattern)
                throw CLI::ValidationError("--ignore", "a pattern has 1 to 512 characters");
              try {
                arguments->ignore.push_back({pattern, std::regex(pattern, kRegexFlags)});
              } catch (const std::regex_error&) {
                throw CLI::ValidationError("--ignore", pattern + " is no regular expression");
              }
            }
          },
          "Leave layers with a match as they are; repeatable")
      ->type_name("REGEX")
      ->allow_extra_args(false);
  verb->add_flag("--force", arguments->force, "Replace OUT where it holds nothing but a model");
  verb->callback([arguments, &run] {
    if (arguments->dialect)
      checked("--dialect", [&] { check_dialect(*arguments->dialect, arguments->scheme); });
    run = [arguments] { return run_quantize(*arguments); };
  });
}

}  // namespace anyfp8::cli
