#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>

#include "anyfp8/model/model.h"
#include "anyfp8/model/tokenizer.h"

namespace anyfp8::cli {

// What generate and perplexity share: the arguments that say how a model is run, and opening it.
struct ModelArguments {
  std::filesystem::path path;
  // open_model() asks for the CPU, which a bad ANYFP8_ISA refuses, and for the tuned table.
  ModelOptions options{.device = {}, .select = {}};
  bool quiet = false;
};
void add_model_arguments(CLI::App& verb, ModelArguments& arguments);

struct OpenedModel {
  Tokenizer tokenizer;
  Model model;
  double load_seconds;
};

// check() may refuse before weights are read. Reports on stderr, unless quiet: progress on a terminal, then
// each kernel choice, load time and memory.
OpenedModel open_model(const ModelArguments& arguments,
                       const std::function<void(const Tokenizer&, const ModelConfig&)>& check = {});

}  // namespace anyfp8::cli
