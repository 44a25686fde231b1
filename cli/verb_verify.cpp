#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <random>

#include "anyfp8/base/element.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/linear/linear.h"
#include "cli/arguments.h"
#include "cli/model_layers.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

// Token counts: a decode step, an odd batch, a piece of prefill. Each uses the first rows of the same x.
constexpr std::array<int64_t, 3> kTokens = {1, 7, 64};
constexpr int kMostTokens = kTokens.back();

struct Arguments {
  std::filesystem::path model;
  DeviceChoice device;
  // f32 unless asked: the rounding of a 16-bit y would hide a kernel's own errors.
  LinearOptions linear{.in = DType::kF32, .out = DType::kF32};
  SelectOptions select;
  bool json = false;
};

// One element of y against its double reference. Errors are relative to sum|x||w| of the element, the natural
// size of a sum whose terms cancel.
struct Deviation {
  double error = 0, bound = 0;
  int64_t row = 0, token = 0, m = 0;
  // Share of the bound; a NaN is as bad as it gets.
  double share() const {
    return std::isnan(error) ? HUGE_VAL : bound > 0 ? error / bound : error > 0 ? HUGE_VAL : 0;
  }
};

struct LayerResult {
  std::string module;
  const Kernel* kernel;
  int64_t n, k;
  Deviation worst;
};

// fp32 sums of k terms in any order wander by at most about sqrt(k) roundings of 2^-24 of sum|x||w|; 3 more
// are the product's, the scale's and the bias's. Then y is rounded once to its dtype. Kernels that quantise x
// to e4m3 add its 2^-4.
double bound_of(const Kernel& kernel, int64_t k, DType out, double reference, double magnitude) {
  const double out_rounding = out == DType::kBF16 ? 0x1p-8 : out == DType::kF16 ? 0x1p-11 : 0x1p-24;
  const double activation_rounding = kernel.activation == ActivationUse::kQuantized ? 0x1p-4 : 0;
  double bound = (std::sqrt(static_cast<double>(k)) + 3) * 0x1p-24 + activation_rounding;
  if (magnitude > 0) bound += out_rounding * std::fabs(reference) / magnitude;
  if (out == DType::kF16 && magnitude > 0) bound += 0x1p-25 / magnitude;  // f16 subnormals: an absolute step
  return bound;
}

float element(const HostTensor& tensor, int64_t index) {
  return load_element(tensor.data(), tensor.dtype(), index);
}

// x [64, k] of normal deviates, the same for every layer of that k.
HostTensor random_activations(int64_t k, DType dtype) {
  HostTensor x = HostTensor::allocate(dtype, {kMostTokens, k});
  std::mt19937_64 random(20240229);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < x.size(); ++i) {
    store_element(x.mutable_data(), dtype, i, normal(random));
  }
  return x;
}

// Compares rows [begin, end) of every y with x · Wᵀ + bias in double. by_m[i] belongs to kTokens[i].
void compare_rows(const Fp8Weight& weight, const Linear& linear, const std::vector<double>& x_by_column,
                  std::span<const HostTensor> results, int64_t begin, int64_t end,
                  std::span<Deviation> by_m) {
  const int64_t n = weight.n(), k = weight.k();
  const HostTensor rows = dequantize(weight, begin, end);  // [rows, k] f32
  for (int64_t row = begin; row < end; ++row) {
    const float* w = rows.as<float>() + (row - begin) * k;
    const double bias = weight.bias.defined() ? element(weight.bias, row) : 0;
    std::array<double, kMostTokens> sum, magnitude;
    sum.fill(bias);
    magnitude.fill(std::fabs(bias));
    for (int64_t c = 0; c < k; ++c) {
      const double* x = x_by_column.data() + c * kMostTokens;
      for (size_t t = 0; t < kMostTokens; ++t) {
        const double product = w[c] * x[t];
        sum[t] += product;
        magnitude[t] += std::fabs(product);
      }
    }
    for (size_t i = 0; i < kTokens.size(); ++i) {
      const Kernel& kernel = linear.selection().kernel_for(kTokens[i]);
      for (int64_t t = 0; t < kTokens[i]; ++t) {
        const double difference = std::fabs(element(results[i], t * n + row) - sum[static_cast<size_t>(t)]);
        const double size = magnitude[static_cast<size_t>(t)];
        const Deviation found{size > 0 ? difference / size : difference,
                              bound_of(kernel, k, linear.config().out, sum[static_cast<size_t>(t)], size),
                              row, t, kTokens[i]};
        if (found.share() > by_m[i].share()) by_m[i] = found;
      }
    }
  }
}

