#include "anyfp8/model/generate.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "anyfp8/base/text.h"
#include "anyfp8/model/text_stream.h"

namespace anyfp8 {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void check_request(const ModelConfig& config, int64_t prompt_tokens, const GenerateOptions& options) {
  if (prompt_tokens < 1)
    throw fail(ErrorCode::kInvalidArgument, "the prompt is empty; at least one token is needed");
  if (options.max_tokens < 1) {
    throw fail(ErrorCode::kInvalidArgument, "max_tokens is {}; it must be 1 or more", options.max_tokens);
  }
  if (options.max_tokens > config.max_positions - prompt_tokens) {
    throw fail(ErrorCode::kInvalidArgument,
               "a prompt of {} token(s) and {} to generate do not fit the model's context of {}; "
               "shorten the prompt or lower max_tokens",
               prompt_tokens, options.max_tokens, config.max_positions);
  }
  Sampler{options.sampler};  // its options
}

GenerateStats generate_tokens(Model& model, std::span<const int> prompt, const GenerateOptions& options,
                              std::vector<bool> allowed, const OnToken& on_token) {
  const ModelConfig& config = model.config();
  const auto prompt_tokens = static_cast<int64_t>(prompt.size());
  check_request(config, prompt_tokens, options);
  Sampler sampler(options.sampler, std::move(allowed));
  KvCache cache(config, prompt_tokens + options.max_tokens);
  std::vector<float> logits(static_cast<size_t>(config.vocab));
  GenerateStats stats{.prompt_tokens = prompt_tokens};

  const auto start = std::chrono::steady_clock::now();
  model.forward(prompt, cache, logits);
  int id = sampler.sample(logits);
  stats.prefill_seconds = seconds_since(start);
  const auto decode_start = std::chrono::steady_clock::now();
  while (true) {
    if (!options.ignore_eos && std::binary_search(config.eos.begin(), config.eos.end(), id)) {
      stats.stop = StopReason::kEndOfText;
      break;
    }
    ++stats.generated_tokens;
    if (!on_token(id)) {
      stats.stop = StopReason::kCaller;
      break;
    }
    if (stats.generated_tokens == options.max_tokens) break;
    model.forward({&id, 1}, cache, logits);
    ++stats.decode_steps;
    id = sampler.sample(logits);
  }
  stats.decode_seconds = seconds_since(decode_start);
  return stats;
}

GenerateStats generate(Model& model, const Tokenizer& tokenizer, std::string_view prompt,
                       const GenerateOptions& options, const OnText& on_text) {
  std::vector<bool> allowed(static_cast<size_t>(model.config().vocab));
  for (size_t id = 0; id < allowed.size(); ++id) allowed[id] = tokenizer.has_token(static_cast<int>(id));
  TextStream stream;
  bool stopped = false;
  const auto on_token = [&](int id) {
    const std::string text = stream.push(tokenizer.token_bytes(id));
    stopped = !on_text(text);
    return !stopped;
  };
  const GenerateStats stats =
      generate_tokens(model, tokenizer.encode(prompt), options, std::move(allowed), on_token);
  const std::string rest = stream.finish();
  if (!rest.empty() && !stopped) on_text(rest);
  return stats;
}

}  // namespace anyfp8
