#include "cli/model_arguments.h"

#include <sys/resource.h>

#include <chrono>

#include "anyfp8/base/log.h"
#include "anyfp8/base/threads.h"
#include "cli/arguments.h"
#include "cli/model_layers.h"
#include "cli/selection_text.h"
#include "cli/terminal.h"

namespace anyfp8::cli {
namespace {

size_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;  // Linux counts in KiB
}

void report(const ModelArguments& arguments, const Model& model, double seconds) {
  std::vector<PlannedLayer> planned;
  for (const Model::LayerInfo& layer : model.linears()) {
    planned.push_back({layer.module, layer.linear->config(), &layer.linear->selection()});
  }
  const double resident = static_cast<double>(model.linear_bytes() + model.other_bytes());
  const double as_16bit =
      2.0 * static_cast<double>(model.linear_parameters()) + static_cast<double>(model.other_bytes());
  print_err("{}: {}, {} parameters in linear layers, activations {}, {} thread{}\n",
            styled(Style::kBold, printable(arguments.path.string()), stderr), model.config().architecture,
            count_text(static_cast<double>(model.linear_parameters())),
            dtype_name(arguments.options.activations), num_threads(), num_threads() == 1 ? "" : "s");
  if (const Comm* comm = arguments.options.comm; comm != nullptr && comm->size() > 1)
    print_err("rank 0 of {}, by {}; these are the numbers of this rank\n", comm->size(), comm->name());
  if (arguments.options.emulate_w8a8)
    print_err("activations are rounded as W8A8 kernels do, where the checkpoint asks for it\n");
  print_err("{}", (verbosity() > 0 ? selections_text : selections_summary)(planned, stderr));
  for (const PlannedLayer& layer : planned) {
    log_message(LogLevel::kDebug, fmt::format("{}: {} x {}, {}", layer.module, layer.config.n, layer.config.k,
                                              layer.selection->kernel_for(1).name));
  }
  print_err("loaded in {}; weights {}, in 16 bit {} ({:.0f} % of it); process peak {}\n",
            seconds_text(seconds), bytes_text(resident), bytes_text(as_16bit), 100 * resident / as_16bit,
            bytes_text(static_cast<double>(peak_memory_bytes())));
}

}  // namespace

void add_model_arguments(CLI::App& verb, ModelArguments& arguments) {
  add_model(verb, arguments.path);
  add_threads(verb);
  add_activations(verb, arguments.options.activations, {"f32", "bf16", "f16"});
  verb.add_option_function<std::string>(
          "--quantize-at-load",
          [&arguments](const std::string& name) {
            arguments.options.quantize_at_load =
                checked("--quantize-at-load", [&] { return quantize_scheme_from_name(name); });
          },
          "16-bit layers to tensor, channel, block, mxfp8")
      ->type_name("SCHEME");
  verb.add_flag("--assume-unit-scale", arguments.options.load.assume_unit_scale,
                "Take FP8 weights without a scale as they are");
  add_policy(verb, arguments.options.policy);
  verb.add_flag("--emulate-w8a8", arguments.options.emulate_w8a8,
                "Round activations as W8A8 kernels do, where the checkpoint asks for it");
  add_kernel_wishes(verb, arguments.options.select);
  verb.add_flag("-q,--quiet", arguments.quiet, "Nothing on stderr but errors");
}

OpenedModel open_model(const ModelArguments& arguments,
                       const std::function<void(const Tokenizer&, const ModelConfig&)>& check) {
  const auto begin = std::chrono::steady_clock::now();
  ModelOptions options = arguments.options;
  options.device = cpu_device();
  options.select.tuned = user_tune_table();
  const Checkpoint checkpoint = Checkpoint::open(arguments.path);
  // What cannot work is said before anything of size is read.
  const ModelConfig config = naming(arguments.path, [&] { return read_model_config(checkpoint); });
  Tokenizer tokenizer = naming(arguments.path, [&] { return Tokenizer::open(arguments.path); });
  if (check) check(tokenizer, config);
  ProgressBar bar("loading", 1, !arguments.quiet);
  double shown = 0;
  Model model = Model::load(checkpoint, options, [&](int64_t done, int64_t total) {
    const double part = static_cast<double>(done) / static_cast<double>(total);
    bar.advance(part - shown, fmt::format("layer {} of {}", done, total));
    shown = part;
  });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  bar.finish();
  if (!arguments.quiet) report(arguments, model, seconds);
  return {std::move(tokenizer), std::move(model), seconds};
}

}  // namespace anyfp8::cli
