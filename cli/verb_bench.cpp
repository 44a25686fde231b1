#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <sstream>

#include "anyfp8/base/mapped_file.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/linear/linear.h"
#include "cli/arguments.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

struct MatrixShape {
  int64_t n, k;
};

struct Arguments {
  DeviceChoice device;
  std::vector<MatrixShape> shapes;
  std::vector<int64_t> tokens{1, 4, 16};
  std::string kernel;  // empty: the one selection takes; "all"
  std::string scheme = "channel";
  LinearOptions linear;
  double seconds = 0.5;
  bool json = false;
};

struct Row {
  const Kernel* kernel;
  int64_t n, k, m;
  double median_us, min_us, gb_per_s, gflop_per_s;
  int repeats;
};

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

uint64_t next_random(
    uint64_t& state) {  // xorshift64: fills gigabytes quickly, nothing depends on its quality
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

// Random codes: no kernel's time depends on the values, only NaN must not be among them.
Fp8Weight random_weight(MatrixShape shape, const std::string& scheme) {
  Fp8Weight weight;
  uint64_t state = 88172645463325252u;
  if (scheme == "bf16" || scheme == "f16") {
    weight.scheme.weight = {.dtype = scheme == "bf16" ? DType::kBF16 : DType::kF16};
    weight.data = HostTensor::allocate(weight.scheme.weight.dtype, {shape.n, shape.k});
    auto* codes = reinterpret_cast<uint16_t*>(weight.data.mutable_data());
    const uint16_t one = scheme == "bf16" ? 0x3F80 : 0x3C00;
    for (int64_t i = 0; i < weight.data.size(); ++i) {
      const uint64_t bits = next_random(state);
      codes[i] = static_cast<uint16_t>((one + (bits & 0x7Fu)) | (bits & 0x8000u));
    }
    return weight;
  }
  const Group group = scheme == "tensor"    ? kPerTensor
                      : scheme == "channel" ? kPerRow
                      : scheme == "block"   ? kBlock128
                                            : kMx32;
  const DType scale_dtype = group == kMx32 ? DType::kE8M0 : DType::kF32;
  weight.scheme.weight = {.dtype = DType::kE4M3, .group = group, .scale_dtype = scale_dtype};
  weight.data = HostTensor::allocate(DType::kE4M3, {shape.n, shape.k});
  auto* codes = reinterpret_cast<uint8_t*>(weight.data.mutable_data());
  for (int64_t i = 0; i < weight.data.size(); ++i) {
    const auto code = static_cast<uint8_t>(next_random(state) >> 32);
    codes[i] = (code & 0x7Fu) == 0x7Fu ? code ^ 1u : code;
  }
  const Grid grid = scale_grid(group, shape.n, shape.k);
  weight.scale = HostTensor::allocate(scale_dtype, {grid.rows, grid.cols});
  if (group == kMx32) {
    std::memset(weight.scale.mutable_data(), 120, weight.scale.size_bytes());
  } else {
    std::fill_n(reinterpret_cast<float*>(weight.scale.mutable_data()), weight.scale.size(), 0x1p-7f);
  }
  return weight;
}

Fp8Weight copy_of(const Fp8Weight& weight) {
  Fp8Weight copy = weight;
  copy.data = HostTensor::allocate(weight.data.dtype(), weight.data.shape());
  std::memcpy(copy.data.mutable_data(), weight.data.data(), weight.data.size_bytes());
  return copy;
}

// So many copies that a weight has left every cache when its turn comes again; of weights so small that this
// takes more than 64, the calls are what is measured.
size_t copies_for(size_t weight_bytes) {
  constexpr size_t kTimesL3 = 4, kLeastL3Bytes = size_t{32} << 20;  // virtual machines often report 0
  const long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const size_t span = kTimesL3 * std::max(l3 > 0 ? static_cast<size_t>(l3) : 0, kLeastL3Bytes);
  return std::clamp<size_t>((span + weight_bytes - 1) / weight_bytes, 2, 64);
}

double median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Row measure(const std::vector<Linear>& copies, const Kernel* kernel, int64_t m, double seconds) {
  constexpr int kLeastRepeats = 5;
  const LinearConfig& config = copies.front().config();
  const HostTensor x = HostTensor::allocate(config.in, {m, config.k});
  HostTensor y = HostTensor::allocate(config.out, {m, config.n});
  const TensorView x_view{const_cast<std::byte*>(x.data()), x.dtype(), m, config.k, config.k};
  const TensorView y_view{y.mutable_data(), y.dtype(), m, config.n, config.n};
  Workspace workspace(copies.front().device());
  workspace.reserve(copies.front().workspace_bytes(m));
  copies.back().apply(x_view, y_view, workspace);  // starts the threads

  using Clock = std::chrono::steady_clock;
  std::vector<double> times_us;
  const auto begin = Clock::now();
  for (size_t i = 0;
       times_us.size() < kLeastRepeats || Clock::now() - begin < std::chrono::duration<double>(seconds);
       ++i) {
    const auto start = Clock::now();
    copies[i % copies.size()].apply(x_view, y_view, workspace);
    times_us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  const int repeats = static_cast<int>(times_us.size());
  const double us = median(times_us), min_us = *std::min_element(times_us.begin(), times_us.end());
  const double bytes = static_cast<double>(copies.front().resident_bytes() + x.size_bytes() + y.size_bytes());
  const double flops =
      2.0 * static_cast<double>(m) * static_cast<double>(config.n) * static_cast<double>(config.k);
  return {kernel, config.n, config.k, m, us, min_us, bytes / us * 1e-3, flops / us * 1e-3, repeats};
}

// Kernels to measure for one shape; null: whatever selection takes for each m.
std::vector<const Kernel*> kernels_for(const Arguments& arguments, const LinearConfig& config,
                                       const Device& device) {
  if (arguments.kernel.empty()) return {nullptr};
  std::vector<const Kernel*> kernels;
  for (const Kernel* kernel : all_kernels()) {
    const bool wanted =
        arguments.kernel == kernel->name ||
        (arguments.kernel == "all" && kernel->apply != nullptr && can_implement(*kernel, config, device));
    if (wanted) kernels.push_back(kernel);
  }
  return kernels;
}

int run_bench(const Arguments& arguments) {
  const Device device = arguments.device.device();
  std::vector<Row> rows;
  {
    ProgressBar bar("measuring", static_cast<double>(arguments.shapes.size()));
    for (const MatrixShape shape : arguments.shapes) {
      const Fp8Weight weight = random_weight(shape, arguments.scheme);
      std::vector<Fp8Weight> weights{weight};
      while (weights.size() < copies_for(weight.resident_bytes())) weights.push_back(copy_of(weight));
      const std::vector<const Kernel*> kernels =
          kernels_for(arguments, linear_config(weight, arguments.linear), device);
      for (const Kernel* kernel : kernels) {
        SelectOptions select = SelectOptions::from_environment();
        if (kernel != nullptr) select.force = kernel->name;
        std::vector<Linear> copies;
        for (const Fp8Weight& copy : weights)
          copies.push_back(Linear::create(device, copy, arguments.linear, select));
        for (const int64_t m : arguments.tokens) {
          const Kernel* used = &copies.front().selection().kernel_for(m);
          rows.push_back(measure(copies, used, m, arguments.seconds));
          bar.advance(1.0 / static_cast<double>(arguments.tokens.size() * kernels.size()),
                      fmt::format("{} {}x{} m {}", used->name, shape.n, shape.k, m));
        }
      }
    }
  }
  if (arguments.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const Row& r : rows) {
      list.push_back({{"device", device.name},
                      {"kernel", r.kernel->name},
                      {"scheme", arguments.scheme},
                      {"n", r.n},
                      {"k", r.k},
                      {"m", r.m},
                      {"us", r.median_us},
                      {"min_us", r.min_us},
                      {"gb_per_s", r.gb_per_s},
                      {"gflop_per_s", r.gflop_per_s},
                      {"repeats", r.repeats}});
    }
    print_json({{"schema_version", 1},
                {"threads", num_threads()},
                {"activations", dtype_name(arguments.linear.in)},
                {"rows", std::move(list)}});
    return 0;
  }
  using Align = Table::Align;
  print_out("{}, {} thread{}, weights {}, activations {}\n\n", device.name, num_threads(),
            num_threads() == 1 ? "" : "s", arguments.scheme, dtype_name(arguments.linear.in));
  Table table({{"kernel"},
               {"n", Align::kRight},
               {"k", Align::kRight},
               {"m", Align::kRight},
               {"median us", Align::kRight},
               {"min us", Align::kRight},
               {"GB/s", Align::kRight},
               {"GFLOP/s", Align::kRight}});
  for (const Row& r : rows) {
    table.add({std::string(r.kernel->name), std::to_string(r.n), std::to_string(r.k), std::to_string(r.m),
               fmt::format("{:.1f}", r.median_us), fmt::format("{:.1f}", r.min_us),
               fmt::format("{:.2f}", r.gb_per_s), fmt::format("{:.1f}", r.gflop_per_s)});
  }
  write_out(table.text(stdout));
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = add_verb(app, "bench", "Measure kernels on random weights",
                            "anyfp8 bench --shape 4096x4096 --m 1,16 --kernel all --scheme block");
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
  verb->add_option_function<std::string>(
          "--kernel",
          [arguments](const std::string& name) {
            if (name != "all") check_kernel_name("--kernel", name);
            arguments->kernel = name;
          },
          "A kernel, or all (default: the one that is chosen)")
      ->type_name("NAME");
  verb->add_option("--scheme", arguments->scheme, "tensor, channel, block, mxfp8, bf16 or f16")
      ->type_name("NAME")
      ->capture_default_str()
      ->check(CLI::IsMember({"tensor", "channel", "block", "mxfp8", "bf16", "f16"}));
  add_activations(*verb, arguments->linear.in, {"bf16", "f16", "f32"});
  verb->add_option("--seconds", arguments->seconds, "Time for each row")
      ->type_name("S")
      ->default_str("0.5")
      ->check(number_between(0, 3600));
  add_threads(*verb);
  add_json(*verb, arguments->json);
  verb->callback([arguments, &run] {
    arguments->linear.out = arguments->linear.in;
    if (arguments->shapes.empty()) arguments->shapes = kDefaultShapes;
    run = [arguments] { return run_bench(*arguments); };
  });
}

}  // namespace anyfp8::cli
