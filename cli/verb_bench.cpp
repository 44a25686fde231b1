#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "anyfp8/base/element.h"
#include "anyfp8/base/mapped_file.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/linear/linear.h"
#include "cli/arguments.h"
#include "cli/bench_cuda.h"
#include "cli/bench_kernel.h"
#include "cli/bench_machine.h"
#include "cli/bench_peers.h"
#include "cli/bench_report.h"
#include "cli/bench_rounds.h"
#include "cli/bench_tp.h"
#include "cli/bench_weights.h"
#include "cli/shape_arguments.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

struct Arguments {
  DeviceChoice device;
  std::vector<MatrixShape> shapes;
  std::vector<int64_t> tokens{1, 4, 16};
  std::vector<std::string> kernels{"chosen"};  // names, "all", and the one that selection takes
  std::vector<std::string> schemes{"channel"};
  LinearOptions linear;
  double seconds = 0.5;
  bool peers = false, json = false, tp = false;
  std::string command;  // this program's command line
};

bool on_cuda(const Arguments& arguments) { return arguments.device.device().kind == DeviceKind::kCuda; }

BenchMethods make_peers(const Linear& linear, const Fp8Weight& weight) {
  return linear.device().kind == DeviceKind::kCuda ? cuda_peer_methods(linear, weight) : peer_methods(linear);
}

// Names of kernels to measure for one layer; "": whatever selection takes for each m.
std::vector<std::string> kernels_for(const Arguments& arguments, const LinearConfig& config,
                                     const Device& device, const std::vector<std::string>& disabled) {
  std::vector<std::string> names;
  for (const std::string& asked : arguments.kernels) {
    if (asked != "all") {
      names.push_back(asked == "chosen" ? "" : asked);
      continue;
    }
    for (const Kernel* kernel : all_kernels()) {
      const bool kept = std::find(disabled.begin(), disabled.end(), kernel->name) == disabled.end();
      if (kept && kernel->apply != nullptr && can_implement(*kernel, config, device))
        names.emplace_back(kernel->name);
    }
  }
  drop_repeats(names);  // all and a name
  return names;
}

// Everything that is timed on one shape: kernels first, then peers, then the machine's limits.
BenchMethods make_methods(const Arguments& arguments, const Device& device, MatrixShape shape) {
  BenchMethods methods;
  BenchMethods peers;
  size_t first_bytes = 0;
  const SelectOptions environment = SelectOptions::from_environment();
  for (size_t index = 0; index < arguments.schemes.size(); ++index) {
    const std::string& scheme = arguments.schemes[index];
    const std::vector<Fp8Weight> weights = copies_of(random_weight(shape, scheme), device);
    const LinearConfig config = linear_config(weights.front(), arguments.linear);
    for (const std::string& asked : kernels_for(arguments, config, device, environment.disable)) {
      SelectOptions select = environment;
      if (!asked.empty()) select.force = asked;
      std::vector<Linear> copies;
      for (const Fp8Weight& weight : weights)
        copies.push_back(Linear::create(device, weight, arguments.linear, select));
      if (first_bytes == 0) {
        first_bytes = weights.front().resident_bytes();
        if (arguments.peers) peers = make_peers(copies.front(), weights.front());
      }
      auto method = kernel_method(std::move(copies), weights.front().resident_bytes());
      method->asked = asked;
      method->scheme = scheme;
      method->scheme_index = static_cast<int>(index);
      methods.push_back(std::move(method));
    }
  }
  if (methods.empty()) {
    throw fail(ErrorCode::kUnsupported, "no kernel of this build {}can run weights {} with activations {}",
               environment.disable.empty() ? "" : "but those of ANYFP8_DISABLE ",
               fmt::join(arguments.schemes, ", "), dtype_name(arguments.linear.in));
  }
  std::move(peers.begin(), peers.end(), std::back_inserter(methods));
  methods.push_back(read_method(device, first_bytes));
  if (peak_known(device, arguments.linear.in)) methods.push_back(peak_method(device, arguments.linear.in));
  return methods;
}

double relative_difference(const HostTensor& a, const HostTensor& b) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double x = load_element(a.data(), a.dtype(), i), y = load_element(b.data(), b.dtype(), i);
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(difference / std::max(norm, 1e-30));
}

