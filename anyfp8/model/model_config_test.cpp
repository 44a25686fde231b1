#include "anyfp8/model/model_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "anyfp8/scheme/test_checkpoint.h"

namespace anyfp8 {
namespace {

using nlohmann::json;

// A small Qwen3 as transformers 5 writes it, with `changes` on top; a change to "absent" takes the key away.
json config_with(const json& changes) {
  json config = json::parse(R"({
    "architectures": ["Qwen3ForCausalLM"], "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 4096, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "eos_token_id": 7,
    "sliding_window": null, "use_sliding_window": false,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}})");
  config["layer_types"] = std::vector<std::string>(8, "full_attention");
  for (const auto& [key, value] : changes.items()) {
    if (value == "absent") {
      config.erase(key);
    } else {
      config[key] = value;
    }
  }
  return config;
}

ModelConfig read(const std::string& config, const std::string& generation = "") {
  const test::TempCheckpoint directory(config, {{"x", test::filled(DType::kF32, {1}, 0)}});
  if (!generation.empty()) directory.add_file("generation_config.json", generation);
  return read_model_config(directory.open());
}

ModelConfig read(const json& changes) { return read(config_with(changes).dump()); }

// The error's code and that its text holds each of `parts`.
void expect_refusal(const json& changes, ErrorCode code, const std::vector<std::string>& parts) {
  try {
    read(changes);
    ADD_FAILURE() << changes << " was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error_code_name(error.code()), error_code_name(code)) << error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << part << " is not in: " << error.what();
    }
  }
}

TEST(ModelConfig, Qwen3OfTransformers5) {
  const ModelConfig c = read(json::object());
  EXPECT_EQ(c.architecture, "Qwen3ForCausalLM");
  EXPECT_EQ((std::vector<int64_t>{c.layers, c.hidden, c.ffn, c.heads, c.kv_heads, c.head_dim, c.vocab,
                                  c.max_positions}),
            (std::vector<int64_t>{8, 256, 768, 4, 2, 64, 4096, 2048}));
  EXPECT_EQ(c.norm_eps, 1e-6f);
  EXPECT_EQ(c.rope.type, RopeType::kDefault);
  EXPECT_EQ(c.rope.theta, 10000);
  EXPECT_TRUE(c.qk_norm && c.tied);
  EXPECT_FALSE(c.qkv_bias || c.o_bias || c.mlp_bias);
  EXPECT_EQ(c.eos, std::vector<int>{7});
}

TEST(ModelConfig, Llama31OfTransformers4) {
  const ModelConfig c = read(std::string(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": true, "mlp_bias": true, "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "eos_token_id": [128001, 128008, 128009]})"));
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.norm_eps, 1e-5f);
  EXPECT_EQ(c.rope.type, RopeType::kLlama3);
  EXPECT_EQ((std::vector<double>{c.rope.theta, c.rope.factor, c.rope.low_freq_factor, c.rope.high_freq_factor,
                                 c.rope.original_positions}),
            (std::vector<double>{500000, 8, 1, 4, 8192}));
  EXPECT_EQ(c.max_positions, 131072);
  EXPECT_TRUE(c.qkv_bias && c.o_bias && c.mlp_bias);
  EXPECT_FALSE(c.qk_norm || c.tied);
  EXPECT_EQ(c.eos, (std::vector<int>{128001, 128008, 128009}));
}

TEST(ModelConfig, Qwen2HasBiasOnQkvAlone) {
  const ModelConfig c = read(
      {{"architectures", {"Qwen2ForCausalLM"}}, {"num_key_value_heads", "absent"}, {"head_dim", "absent"}});
  EXPECT_TRUE(c.qkv_bias);
  EXPECT_FALSE(c.o_bias || c.mlp_bias || c.qk_norm);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.head_dim, 64);  // hidden_size / num_attention_heads
}

TEST(ModelConfig, HeadDimStandsApartFromHiddenSize) {
  EXPECT_EQ(read({{"head_dim", 128}}).q_size(), 512);
  EXPECT_EQ(read({{"head_dim", nullptr}}).head_dim, 128);  // Qwen3's own default
}

