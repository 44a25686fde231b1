#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "anyfp8/base/error.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/model/generate.h"
#include "anyfp8/model/model.h"
#include "anyfp8/model/perplexity.h"
#include "anyfp8/model/tokenizer.h"

namespace anyfp8 {
namespace {

namespace fs = std::filesystem;

fs::path shared_models() { return fs::path(ANYFP8_SOURCE_DIR) / ".." / "shared" / "models"; }

// The same small model in one dialect after another, against what other software computed from it. On one
// thread: ctest runs many of these at once, and threads that wait for each other on busy cores take ten times
// as long.
class EveryDialect : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!fs::exists(path() / "reference.safetensors"))
      GTEST_SKIP() << path() << " with its references is not here";
    set_num_threads(1);
  }
  void TearDown() override { set_num_threads(threads_); }
  fs::path path() const { return shared_models() / GetParam(); }
  Model load() const { return Model::load(Checkpoint::open(path()), {}); }
  nlohmann::json reference_json() const { return read_json_file(path() / "reference.json", 1 << 20); }

 private:
  int threads_ = num_threads();
};

INSTANTIATE_TEST_SUITE_P(EndToEnd, EveryDialect,
                         testing::Values("kjv-qwen3", "kjv-qwen3-block", "kjv-qwen3-channel",
                                         "kjv-qwen3-fbgemm", "kjv-qwen3-tensor-static"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

std::vector<int> token_ids(const Checkpoint& reference, const std::string& name) {
  const HostTensor tensor = reference.tensor(name);
  std::vector<int> ids(static_cast<size_t>(tensor.size()));
  for (size_t i = 0; i < ids.size(); ++i) {
    if (tensor.dtype() == DType::kI64) {
      int64_t id;
      std::memcpy(&id, tensor.data() + 8 * i, sizeof(id));
      ids[i] = static_cast<int>(id);
    } else {
      std::memcpy(&ids[i], tensor.data() + 4 * i, sizeof(int));
    }
  }
  return ids;
}

TEST_P(EveryDialect, GreedyTokensEqualTheReference) {
  Model model = load();
  const Checkpoint reference = Checkpoint::open(path() / "reference.safetensors");
  const nlohmann::json prompts = reference_json().at("prompts");
  ASSERT_EQ(prompts.size(), 6u);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<int> ids = token_ids(reference, "ids." + std::to_string(i));
    const auto prompt_tokens = prompts[i].at("prompt_tokens").get<size_t>();
    ASSERT_EQ(ids.size(), prompt_tokens + 96);
    std::vector<int> got(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(prompt_tokens));
    const std::vector<int> prompt = got;
    const auto keep = [&](int id) {
      got.push_back(id);
      return true;
    };
    generate_tokens(model, prompt, {.max_tokens = 96, .ignore_eos = true}, {}, keep);
    EXPECT_EQ(got, ids) << prompts[i].at("text");
  }
}

TEST_P(EveryDialect, LogitsAgreeWithTheReference) {
  Model model = load();
  const Checkpoint reference = Checkpoint::open(path() / "reference.safetensors");
  for (const std::string index : {"0", "1"}) {
    const HostTensor expected = reference.tensor("logits." + index);
    ASSERT_EQ(expected.dtype(), DType::kF32);
    const auto tokens = static_cast<size_t>(expected.shape().at(0));
    const std::vector<int> ids = token_ids(reference, "ids." + index);
    std::vector<float> logits(static_cast<size_t>(expected.size()));
    KvCache cache(model.config(), static_cast<int64_t>(tokens));
    model.forward(std::span(ids).first(tokens), cache, logits, true);
    double difference = 0, size = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      float value;
      std::memcpy(&value, expected.data() + 4 * i, sizeof(value));
      difference += std::pow(static_cast<double>(logits[i]) - value, 2);
      size += std::pow(static_cast<double>(value), 2);
    }
    RecordProperty("relative_error_" + index, std::to_string(std::sqrt(difference / size)));
    EXPECT_LT(std::sqrt(difference / size), 1e-3);
  }
}

TEST_P(EveryDialect, PerplexityAgreesWithTheReference) {
  Model model = load();
  const auto ids = read_json_file(shared_models() / "perplexity_ids.json", 1 << 20).get<std::vector<int>>();
  ASSERT_EQ(ids.size(), 8193u);
  const PerplexityResult result = perplexity(model, ids);
  EXPECT_EQ(result.targets, 8192);
  const auto expected = reference_json().at("perplexity_first_8192_train_tokens").get<double>();
  EXPECT_NEAR(result.perplexity / expected, 1.0, 0.005);
}