// A peer is worth its row only if it did the same work: the first kernel's y, up to bf16's rounding, or that
// of activations where one of the two has quantised them.
Verdict check_peer(const BenchMethod& peer, const BenchMethod& kernel) {
  // 2^-8 for y of bf16, and as much for weights of f16 in bf16; half a step of e4m3 is 2^-4 at most.
  const double most = quantises_activations(kernel.scheme) ? 0.05 : 0.01;
  const double difference = relative_difference(peer.result(), kernel.result());
  ANYFP8_NEED(difference <= most, "its y is not that of {}: relative difference {:.2g}, allowed {}",
              kernel.name, difference, most);
  return Verdict::yes();
}

std::vector<BenchRow> measure(const BenchMethods& methods, const Arguments& arguments, MatrixShape shape,
                              int64_t m) {
  // A replay of a graph is a mean already; so many of them show what the card's clocks do.
  constexpr size_t kLeastReplays = 15;
  const Activations activations = random_activations(m, shape.k, arguments.linear.in, arguments.linear.out);
  std::vector<MeasuredMethod> measured;
  std::vector<BenchMethod*> timed;
  for (const auto& method : methods) {
    Verdict prepared = method->prepare(activations);
    if (prepared && (measured.empty() || method->kind == BenchMethod::Kind::kPeer)) method->run(0);
    if (prepared && method->kind == BenchMethod::Kind::kPeer)
      prepared = check_peer(*method, *methods.front());
    if (prepared) timed.push_back(method.get());
    measured.push_back({method.get(), std::move(prepared)});
  }
  return make_rows(measured, measure_rounds(timed, arguments.seconds, on_cuda(arguments) ? kLeastReplays : 0),
                   shape, m);
}

// As a shell reads it.
std::string shell_word(const std::string& word) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) || std::strchr("-_=+,./:@%", c) != nullptr;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

// This program's command line after the variables that it looks at, so that a row says how to get it again.
std::string command_line() {
  std::set<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (!text.starts_with("ANYFP8_")) continue;
    const size_t value = text.find('=') + 1;
    variables.insert(
        fmt::format("{}{} ", text.substr(0, value), shell_word(std::string(text.substr(value)))));
  }
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string word;
  std::getline(file, word, '\0');
  std::string command = fmt::format("{}anyfp8", fmt::join(variables, ""));
  while (std::getline(file, word, '\0')) command += " " + shell_word(word);
  return command;
}

int run_bench(const Arguments& arguments) {
  const Device device = arguments.device.device();
  const bool cuda = on_cuda(arguments);
  const int threads = cuda ? 1 : num_threads();  // of the host: one queues the work
  const std::string isa =
      cuda ? fmt::format("sm_{}{}", device.cc.major, device.cc.minor) : isa_text(device.isa);
  const std::string peers = !arguments.peers ? "" : cuda ? cuda_peers_text() : peers_text();
  nlohmann::json head{{"schema_version", 1},
                      {"device", device.name},
                      {"isa", isa},
                      {"threads", threads},
                      {"activations", dtype_name(arguments.linear.in)},
                      {"command", arguments.command}};
  if (arguments.peers) head["peers"] = peers;
  if (!arguments.json) {
    print_out("{} ({}), {} thread{}, activations {}{}{}\n", device.name, isa, threads,
              threads == 1 ? "" : "s", dtype_name(arguments.linear.in), arguments.peers ? "; peers: " : "",
              peers);
  }
  if (const Verdict known = peak_known(device, arguments.linear.in); !known)
    print_err("{}\n", known.reason());
  std::vector<BenchRow> all;
  for (const MatrixShape shape : arguments.shapes) {
    std::vector<BenchRow> rows;
    {
      const std::string title = fmt::format("{}x{}", shape.n, shape.k);
      ProgressBar bar(title, static_cast<double>(arguments.tokens.size()), !arguments.json);
      bar.advance(0, "filling the weights");
      const BenchMethods methods = make_methods(arguments, device, shape);
      for (const int64_t m : arguments.tokens) {
        for (BenchRow& row : measure(methods, arguments, shape, m)) {
          if (arguments.json) print_json_line(row_json(head, row));
          rows.push_back(std::move(row));
        }
        bar.advance(1, fmt::format("m {}", m));
      }
    }
    if (!arguments.json) {
      print_out("\n{}\n", styled(Style::kBold, fmt::format("{} x {}", shape.n, shape.k), stdout));
      write_out(rows_text(rows));
      flush_out();
    }
    std::move(rows.begin(), rows.end(), std::back_inserter(all));
  }
  const std::vector<BenchMean> means = make_means(all);
  if (arguments.json) {
    for (const BenchMean& mean : means) print_json_line(mean_json(head, mean));
  } else if (arguments.shapes.size() > 1) {
    print_out("\n{}\n", styled(Style::kBold, "geometric mean over the shapes", stdout));
    write_out(means_text(means));
  }
  write_err(disturbance_text(all));
  return 0;
}

