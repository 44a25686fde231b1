#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "anyfp8/model/model.h"
#include "anyfp8/model/sampler.h"
#include "anyfp8/model/tokenizer.h"

namespace anyfp8 {

struct GenerateOptions {
  int64_t max_tokens = 128;
  SamplerOptions sampler;
  bool ignore_eos = false;  // for measurements of a fixed length
};

enum class StopReason : uint8_t { kMaxTokens, kEndOfText, kCaller };

struct GenerateStats {
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;  // an end-of-text token is not counted
  double prefill_seconds = 0;    // the prompt, up to the first sampled token
  double decode_seconds = 0;     // the rest: one forward pass a token
  int64_t decode_steps = 0;      // forward passes in decode_seconds
  StopReason stop = StopReason::kMaxTokens;
};

// Receives each generated id; false ends the generation.
using OnToken = std::function<bool(int id)>;
// Receives text as it grows, always whole UTF-8 characters; called after every token, with empty text for one
// that gives none (special, or part of a character). False ends the generation.
using OnText = std::function<bool(std::string_view text)>;

// Error(kInvalidArgument) for an empty prompt, options out of range, and a prompt and max_tokens that do not
// fit the model's context together. Needs no weights (see read_model_config), so it can come before loading
// them.
void check_request(const ModelConfig& config, int64_t prompt_tokens, const GenerateOptions& options);

// check_request, then the prompt in one pass, then samples until max_tokens, an end-of-text id or the
// callback's word. allowed: see Sampler.
GenerateStats generate_tokens(Model& model, std::span<const int> prompt, const GenerateOptions& options,
                              std::vector<bool> allowed, const OnToken& on_token);

// The same from text to text. Ids without a token are never chosen; special tokens give no text.
GenerateStats generate(Model& model, const Tokenizer& tokenizer, std::string_view prompt,
                       const GenerateOptions& options, const OnText& on_text);

}  // namespace anyfp8
