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
#include "cli/bench_machine.h"
#include "cli/bench_peers.h"
#include "cli/bench_report.h"
#include "cli/bench_rounds.h"
#include "cli/bench_weights.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

struct Arguments {
  DeviceChoice device;
  std::vector<MatrixShape> shapes;
  std::vector<int64_t> tokens{1, 4, 16};
  std::vector<std::string> kernels;  // names and "all"; empty: the one selection takes
  std::vector<std::string> schemes{"channel"};
  LinearOptions linear;
  double seconds = 0.5;
  bool peers = false, json = false;
  std::string command;  // this program's command line
};

bool on_cuda(const Arguments& arguments) { return arguments.device.device().kind == DeviceKind::kCuda; }

// Llama-3-8B: o_proj, gate_proj, down_proj.
const std::vector<MatrixShape> kDefaultShapes = {{4096, 4096}, {14336, 4096}, {4096, 14336}};

MatrixShape parse_shape(const std::string& text) {
  constexpr int64_t kMost = 1 << 20;
  std::istringstream stream(text);
  MatrixShape shape{0, 0};
  char by = 0;
  std::string rest;
  if (!(stream >> shape.n >> by >> shape.k) || (by != 'x' && by != 'X') || (stream >> rest) || shape.n < 1 ||
      shape.k < 1 || shape.n > kMost || shape.k > kMost) {
    throw fail(ErrorCode::kInvalidArgument, "{} is no shape; write N x K like 4096x14336, each from 1 to {}",
               text, kMost);
  }
  return shape;
}