int run_tp(const Arguments& arguments) {
  return run_tp_bench({.device = arguments.device.device(),
                       .shapes = arguments.shapes,
                       .tokens = arguments.tokens,
                       .schemes = arguments.schemes,
                       .linear = arguments.linear,
                       .seconds = arguments.seconds,
                       .json = arguments.json,
                       .command = arguments.command});
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = add_verb(app, "bench", "Measure kernels on random weights",
                            "anyfp8 bench --shape 4096x4096 --m 1,16 --kernel all --scheme channel,block");
  add_device(*verb, arguments->device, false);
  add_shapes(*verb, arguments->shapes, "Llama-3-8B's");
  verb->add_option("--m", arguments->tokens, "Token counts")
      ->type_name("M,M")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->default_str("1,4,16")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16));
  verb->add_option_function<std::vector<std::string>>(
          "--kernel",
          [arguments](const std::vector<std::string>& names) {
            for (const std::string& name : names) {
              if (name != "all" && name != "chosen") check_kernel_name("--kernel", name);
            }
            arguments->kernels = names;
          },
          "Kernels, all, and chosen: the one that selection takes")
      ->type_name("A,B")
      ->default_str("chosen")
      ->delimiter(',')
      ->allow_extra_args(false);
  verb->add_option(
          "--scheme", arguments->schemes,
          "tensor, channel, block, mxfp8, bf16 or f16; w8a8-static, -tensor, -channel or -block to quantise "
          "activations too; several are compared with the first")
      ->type_name("A,B")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->default_str("channel")
      ->check(CLI::IsMember(scheme_names()));
  add_activations(*verb, arguments->linear.in, {"bf16", "f16", "f32"});
  verb->add_option("--seconds", arguments->seconds, "Time for each row")
      ->type_name("S")
      ->default_str("0.5")
      ->check(number_between(0, 3600));
  add_threads(*verb);
  verb->add_flag("--peers", arguments->peers,
                 "Also oneDNN and OpenBLAS, on the same work in the same run; on CUDA always cuBLASLt");
  verb->add_flag(
          "--tp", arguments->tp,
          "Instead, the MLP k -> n -> k of each shape over the ranks that mpirun, srun or torchrun started: "
          "the products, the all-reduce, and both against one rank; --device cuda takes each rank's GPU")
      ->excludes("--kernel")
      ->excludes("--peers");
  verb->add_flag("--json", arguments->json, "One JSON object a row, a line each, instead of text");
  verb->callback([arguments, &run] {
    if (on_cuda(*arguments)) {
      arguments->peers = true;
    } else if (arguments->peers && !peers_built()) {
      throw CLI::ValidationError("--peers",
                                 "this build has no peers; `./dev bench --peers` builds them in, as does "
                                 "cmake with -DANYFP8_BENCH_PEERS=ON");
    }
    arguments->linear.out = arguments->linear.in;
    if (arguments->shapes.empty()) arguments->shapes = default_shapes();
    drop_repeats(arguments->shapes);
    drop_repeats(arguments->tokens);
    drop_repeats(arguments->kernels);
    drop_repeats(arguments->schemes);
    arguments->command = command_line();  // here, since -v will set ANYFP8_LOG
    run = [arguments] { return arguments->tp ? run_tp(*arguments) : run_bench(*arguments); };
  });
}

}  // namespace anyfp8::cli
