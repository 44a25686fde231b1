#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace anyfp8::cli {

// A verb reads its arguments in main's parse and leaves here what to do then; the result is the exit code.
using Run = std::function<int()>;

void add_devices(CLI::App& app, Run& run);
void add_kernels(CLI::App& app, Run& run);
void add_inspect(CLI::App& app, Run& run);
void add_plan(CLI::App& app, Run& run);
void add_verify(CLI::App& app, Run& run);
void add_generate(CLI::App& app, Run& run);
void add_perplexity(CLI::App& app, Run& run);
void add_tokenize(CLI::App& app, Run& run);
void add_quantize(CLI::App& app, Run& run);
void add_bench(CLI::App& app, Run& run);
void add_tune(CLI::App& app, Run& run);

}  // namespace anyfp8::cli
