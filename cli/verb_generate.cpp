#include <charconv>
#include <csignal>

#include "anyfp8/model/generate.h"
#include "cli/arguments.h"
#include "cli/model_arguments.h"
#include "cli/ranks.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

constexpr int kInterrupted = 130;  // 128 + SIGINT, as shells report it

volatile std::sig_atomic_t interrupted = 0;

// The first Ctrl-C ends the text after the token under way; the second one ends the program.
void end_on_interrupt() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
}

struct Arguments {
  ModelArguments model;
  std::string prompt;
  GenerateOptions generate;
};

// What the ranks must have in common so that each samples the same token.
std::string request_text(const Arguments& arguments) {
  const SamplerOptions& sampler = arguments.generate.sampler;
  return fmt::format("--prompt {:?} --max-tokens {} --temperature {} --top-k {} --top-p {} --seed {}{}",
                     arguments.prompt, arguments.generate.max_tokens, sampler.temperature, sampler.top_k,
                     sampler.top_p, sampler.seed, arguments.generate.ignore_eos ? " --ignore-eos" : "");
}

void report(const GenerateStats& stats, size_t weight_bytes) {
  const auto rate = [](int64_t tokens, double seconds) {
    return tokens > 0 && seconds > 0 ? fmt::format("{:.1f} tokens/s", static_cast<double>(tokens) / seconds)
                                     : std::string("-");
  };
  const char* end = stats.stop == StopReason::kEndOfText   ? "end of text"
                    : stats.stop == StopReason::kMaxTokens ? "--max-tokens reached"
                                                           : "interrupted";
  const auto count = [](int64_t tokens) {
    return tokens == 1 ? std::string("1 token") : fmt::format("{} tokens", tokens);
  };
  print_err("prompt {}, {}; generated {}, {}; {}\n", count(stats.prompt_tokens),
            rate(stats.prompt_tokens, stats.prefill_seconds), count(stats.generated_tokens),
            rate(stats.decode_steps, stats.decode_seconds), end);
  if (stats.decode_steps == 0 || stats.decode_seconds <= 0) return;
  const double bytes = static_cast<double>(weight_bytes);  // all of them, once for each token
  print_err("{} of weights for each generated token, {:.1f} GB/s\n", bytes_text(bytes),
            bytes * static_cast<double>(stats.decode_steps) / stats.decode_seconds * 1e-9);
}

// Rank 0 writes the text; the others compute it too, and stop where it does.
int run_on(Comm& comm, Arguments arguments) {
  const bool first = comm.rank() == 0;
  arguments.model.options.comm = &comm;
  if (!first) arguments.model.quiet = true;
  comm.agree("request", request_text(arguments));
  OpenedModel opened =
      open_model(arguments.model, [&](const Tokenizer& tokenizer, const ModelConfig& config) {
        check_request(config, static_cast<int64_t>(tokenizer.encode(arguments.prompt).size()),
                      arguments.generate);
      });
  const bool watched = is_terminal(stdout) && is_terminal(stderr) && !arguments.model.quiet;
  if (!arguments.model.quiet) print_err("\n");
  // A person sees the prompt in front of its continuation; stdout gets the continuation alone.
  if (watched) print_err("{}", styled(Style::kDim, printable(arguments.prompt), stderr));
  end_on_interrupt();
  const GenerateStats stats = generate(opened.model, opened.tokenizer, arguments.prompt, arguments.generate,
                                       [&](std::string_view text) {
                                         if (first) write_out(text);
                                         if (first) flush_out();
                                         auto go_on = static_cast<char>(interrupted == 0);
                                         comm.broadcast(&go_on, 1, 0);
                                         return go_on != 0;
                                       });
  if (first && is_terminal(stdout)) {
    write_out("\n");
    flush_out();
  }
  if (!arguments.model.quiet) {
    print_err("\n");
    report(stats, opened.model.linear_bytes());
  }
  return stats.stop == StopReason::kCaller ? kInterrupted : 0;
}

int run_generate(const Arguments& arguments) {
  return on_ranks(cpu_device(), [&](Comm& comm) { return run_on(comm, arguments); });
}

}  // namespace

void add_generate(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = add_verb(app, "generate", "Continue a text with a model",
                            "anyfp8 generate models/kjv-qwen3-fp8 --prompt \"In the beginning\" --top-k 40");
  SamplerOptions& sampler = arguments->generate.sampler;
  verb->add_option("--prompt", arguments->prompt, "The text to continue")->type_name("TEXT")->required();
  verb->add_option("--max-tokens", arguments->generate.max_tokens, "Most tokens to generate")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  verb->add_option("--temperature", sampler.temperature, "0 is greedy")
      ->type_name("T")
      ->default_str("0")
      ->check(number_between(0, 100));
  verb->add_option("--top-k", sampler.top_k, "One of the k likeliest tokens; 0: of all")
      ->type_name("K")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31));
  verb->add_option("--top-p", sampler.top_p, "One of the likeliest that make up p")
      ->type_name("P")
      ->default_str("1")
      ->check(number_between(1e-9, 1));
  verb->add_option_function<std::string>(
          "--seed",
          [&sampler](const std::string& text) {
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), sampler.seed);
            if (error != std::errc{} || end != text.data() + text.size())
              throw CLI::ValidationError("--seed", text + " is not a number from 0 to 18446744073709551615");
          },
          "The same seed gives the same text")
      ->type_name("N")
      ->default_str("0");
  verb->add_flag("--ignore-eos", arguments->generate.ignore_eos, "Go on after an end-of-text token");
  add_model_arguments(*verb, arguments->model);
  verb->callback([arguments, &run] { run = [arguments] { return run_generate(*arguments); }; });
}

}  // namespace anyfp8::cli