// One result for each kernel that serves one of kTokens.
std::vector<LayerResult> verify_layer(const ModelLayer& layer, const Fp8Weight& weight,
                                      const Linear& linear) {
  const int64_t n = weight.n(), k = weight.k();
  const HostTensor x = random_activations(k, linear.config().in);
  std::vector<double> x_by_column(static_cast<size_t>(k) *
                                  kMostTokens);  // [k, 64]: the sums run over tokens side by side
  for (int64_t t = 0; t < kMostTokens; ++t) {
    for (int64_t c = 0; c < k; ++c)
      x_by_column[static_cast<size_t>(c * kMostTokens + t)] = element(x, t * k + c);
  }
  Workspace workspace(linear.device());
  workspace.reserve(linear.workspace_bytes(kMostTokens));
  std::vector<HostTensor> results;
  for (const int64_t m : kTokens) {
    HostTensor y = HostTensor::allocate(linear.config().out, {m, n});
    linear.apply({const_cast<std::byte*>(x.data()), x.dtype(), m, k, k},
                 {y.mutable_data(), y.dtype(), m, n, n}, workspace);
    results.push_back(std::move(y));
  }

  constexpr int64_t kRowsAtOnce = 16;
  const int64_t pieces = (n + kRowsAtOnce - 1) / kRowsAtOnce;
  std::vector<std::array<Deviation, kTokens.size()>> found(static_cast<size_t>(pieces));
  std::exception_ptr failure;  // must not leave the parallel region as an exception
#pragma omp parallel for schedule(dynamic) num_threads(num_threads())
  for (int64_t piece = 0; piece < pieces; ++piece) {
    try {
      const int64_t begin = piece * kRowsAtOnce;
      compare_rows(weight, linear, x_by_column, results, begin, std::min(begin + kRowsAtOnce, n),
                   found[static_cast<size_t>(piece)]);
    } catch (...) {
#pragma omp critical
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);

  std::vector<LayerResult> layer_results;
  for (size_t i = 0; i < kTokens.size(); ++i) {
    const Kernel* kernel = &linear.selection().kernel_for(kTokens[i]);
    auto place = std::find_if(layer_results.begin(), layer_results.end(),
                              [&](const LayerResult& r) { return r.kernel == kernel; });
    if (place == layer_results.end())
      place = layer_results.insert(place, LayerResult{layer.module, kernel, n, k, {}});
    for (const auto& piece : found) {
      if (piece[i].share() > place->worst.share()) place->worst = piece[i];
    }
  }
  return layer_results;
}

void print_as_json(const Arguments& arguments, const std::vector<LayerResult>& results, size_t failures) {
  const auto row_of = [&](size_t i) -> nlohmann::json {
    const LayerResult& r = results[i];
    return {{"module", r.module},
            {"kernel", r.kernel->name},
            {"n", r.n},
            {"k", r.k},
            {"worst_relative_error",
             std::isnan(r.worst.error) ? nlohmann::json() : nlohmann::json(r.worst.error)},
            {"bound", r.worst.bound},
            {"row", r.worst.row},
            {"token", r.worst.token},
            {"m", r.worst.m},
            {"ok", r.worst.share() <= 1}};
  };
  print_json({{"schema_version", 1},
              {"model", arguments.model.string()},
              {"activations", dtype_name(arguments.linear.in)},
              {"tokens", kTokens},
              {"failures", failures}},
             "layers", results.size(), row_of);
}

void print_text(const std::vector<LayerResult>& results) {
  using Align = Table::Align;
  std::vector<std::string_view> modules;
  for (const LayerResult& r : results) modules.push_back(r.module);
  Table table({{"layers"}, {"kernel"}, {"worst error", Align::kRight}, {"bound", Align::kRight}, {""}});
  const auto groups = group_layers(modules, [&](size_t i) {
    return fmt::format("{} {} {} {}", results[i].kernel->name, results[i].n, results[i].k,
                       results[i].worst.share() <= 1);
  });
  for (const auto& group : std::span(groups).first(std::min(groups.size(), kMostGroupsShown))) {
    const LayerResult& worst = results[*std::max_element(group.begin(), group.end(), [&](size_t a, size_t b) {
      return results[a].worst.share() < results[b].worst.share();
    })];
    table.add({group_name(modules, group), std::string(worst.kernel->name),
               fmt::format("{:.1e}", worst.worst.error), fmt::format("{:.1e}", worst.worst.bound),
               worst.worst.share() <= 1 ? "ok" : "WRONG"});
  }
  write_out(table.text(stdout));
  write_out(more_groups_text(groups.size()));
  print_out("\n{}\n", wrapped("Errors are relative to the sum of |x||w| of the element; bound: the roundings "
                              "that fp32 sums and the "
                              "type of y can add up to.",
                              0, line_width(stdout)));
}

int run_verify(const Arguments& arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.model);
  const Inspection inspection = naming(arguments.model, [&] { return inspect(checkpoint); });
  const std::vector<ModelLayer> layers =
      naming(arguments.model, [&] { return linear_layers(checkpoint, inspection); });
  const Device device = arguments.device.device();
  double total = 0;
  for (const ModelLayer& layer : layers) total += static_cast<double>(layer.n * layer.k);

  std::vector<LayerResult> results;
  {
    ProgressBar bar("verifying", total);
    for (const ModelLayer& layer : layers) {
      try {
        const Fp8Weight weight = load_weight(checkpoint, inspection.format, layer.weight);
        const Linear linear = Linear::create(device, weight, arguments.linear, arguments.select);
        for (LayerResult& result : verify_layer(layer, weight, linear)) results.push_back(std::move(result));
      } catch (Error& error) {
        if (std::string_view(error.what()).find(layer.module) == std::string_view::npos)
          error.in(layer.module);
        throw;
      }
      bar.advance(static_cast<double>(layer.n * layer.k), layer.module);
    }
  }
  const auto worse = [](const LayerResult& a, const LayerResult& b) {
    return a.worst.share() < b.worst.share();
  };
  const LayerResult& worst = *std::max_element(results.begin(), results.end(), worse);
  const auto failures = static_cast<size_t>(std::count_if(
      results.begin(), results.end(), [](const LayerResult& r) { return r.worst.share() > 1; }));
  if (arguments.json) {
    print_as_json(arguments, results, failures);
  } else {
    print_text(results);
  }
  const std::string where =
      fmt::format("{} row {}, token {} of m = {}: {} is off by {:.2e}, the bound is {:.2e}", worst.module,
                  worst.worst.row, worst.worst.token, worst.worst.m, worst.kernel->name, worst.worst.error,
                  worst.worst.bound);
  if (failures > 0) {
    flush_out();
    throw fail(ErrorCode::kInternal,
               "{} of {} layers are wrong, most of all {}; run with --disable {} and report it", failures,
               results.size(), where, worst.kernel->name);
  }
  if (!arguments.json)
    print_out("{}\n", wrapped(fmt::format("{} {} layer{}; nearest to its bound: {}",
                                          styled(Style::kGreen, "ok:", stdout), layers.size(),
                                          layers.size() == 1 ? "" : "s", printable(where)),
                              0, line_width(stdout)));
  return 0;
}

}  // namespace

void add_verify(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = add_verb(app, "verify", "Check each layer's kernel against double precision",
                            "anyfp8 verify models/kjv-qwen3-fp8");
  add_model(*verb, arguments->model);
  add_device(*verb, arguments->device, false);
  add_activations(*verb, arguments->linear.in, {"bf16", "f16", "f32"});
  add_policy(*verb, arguments->linear.policy);
  add_kernel_wishes(*verb, arguments->select);
  add_threads(*verb);
  add_json(*verb, arguments->json);
  verb->callback([arguments, &run] {
    arguments->linear.out = arguments->linear.in;
    run = [arguments] { return run_verify(*arguments); };
  });
}

}  // namespace anyfp8::cli
