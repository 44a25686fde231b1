#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "anyfp8/base/log.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

constexpr int kOk = 0, kFailed = 1, kUsage = 2;

std::string version_text() {
#if defined(__clang__)
  const std::string compiler =
      fmt::format("clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
  const std::string compiler = fmt::format("gcc {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
#if defined(ANYFP8_HAVE_CUDA)
  const char* cuda = "yes";
#else
  const char* cuda = "no";
#endif
#if defined(ANYFP8_HAVE_ICU)
  const char* icu = "yes";
#else
  const char* icu = "no (so no tokenizer)";
#endif
#if defined(_OPENMP)
  const char* openmp = "yes";
#else
  const char* openmp = "no (so one thread)";
#endif
  return fmt::format("anyfp8 {}\ncompiler  {}\ncuda      {}\nicu       {}\nopenmp    {}", ANYFP8_VERSION,
                     compiler, cuda, icu, openmp);
}

// One line: of an error with a line for each kernel the first.
void print_failure(std::string_view text) {
  std::string line = printable(text.substr(0, text.find(":\n")));
  if (line.size() < text.size() && text.find(":\n") != std::string_view::npos)
    line += " (anyfp8 plan MODEL shows every kernel's reason)";
  print_err("{} {}\n", styled(Style::kRed, "anyfp8: error:", stderr), line);
}

int usage_failure(std::string_view text, std::string_view verb) {
  print_failure(text);
  print_err("see anyfp8 {}--help\n", verb.empty() ? "" : fmt::format("{} ", verb));
  return kUsage;
}

// A program started with stdin, stdout or stderr closed would get these numbers for the files it opens, and
// print into them. Nothing can be said without stdout.
void occupy_standard_streams() {
  const bool silent = fcntl(STDOUT_FILENO, F_GETFD) == -1;
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", O_RDWR) != fd) std::_Exit(kFailed);
  }
  if (silent) throw fail(ErrorCode::kIo, "standard output is closed");
}

void log_to_stderr(int verbosity) {
  const LogLevel least = verbosity >= 2   ? LogLevel::kDebug
                         : verbosity == 1 ? LogLevel::kInfo
                                          : LogLevel::kWarning;
  set_verbosity(verbosity);
  // The library passes on what ANYFP8_LOG allows; -v is asked for more plainly than that.
  if (verbosity > 0) setenv("ANYFP8_LOG", verbosity >= 2 ? "debug" : "info", 1);
  set_log_sink([least](LogLevel level, std::string_view text) {
    if (level < least && std::getenv("ANYFP8_LOG") == nullptr) return;
    const char* name = level == LogLevel::kWarning ? "warning" : level == LogLevel::kInfo ? "info" : "debug";
    print_err("{} {}\n",
              styled(level == LogLevel::kWarning ? Style::kYellow : Style::kDim,
                     fmt::format("anyfp8: {}:", name), stderr),
              printable(text));
  });
  log_message(LogLevel::kDebug, printable(version_text()));
}

// "--max-tokens N" with ranges left to the error messages, defaults behind the description, and no shouting.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option_opts(const CLI::Option* option) const override {
    const std::string type = option->get_type_name();  // "N:INT in [1 - 8]": the checks follow a colon
    return option->get_type_size() == 0 || type.empty() ? "" : " " + type.substr(0, type.find(':'));
  }
  std::string make_option_desc(const CLI::Option* option) const override {
    const std::string preset = option->get_default_str();
    return option->get_description() + (preset.empty() ? "" : " (default " + preset + ")");
  }
};

int program(int argc, char** argv) {
  Run run;
  CLI::App app(
      "Runs the linear layers of FP8 models on any hardware,\nand says which kernel runs which layer.",
      "anyfp8");
  app.formatter(std::make_shared<HelpFormatter>());
  app.get_formatter()->column_width(28);
  int verbosity = 0;
  app.add_flag_callback(
      "--version", [] { throw CLI::CallForVersion(version_text(), 0); }, "Version, compiler, features");
  app.add_flag("-v,--verbose", verbosity, "Say more on stderr; twice: everything");
  app.add_flag_callback("--no-color", forbid_color, "No colours (also: NO_COLOR in the environment)");
  app.require_subcommand(0, 1);
  app.footer(
      "Every verb has --help with an example; those that print a table have --json.\n"
      "Example:\n  anyfp8 generate models/kjv-qwen3-fp8 --prompt \"In the beginning\"");
  for (const auto add : {add_devices, add_kernels, add_inspect, add_plan, add_verify, add_generate,
                         add_perplexity, add_tokenize, add_quantize, add_bench, add_tune}) {
    add(app, run);
  }
  const auto verb = [&app] {
    const auto parsed = app.get_subcommands();
    return parsed.empty() ? std::string() : parsed.front()->get_name();
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const auto parsed = app.get_subcommands();
    write_out(parsed.empty() ? app.help() : parsed.front()->help("anyfp8"));
    return kOk;
  } catch (const CLI::CallForVersion& version) {
    print_out("{}\n", version.what());
    return kOk;
  } catch (const CLI::ExtrasError& error) {
    const std::vector<std::string> rest = app.remaining();
    if (!verb().empty() || rest.empty() || rest.front().starts_with("-"))
      return usage_failure(error.what(), verb());
    std::vector<std::string> verbs;
    for (const CLI::App* one : app.get_subcommands({})) verbs.push_back(one->get_name());
    return usage_failure(
        fmt::format("there is no verb {}; the verbs are {}", rest.front(), fmt::join(verbs, ", ")), "");
  } catch (const CLI::ParseError& error) {
    return usage_failure(error.what(), verb());
  }
  if (!run) {
    print_err("{}", app.help());
    return kUsage;
  }
  log_to_stderr(verbosity);
  return run();
}

}  // namespace
}  // namespace anyfp8::cli

int main(int argc, char** argv) {
  using namespace anyfp8::cli;
  int code = kFailed;
  try {
    occupy_standard_streams();
    std::signal(SIGPIPE, SIG_IGN);
    code = program(argc, argv);
    flush_out();
  } catch (const OutputClosed&) {
    return kOk;
  } catch (const anyfp8::Error& error) {
    print_failure(error.what());
    return kFailed;
  } catch (const std::bad_alloc&) {
    print_failure("out of memory; close other programs, or ask for less at once");
    return kFailed;
  } catch (const std::filesystem::filesystem_error& error) {
    print_failure(fmt::format("{}: {}", error.path1().string(), error.code().message()));
    return kFailed;
  } catch (const std::exception& error) {
    print_failure(
        fmt::format("{}; this is a bug in anyfp8, please report it with the command line", error.what()));
    return kFailed;
  }
  return code;
}
