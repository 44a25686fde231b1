#include "anyfp8/model/perplexity.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "cli/arguments.h"
#include "cli/model_arguments.h"
#include "cli/ranks.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

struct Arguments {
  ModelArguments model;
  std::filesystem::path file;
  int64_t tokens = 8192;
  int64_t window = 256;
  bool json = false;
};

// The first `count` ids of the file's text. A file may be far larger than that, so it is read in growing
// pieces; where a piece was cut only its last few ids can differ from those of the whole text.
std::vector<int> first_ids(const Tokenizer& tokenizer, const std::filesystem::path& path, int64_t count) {
  constexpr size_t kCutIds = 256, kFirstBytes = 1 << 16;
  const auto close = [](std::FILE* f) { std::fclose(f); };
  const std::unique_ptr<std::FILE, decltype(close)> file(std::fopen(path.c_str(), "rb"), close);
  if (file == nullptr) {
    throw fail(ErrorCode::kNotFound, "{}: {}; give a text file with --file", path.string(),
               std::strerror(errno));
  }
  const size_t wanted = static_cast<size_t>(count);
  std::string text;
  for (size_t more = kFirstBytes;; more = text.size()) {
    const size_t before = text.size();
    text.resize(before + more);
    text.resize(before + std::fread(text.data() + before, 1, more, file.get()));
    if (std::ferror(file.get()) != 0) {
      throw fail(ErrorCode::kIo, "{} cannot be read: {}", path.string(), std::strerror(errno));
    }
    std::vector<int> ids = tokenizer.encode(text, /*add_special=*/false, /*parse_special=*/false);
    if (text.size() == before + more && ids.size() < wanted + kCutIds) continue;
    if (ids.size() < 2) {
      throw fail(ErrorCode::kInvalidArgument, "{} has {} tokens; a perplexity needs at least 2",
                 path.string(), ids.size());
    }
    ids.resize(std::min(ids.size(), wanted));
    return ids;
  }
}

// Rank 0 prints the result, which all of them compute.
int run_on(Comm& comm, Arguments arguments) {
  arguments.model.options.comm = &comm;
  if (comm.rank() != 0) arguments.model.quiet = true;
  OpenedModel opened = open_model(arguments.model);
  // Each target is predicted from the token before it: one id more than targets.
  const std::vector<int> ids = first_ids(opened.tokenizer, arguments.file, arguments.tokens + 1);
  const std::string_view id_bytes(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int));
  comm.agree("request", fmt::format("--window {} over {} tokens ({:x})", arguments.window, ids.size(),
                                    std::hash<std::string_view>{}(id_bytes)));
  PerplexityResult result;
  {
    ProgressBar bar("perplexity", 1, !arguments.model.quiet);
    double shown = 0;
    result = perplexity(opened.model, ids, arguments.window, [&](int64_t done, int64_t total) {
      const double part = static_cast<double>(done) / static_cast<double>(total);
      bar.advance(part - shown, fmt::format("window {} of {}", done, total));
      shown = part;
    });
  }
  const double rate = result.seconds > 0 ? static_cast<double>(result.targets) / result.seconds : 0;
  if (comm.rank() != 0) return 0;
  if (arguments.json) {
    print_json({{"schema_version", 1},
                {"model", arguments.model.path.string()},
                {"file", arguments.file.string()},
                {"perplexity", result.perplexity},
                {"tokens", result.targets},
                {"window_tokens", arguments.window},
                {"emulate_w8a8", arguments.model.options.emulate_w8a8},
                {"seconds", result.seconds},
                {"tokens_per_s", rate}});
  } else {
    print_out("perplexity {} over {} tokens in windows of {}, {:.0f} tokens/s\n",
              styled(Style::kBold, fmt::format("{:.4f}", result.perplexity), stdout), result.targets,
              arguments.window, rate);
  }
  return 0;
}

int run_perplexity(const Arguments& arguments) {
  return on_ranks(cpu_device(), [&](Comm& comm) { return run_on(comm, arguments); });
}

}  // namespace

void add_perplexity(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = add_verb(app, "perplexity", "Measure how well a model predicts a text",
                            "anyfp8 perplexity models/kjv-qwen3-fp8 --file book.txt --tokens 2048");
  verb->add_option("--file", arguments->file, "The text (UTF-8)")
      ->type_name("FILE")
      ->required()
      ->check(not_empty());
  verb->add_option("--tokens", arguments->tokens, "Predict this many tokens at most")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32));
  verb->add_option("--window", arguments->window, "Tokens seen together")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  add_model_arguments(*verb, arguments->model);
  add_json(*verb, arguments->json);
  verb->callback([arguments, &run] { run = [arguments] { return run_perplexity(*arguments); }; });
}

}  // namespace anyfp8::cli