// One N x K a line; empty lines and what follows # are skipped.
std::vector<MatrixShape> read_shapes(const std::string& path) {
  constexpr size_t kMostBytes = 1'000'000;
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  const auto bytes = file->bytes();
  if (bytes.size() > kMostBytes) {
    throw fail(ErrorCode::kInvalidArgument, "{} has {} bytes; a list of shapes has at most {}", path,
               bytes.size(), kMostBytes);
  }
  std::istringstream text(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  std::vector<MatrixShape> shapes;
  for (std::string line; std::getline(text, line);) {
    line.resize(std::min(line.find('#'), line.size()));
    if (line.find_first_not_of(" \t\r") != std::string::npos) shapes.push_back(parse_shape(line));
  }
  if (shapes.empty())
    throw fail(ErrorCode::kInvalidArgument, "{} has no shape; write one N x K a line", path);
  return shapes;
}

// A value that is given twice is measured once, in the place of the first.
template <typename Value>
void drop_repeats(std::vector<Value>& values) {
  std::vector<Value> kept;
  for (Value& value : values) {
    if (std::find(kept.begin(), kept.end(), value) == kept.end()) kept.push_back(std::move(value));
  }
  values = std::move(kept);
}

class KernelMethod : public BenchMethod {
 public:
  KernelMethod(std::vector<Linear> copies, size_t weight_bytes)
      : copies_(std::move(copies)), workspace_(copies_.front().device()), weight_bytes_(weight_bytes) {}

  Verdict prepare(const Activations& activations) override {
    const LinearConfig& config = copies_.front().config();
    const int64_t m = activations.x.shape()[0];
    name = copies_.front().selection().kernel_for(m).name;
    x_ = activations.x;
    y_ = HostTensor::allocate(activations.out, {m, config.n});
    x_view_ = {const_cast<std::byte*>(x_.data()), x_.dtype(), m, config.k, config.k};
    y_view_ = {y_.mutable_data(), y_.dtype(), m, config.n, config.n};
    workspace_.reserve(copies_.front().workspace_bytes(m));
    return Verdict::yes();
  }
  void run(size_t turn) override { copies_[turn % copies_.size()].apply(x_view_, y_view_, workspace_); }
  HostTensor result() const override { return y_; }
  double flops() const override {
    return 2.0 * static_cast<double>(y_.size()) * static_cast<double>(copies_.front().config().k);
  }
  double read_bytes() const override { return static_cast<double>(weight_bytes_); }

 private:
  std::vector<Linear> copies_;
  Workspace workspace_;
  size_t weight_bytes_;
  HostTensor x_, y_;
  TensorView x_view_, y_view_;
};

std::unique_ptr<BenchMethod> kernel_method(std::vector<Linear> copies, size_t weight_bytes) {
  if (copies.front().device().kind == DeviceKind::kCuda)
    return cuda_kernel_method(std::move(copies), weight_bytes);
  return std::make_unique<KernelMethod>(std::move(copies), weight_bytes);
}

BenchMethods make_peers(const Linear& linear, const Fp8Weight& weight) {
  return linear.device().kind == DeviceKind::kCuda ? cuda_peer_methods(linear, weight) : peer_methods(linear);
}

// Names of kernels to measure for one layer; "": whatever selection takes for each m.
std::vector<std::string> kernels_for(const Arguments& arguments, const LinearConfig& config,
                                     const Device& device, const std::vector<std::string>& disabled) {
  if (arguments.kernels.empty()) return {""};
  std::vector<std::string> names;
  for (const std::string& asked : arguments.kernels) {
    if (asked != "all") {
      names.push_back(asked);
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
    LinearOptions options = arguments.linear;
    if (quantises_activations(scheme)) options.policy = Policy::kSpeed;
    const LinearConfig config = linear_config(weights.front(), options);
    for (const std::string& asked : kernels_for(arguments, config, device, environment.disable)) {
      SelectOptions select = environment;
      if (!asked.empty()) select.force = asked;
      std::vector<Linear> copies;
      for (const Fp8Weight& weight : weights)
        copies.push_back(Linear::create(device, weight, options, select));
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

void print_json_line(const nlohmann::json& value) {
  write_out(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  flush_out();
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

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = add_verb(app, "bench", "Measure kernels on random weights",
                            "anyfp8 bench --shape 4096x4096 --m 1,16 --kernel all --scheme channel,block");
  add_device(*verb, arguments->device, false);
  verb->add_option_function<std::vector<std::string>>(
          "--shape",
          [arguments](const std::vector<std::string>& texts) {
            for (const std::string& text : texts)
              arguments->shapes.push_back(checked("--shape", [&] { return parse_shape(text); }));
          },
          "Weight N x K, repeatable (default: Llama-3-8B's)")
      ->type_name("NxK")
      ->allow_extra_args(false);
  verb->add_option_function<std::string>(
          "--shapes",
          [arguments](const std::string& path) {
            for (const MatrixShape shape : checked("--shapes", [&] { return read_shapes(path); }))
              arguments->shapes.push_back(shape);
          },
          "File with one N x K a line")
      ->type_name("FILE")
      ->check(not_empty());
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
              if (name != "all") check_kernel_name("--kernel", name);
            }
            arguments->kernels = names;
          },
          "Kernels, or all (default: the one that is chosen)")
      ->type_name("A,B")
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
      ->check(CLI::IsMember({"tensor", "channel", "block", "mxfp8", "bf16", "f16", "w8a8-static",
                             "w8a8-tensor", "w8a8-channel", "w8a8-block"}));
  add_activations(*verb, arguments->linear.in, {"bf16", "f16", "f32"});
  verb->add_option("--seconds", arguments->seconds, "Time for each row")
      ->type_name("S")
      ->default_str("0.5")
      ->check(number_between(0, 3600));
  add_threads(*verb);
  verb->add_flag("--peers", arguments->peers,
                 "Also oneDNN and OpenBLAS, on the same work in the same run; on CUDA always cuBLASLt");
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
    if (arguments->shapes.empty()) arguments->shapes = kDefaultShapes;
    drop_repeats(arguments->shapes);
    drop_repeats(arguments->tokens);
    drop_repeats(arguments->kernels);
    drop_repeats(arguments->schemes);
    arguments->command = command_line();  // here, since -v will set ANYFP8_LOG
    run = [arguments] { return run_bench(*arguments); };
  });
}

}  // namespace anyfp8::cli