TEST(ModelConfig, RopeOfBothGenerations) {
  const json yarn4 = {
      {"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 1024}, {"truncate", false}};
  const ModelConfig old = read({{"rope_parameters", "absent"}, {"rope_theta", 1e6}, {"rope_scaling", yarn4}});
  EXPECT_EQ(old.rope.type, RopeType::kYarn);
  EXPECT_EQ(old.rope.theta, 1e6);
  EXPECT_EQ(old.rope.attention_factor, 0.1 * std::log(4.0) + 1);
  EXPECT_FALSE(old.rope.truncate);
  EXPECT_EQ(old.max_positions, 4096);  // 1024 * 4, more than max_position_embeddings

  const ModelConfig now =
      read({{"rope_theta", 5.0},
            {"rope_scaling", nullptr},
            {"rope_parameters", {{"rope_type", "linear"}, {"rope_theta", 123.0}, {"factor", 2}}}});
  EXPECT_EQ(now.rope.type, RopeType::kLinear);
  EXPECT_EQ(now.rope.theta, 123);
  EXPECT_EQ(now.rope.factor, 2);

  EXPECT_EQ(read({{"rope_parameters", "absent"}, {"rope_theta", 77}}).rope.theta, 77);
}

TEST(ModelConfig, RopeOfBothGenerationsAtOnceMustAgree) {
  const json parameters = {{"rope_type", "linear"}, {"rope_theta", 123.0}, {"factor", 2}};
  const auto with = [&](const json& scaling) {
    return json{{"rope_parameters", parameters}, {"rope_scaling", scaling}};
  };
  EXPECT_EQ(read(with({{"type", "linear"}, {"factor", 2.0}})).rope.theta, 123);
  for (const json& other : {json{{"type", "linear"}, {"factor", 4}}, json{{"type", "default"}},
                            json{{"type", "linear"}, {"factor", 2}, {"rope_theta", 124}}}) {
    expect_refusal(with(other), ErrorCode::kInvalidFile, {"rope_parameters", "rope_scaling", other.dump()});
  }
  for (const json& bad : {json(5), json("linear"), json::array()}) {
    expect_refusal(with(bad), ErrorCode::kInvalidFile, {"rope_scaling is " + bad.dump(), "an object"});
  }
}

TEST(ModelConfig, ErrorsCarryThePathAndWhatWasAssumed) {
  expect_refusal({{"hidden_size", 0}}, ErrorCode::kInvalidFile,
                 {std::filesystem::temp_directory_path().string(), "/config.json: hidden_size is 0"});
  const json llama = {{"architectures", {"LlamaForCausalLM"}}, {"head_dim", "absent"}};
  json odd = llama;
  odd["hidden_size"] = 252;
  expect_refusal(odd, ErrorCode::kInvalidFile,
                 {"head_dim is 63", "head_dim is absent there and taken as 63"});
  EXPECT_EQ(read(llama).assumed, "; head_dim is absent there and taken as 64");
  EXPECT_EQ(read({{"num_key_value_heads", "absent"}}).assumed,
            "; num_key_value_heads is absent there and taken as 4");
  EXPECT_EQ(read(json::object()).assumed, "");
}

TEST(ModelConfig, YarnAttentionFactorOrMscalePair) {
  const auto factor_of = [](json more) {
    more.update({{"rope_type", "yarn"}, {"factor", 40}, {"original_max_position_embeddings", 64}});
    return read({{"rope_parameters", more}}).rope.attention_factor;
  };
  EXPECT_EQ(factor_of({{"attention_factor", 1.25}}), 1.25);
  // Some compilers round a * b + c once.
  EXPECT_DOUBLE_EQ(factor_of({{"mscale", 0.5}, {"mscale_all_dim", 2.0}}),
                   (0.05 * std::log(40.0) + 1) / (0.2 * std::log(40.0) + 1));
}

TEST(ModelConfig, EosIsUnitedWithGenerationConfig) {
  const json none = {{"eos_token_id", nullptr}};
  EXPECT_TRUE(read(none).eos.empty());
  EXPECT_EQ(read(config_with(none).dump(), R"({"eos_token_id": 3})").eos, std::vector<int>{3});
  EXPECT_EQ(read(config_with({{"eos_token_id", {9, 2}}}).dump(), R"({"eos_token_id": [2, 5]})").eos,
            (std::vector<int>{2, 5, 9}));
}

TEST(ModelConfig, SlidingWindowThatNoLayerUsesIsFine) {
  EXPECT_NO_THROW(read({{"sliding_window", 131072}}));
  EXPECT_NO_THROW(read({{"layer_types", "absent"},
                        {"sliding_window", 4096},
                        {"use_sliding_window", true},
                        {"max_window_layers", 8}}));
}

TEST(ModelConfig, RefusesOtherModelsByName) {
  const ErrorCode code = ErrorCode::kUnsupported;
  expect_refusal({{"architectures", {"Qwen3MoeForCausalLM"}}}, code,
                 {"Qwen3MoeForCausalLM", "LlamaForCausalLM"});
  expect_refusal({{"architectures", {"LlamaModel"}}}, code, {"LlamaModel"});
  expect_refusal({{"num_experts", 8}}, code, {"num_experts is 8"});
  expect_refusal({{"num_hidden_layers", 2}, {"layer_types", {"full_attention", "sliding_attention"}}}, code,
                 {"layer_types", "sliding_attention"});
  expect_refusal({{"layer_types", "absent"},
                  {"sliding_window", 4096},
                  {"use_sliding_window", true},
                  {"max_window_layers", 7}},
                 code, {"sliding_window is 4096"});
  expect_refusal({{"architectures", {"LlamaForCausalLM"}},
                  {"layer_types", "absent"},
                  {"sliding_window", 4096},
                  {"use_sliding_window", "absent"}},
                 code, {"sliding_window is 4096"});
  expect_refusal({{"hidden_act", "gelu"}}, code, {"hidden_act", "gelu", "silu"});
  expect_refusal({{"partial_rotary_factor", 0.5}}, code, {"partial_rotary_factor is 0.5"});
  for (const char* type : {"dynamic", "longrope", "mrope"}) {
    expect_refusal({{"rope_parameters", {{"rope_type", type}, {"factor", 2}}}}, code, {type, "llama3"});
  }
  expect_refusal({{"rope_parameters", {{"rope_theta", 1e4}, {"partial_rotary_factor", 0.25}}}}, code,
                 {"partial_rotary_factor"});
  expect_refusal({{"rope_parameters", {{"sliding_attention", {{"rope_theta", 1e4}}}}}}, code,
                 {"sliding_attention"});
}

TEST(ModelConfig, RefusesValuesOutOfRange) {
  const ErrorCode code = ErrorCode::kInvalidFile;
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim"}) {
    for (const json& bad : {json(0), json(-1), json(1e300), json(2.5), json("8"), json(true),
                            json(json::array()), json(INT64_MAX), json(UINT64_MAX)}) {
      expect_refusal({{key, bad}}, code, {std::string(key) + " is "});
    }
  }
  for (const char* key : {"hidden_size", "vocab_size", "max_position_embeddings"}) {
    expect_refusal({{key, "absent"}}, code, {std::string("no ") + key});
  }
  expect_refusal({{"num_attention_heads", 3}}, code, {"num_attention_heads is 3", "num_key_value_heads 2"});
  expect_refusal({{"head_dim", 1024}, {"num_attention_heads", 64}}, code, {"65536", "16 * hidden_size"});
  EXPECT_EQ(read({{"head_dim", 1024}}).q_size(), 16 * 256);
  expect_refusal({{"head_dim", 63}}, code, {"63"});
  expect_refusal({{"rms_norm_eps", -1e-6}}, code, {"rms_norm_eps is -1e-06"});
  expect_refusal({{"tie_word_embeddings", 1}}, code, {"tie_word_embeddings is 1"});
  expect_refusal({{"eos_token_id", 4096}}, code, {"eos_token_id is 4096", "4095"});
  expect_refusal({{"eos_token_id", {1, -1}}}, code, {"eos_token_id"});
  expect_refusal({{"architectures", json::array()}}, code, {"architecture"});
  expect_refusal({{"layer_types", "full_attention"}}, code, {"layer_types"});
  expect_refusal({{"num_hidden_layers", 9}}, code, {"layer_types", "num_hidden_layers 9"});
  expect_refusal({{"rope_parameters", 5}}, code, {"rope_parameters"});
  expect_refusal({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 0}}}}, code,
                 {"rope_theta is 0"});
  expect_refusal({{"rope_parameters", {{"rope_type", "linear"}}}}, code, {"no factor"});
  expect_refusal({{"rope_parameters", {{"rope_type", "yarn"}, {"factor", 0.5}}}}, code, {"factor is 0.5"});
  expect_refusal({{"rope_parameters",
                   {{"rope_type", "llama3"},
                    {"factor", 8},
                    {"low_freq_factor", 4},
                    {"high_freq_factor", 4},
                    {"original_max_position_embeddings", 8192}}}},
                 code, {"high_freq_factor"});
}

TEST(ModelConfig, NeedsConfigJson) { EXPECT_THROW(read(std::string()), Error); }

}  // namespace
}  // namespace anyfp8
