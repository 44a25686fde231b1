#include "tests/cli_program.h"

// `anyfp8 tune`, and the verbs that take what it has written.
namespace anyfp8 {
namespace {

class TuneTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    cache_ = folder_ / "cache" / "tune.json";
    setenv("ANYFP8_TUNE_CACHE", cache_.c_str(), 1);
  }
  void TearDown() override {
    setenv("ANYFP8_TUNE_CACHE", "off", 1);
    CliTest::TearDown();
  }

  json tune(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "tune");
    arguments.insert(arguments.end(), {"--seconds", "0", "--json"});
    return run_json(arguments);
  }

  // A cache in which `kernel` has the m of [3, 5) of the model's gate_proj layers.
  void write_cache(const std::string& kernel) {
    const std::string device = tune({"--shape", "64x64", "--m", "1"})["device"];
    const json layer = {{"device", device}, {"scheme", "e4m3 128x128, activations e4m3 1x128 dynamic"},
                        {"in", "f32"},      {"n", 768},
                        {"k", 256},         {"ranges", {{{"begin", 3}, {"end", 5}, {"kernel", kernel}}}}};
    std::ofstream(cache_) << json{{"schema_version", 1}, {"anyfp8", ANYFP8_VERSION}, {"layers", {layer}}};
  }

  json group_of_gate_proj() {
    const json plan = run_json({"plan", kModel.string(), "--activations", "f32", "--json"});
    for (const json& group : plan["groups"]) {
      for (const json& layer : group["layers"]) {
        if (layer["module"] == "model.layers.0.mlp.gate_proj") return group;
      }
    }
    return {};
  }

  fs::path cache_;
};

TEST_F(TuneTest, MeasuresAndKeepsWhatItFound) {
  const json first = tune({"--shape", "128x256", "--m", "1,16", "--activations", "f32"});
  EXPECT_EQ(first["path"], cache_.string());
  ASSERT_EQ(first["layers"].size(), 1u);
  const json& layer = first["layers"][0];
  EXPECT_EQ(layer["scheme"], "e4m3 row, weight-only");
  EXPECT_EQ(layer["policy"], "accuracy");
  for (const json& point : layer["points"]) EXPECT_GT(point["built_in_us"], 0) << point;
  const json quantised = tune({"--shape", "64x64", "--m", "1", "--scheme", "w8a8-channel"})["layers"][0];
  EXPECT_EQ(quantised["scheme"], "e4m3 row, activations e4m3 token dynamic");
  EXPECT_EQ(quantised["policy"], "speed");
  tune({"--shape", "128x256", "--m", "1", "--activations", "f32"});
  const json kept = json::parse(read_file(cache_));
  EXPECT_EQ(kept["anyfp8"], ANYFP8_VERSION);
  EXPECT_EQ(kept["layers"].size(), 2u) << "the third took the place of the first";
  EXPECT_EQ(kept["layers"][0]["n"], 64);
}

TEST_F(TuneTest, GoesThroughAModelOnceForEachShape) {
  const Outcome said = run({"tune", kModel.string(), "--m", "1", "--seconds", "0"});
  EXPECT_EQ(said.exit_code, 0) << said.err;
  EXPECT_NE(said.out.find("model.layers.0.mlp.gate_proj (768 x 256), policy speed"), std::string::npos)
      << said.out;
  EXPECT_NE(said.out.find("saved in " + cache_.string()), std::string::npos) << said.out;
  // q, k and v, o, gate and up, down, lm_head.
  EXPECT_EQ(json::parse(read_file(cache_))["layers"].size(), 5u) << read_file(cache_);
}

TEST_F(TuneTest, WhatItFoundIsUsedAndNamed) {
  setenv("ANYFP8_TUNE_CACHE", "off", 1);
  std::string other;
  const json built_in = group_of_gate_proj();
  for (const json& rejection : built_in["rejected"]) {
    if (rejection["able"] && rejection["reason"].get<std::string>().find("behind") != std::string::npos)
      other = rejection["kernel"];
  }
  if (other.empty()) GTEST_SKIP() << "this CPU has one kernel for f32 activations";
  setenv("ANYFP8_TUNE_CACHE", cache_.c_str(), 1);
  write_cache(other);
  bool found = false;
  const json group = group_of_gate_proj();
  for (const json& choice : group["choices"]) {
    if (choice["m_begin"] != 3) continue;
    found = true;
    EXPECT_EQ(choice["kernel"], other);
    EXPECT_EQ(choice["m_end"], 5);
    EXPECT_EQ(choice["tuned"], true);
  }
  EXPECT_TRUE(found);
  EXPECT_NE(
      run({"plan", kModel.string(), "--activations", "f32"}).out.find("m 3 to 4: " + other + " (tuned)"),
      std::string::npos);
  // verify checks what a layer would use, that range included.
  bool verified = false;
  const json checked = run_json({"verify", kModel.string(), "--json"});
  for (const json& layer : checked["layers"]) verified = verified || layer["kernel"] == other;
  EXPECT_TRUE(verified);
  if (!has_tokenizer()) return;
  EXPECT_NE(run({"generate", kModel.string(), "--prompt", "x", "--max-tokens", "1"}).err.find("(tuned)"),
            std::string::npos);
}

TEST_F(TuneTest, WhatCannotBeHadIsSaid) {
  write_cache("gone_w8a16");
  const json group = group_of_gate_proj();
  ASSERT_EQ(group["unused_tuning"].size(), 1u) << group;
  EXPECT_EQ(group["unused_tuning"][0], "gone_w8a16 for 3 <= m < 5: there is no such kernel");
  EXPECT_NE(run({"plan", kModel.string(), "--activations", "f32"})
                .out.find("not used of the tuned table: gone_w8a16"),
            std::string::npos);
}

TEST_F(TuneTest, ABrokenCacheIsIgnoredOutLoud) {
  fs::create_directory(cache_.parent_path());
  std::ofstream(cache_) << "{\"schema_version\": 1, \"anyfp8\": \"0.0.9\"}";
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"plan", kModel.string()}, {"verify", kModel.string()}}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_NE(outcome.err.find("was measured with anyfp8"), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("the built-in choices hold"), std::string::npos) << outcome.err;
  }
  const Outcome again = run({"tune", "--shape", "64x64", "--m", "1", "--seconds", "0"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("it is written anew"), std::string::npos) << again.err;
  EXPECT_EQ(run({"plan", kModel.string()}).err, "");
}

TEST_F(TuneTest, WithNowhereToKeepTheResultItDoesNotBegin) {
  setenv("ANYFP8_TUNE_CACHE", "off", 1);
  expect_one_line_error(run({"tune", "--shape", "64x64"}), 1, "off");
  setenv("ANYFP8_TUNE_CACHE", (folder_ / "stdin" / "tune.json").c_str(), 1);  // in a file
  expect_one_line_error(run({"tune", "--shape", "64x64", "--m", "1", "--seconds", "0"}), 1, "in a file");
}

}  // namespace
}  // namespace anyfp8