#ifdef ANYFP8_HAVE_ICU

TEST_P(EveryDialect, RecitesTheReferenceText) {
  Model model = load();
  const Tokenizer tokenizer = Tokenizer::open(path());
  const nlohmann::json reference = reference_json();
  for (const nlohmann::json& prompt : reference.at("prompts")) {
    std::string text;
    const auto append = [&](std::string_view piece) {
      text += piece;
      return true;
    };
    const GenerateStats stats = generate(model, tokenizer, prompt.at("text").get<std::string>(),
                                         {.max_tokens = 96, .ignore_eos = true}, append);
    EXPECT_EQ(text, prompt.at("completion").get<std::string>());
    EXPECT_EQ(stats.prompt_tokens, prompt.at("prompt_tokens").get<int64_t>());
    EXPECT_EQ(stats.generated_tokens, 96);
    EXPECT_EQ(stats.decode_steps, 95);
  }
}

// The model in the repository, so these run everywhere.
class KjvModel : public testing::Test {
 protected:
  fs::path path = fs::path(ANYFP8_SOURCE_DIR) / "models" / "kjv-qwen3-fp8";
  Model model = Model::load(Checkpoint::open(path), {});
  Tokenizer tokenizer = Tokenizer::open(path);

  std::string generated(const GenerateOptions& options, int64_t stop_after_pieces = -1,
                        StopReason reason = StopReason::kMaxTokens) {
    std::string text;
    int64_t pieces = 0;
    const auto append = [&](std::string_view piece) {
      text += piece;
      return ++pieces != stop_after_pieces;
    };
    EXPECT_EQ(generate(model, tokenizer, "Ge1:1 In the beginning God", options, append).stop, reason);
    return text;
  }
};

TEST_F(KjvModel, RecitesGenesis) {
  const std::string expected =
      " created the heaven and the earth.\nGe1:2 And the earth was without form, and void; and darkness was "
      "upon "
      "the face of ";
  EXPECT_EQ(generated({.max_tokens = 34}).substr(0, expected.size()), expected);
}

TEST_F(KjvModel, StopsWhenTheCallerSaysSo) {
  EXPECT_EQ(generated({.max_tokens = 34}, 2, StopReason::kCaller), " created the");
}

TEST_F(KjvModel, SameSeedSameText) {
  GenerateOptions options{.max_tokens = 24,
                          .sampler = {.temperature = 3, .top_k = 50, .top_p = 0.95, .seed = 5}};
  const std::string first = generated(options);
  EXPECT_EQ(generated(options), first);
  options.sampler.seed = 6;
  EXPECT_NE(generated(options), first);
}

// So that an interrupt ends a text whose tokens are special or parts of characters.
TEST_F(KjvModel, CallsBackAfterEveryToken) {
  int64_t calls = 0, empty = 0;
  const auto count = [&](std::string_view piece) {
    ++calls;
    empty += piece.empty() ? 1 : 0;
    return true;
  };
  const GenerateOptions any{
      .max_tokens = 300, .sampler = {.temperature = 1000, .seed = 5}, .ignore_eos = true};
  EXPECT_EQ(generate(model, tokenizer, "In the beginning", any, count).generated_tokens, 300);
  EXPECT_GE(calls, 300);
  EXPECT_LE(calls, 301);  // the last call is for what was held back
  EXPECT_GT(empty, 0);
}

TEST_F(KjvModel, ARequestIsCheckedWithoutWeights) {
  const ModelConfig& config = model.config();
  EXPECT_NO_THROW(check_request(config, 1, {.max_tokens = config.max_positions - 1}));
  EXPECT_THROW(check_request(config, 1, {.max_tokens = config.max_positions}), Error);
  EXPECT_THROW(check_request(config, 0, {}), Error);
  EXPECT_THROW(check_request(config, 1, {.max_tokens = 0}), Error);
  EXPECT_THROW(check_request(config, 1, {.sampler = {.top_p = 2}}), Error);
}

TEST_F(KjvModel, RefusesWhatTheContextCannotHold) {
  const auto never = [](std::string_view) { return true; };
  EXPECT_THROW(generate(model, tokenizer, "", {}, never), Error);
  EXPECT_THROW(generate(model, tokenizer, "In the beginning", {.max_tokens = 2048}, never), Error);
  EXPECT_THROW(generate(model, tokenizer, "In the beginning", {.max_tokens = 0}, never), Error);
}

#endif

}  // namespace
}  // namespace anyfp8
