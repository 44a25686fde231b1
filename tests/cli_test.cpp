// The program itself, as a shell runs it: exit codes, what goes to which stream, and that no file or argument
// ends it by a signal.
#include <map>
#include <random>
#include <set>

#include "anyfp8/device/device.h"
#include "tests/cli_program.h"

namespace anyfp8 {
namespace {

TEST_F(CliTest, HelpOfEveryVerbHasAnExample) {
  const Outcome top = run({"--help"});
  EXPECT_EQ(top.exit_code, 0);
  for (const std::string& verb : kVerbs) {
    EXPECT_NE(top.out.find("\n  " + verb), std::string::npos) << verb;
    const Outcome help = run({verb, "--help"});
    EXPECT_EQ(help.exit_code, 0) << verb;
    EXPECT_NE(help.out.find("Example:\n"), std::string::npos) << verb;
    EXPECT_NE(help.out.find("anyfp8 " + verb), std::string::npos) << verb;
    EXPECT_TRUE(help.err.empty()) << help.err;
  }
  EXPECT_NE(run({"--version"}).out.find("anyfp8 " ANYFP8_VERSION), std::string::npos);
}

TEST_F(CliTest, WrongUsageIsTwo) {
  const std::string model = kModel.string();
  const std::vector<std::vector<std::string>> wrong = {
      {"nonsense"},
      {"inspect"},
      {"inspect", ""},
      {"inspect", model, "--nonsense"},
      {"plan", model, "--device", "toaster"},
      {"plan", model, "--policy", "fastest"},
      {"plan", model, "--activations", "int3"},
      {"plan", model, "--kernel", "nonsense"},
      {"plan", model, "--disable", "cpu_reference,nonsense"},
      {"verify", model, "--device", "sm_86"},
      {"generate", model},
      {"generate", model, "--prompt", "x", "--max-tokens", "-3"},
      {"generate", model, "--prompt", "x", "--max-tokens", "many"},
      {"generate", model, "--prompt", "x", "--threads", "0"},
      {"generate", model, "--prompt", "x", "--temperature", "-1"},
      {"generate", model, "--prompt", "x", "--temperature", "nan"},
      {"generate", model, "--prompt", "x", "--top-p", "0"},
      {"generate", model, "--prompt", "x", "--seed", "-1"},
      {"generate", model, "--prompt", "x", "--seed", "18446744073709551616"},
      {"generate", model, "--prompt", "x", "--top-k", "-1"},
      {"generate", model, "--prompt", "x", "--quantize-at-load", "int3"},
      {"perplexity", model},
      {"perplexity", model, "--file", "x", "--window", "0"},
      {"quantize", model},
      {"quantize", model, "", "--scheme", "block"},
      {"quantize", model, "out", "--scheme", "int3"},
      {"quantize", model, "out", "--scheme", "block", "--ignore", ""},
      {"quantize", model, "out", "--scheme", "block", "--ignore", "("},
      {"quantize", model, "out", "--scheme", "block", "--ignore", std::string(600, 'x')},
      {"quantize", model, "out", "--scheme", "channel", "--dialect", "fp8"},
      {"bench", "--shape", "4096"},
      {"bench", "--shape", "0x16"},
      {"bench", "--m", "0"},
      {"tune"},
      {"tune", model, "--shape", "64x64"},
      {"tune", model, "--policy", "invariant"},
      {"tune", "--shape", "64x64", "--scheme", "int3"},
      {"tune", "--shape", "64x64", "--m", "0"},
      {"tune", "--shape", "64x64", "--device", "sm_90"},
      {"bench", "--scheme", "channel,int3"},
      {"bench", "--kernel", "cpu_reference,nonsense"},
      {"bench", "--shapes", "/dev/zero"},
  };
  for (const auto& arguments : wrong) {
    std::string context;
    for (const std::string& word : arguments) context += word + " ";
    const Outcome outcome = run(arguments);
    expect_one_line_error(outcome, 2, context);
    EXPECT_NE(outcome.err.find("--help\n"), std::string::npos) << context;
    EXPECT_TRUE(outcome.out.empty()) << context;
  }
  EXPECT_EQ(run({}).exit_code, 2);
  EXPECT_NE(run({"nonsense"}).err.find("there is no verb nonsense; the verbs are devices, "),
            std::string::npos);
}

TEST_F(CliTest, WhatFailsIsOneAndOneLine) {
  const std::string model = kModel.string();
  const std::vector<std::vector<std::string>> failing = {
      {"inspect", "no_such_model"},
      {"inspect", folder_.string()},
      {"plan", "no_such_model"},
      {"verify", "no_such_model"},
      {"generate", "no_such_model", "--prompt", "x"},
      {"generate", model, "--prompt", ""},
      {"generate", model, "--prompt", "x", "--max-tokens", "100000"},
      {"generate", model, "--prompt", "x", "--kernel", "cuda_mma_w8a16"},
      {"generate", model, "--prompt", "x", "--disable",
       "cpu_reference,cpu_avx2_w8a16,cpu_avx512_w8a16,cpu_avx512_bf16_w8a16,cpu_amx_w8a16"},
      {"perplexity", model, "--file", "no_such_file"},
      {"perplexity", model, "--file", "/dev/null"},
      {"tokenize", "no_such_model"},
      {"quantize", model, (folder_ / "out").string(), "--scheme", "block"},  // FP8 already
      {"quantize", "no_such_model", (folder_ / "out").string(), "--scheme", "block"},
  };
  for (auto arguments : failing) {
    std::string context;
    for (const std::string& word : arguments) context += word + " ";
    if (arguments[0] == "generate" || arguments[0] == "perplexity") arguments.push_back("--quiet");
    expect_one_line_error(run(arguments), 1, context);
  }
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  expect_one_line_error(run({"tokenize", model, "--decode"}, "1 2 x"), 1, "decode");
  expect_one_line_error(run({"tokenize", model, "--decode"}, "1 999999"), 1, "decode");
  expect_one_line_error(run({"tokenize", model, "--decode"}, "{\"ids\": [-1]}"), 1, "decode");
}

TEST_F(CliTest, JsonIsOneObject) {
  const std::string model = kModel.string();
  EXPECT_FALSE(run_json({"devices", "--json"})["devices"].empty());
  EXPECT_FALSE(run_json({"kernels", "--json"})["kernels"].empty());

  const json inspected = run_json({"inspect", model, "--json"});
  EXPECT_EQ(inspected["fp8_layers"], 56);
  EXPECT_LT(inspected["fp8_bytes_per_parameter"], 1.07);
  EXPECT_TRUE(inspected["errors"].empty());

  const json plan = run_json({"plan", model, "--device", "sm_86", "--json"});
  size_t layers = 0;
  for (const json& group : plan["groups"]) {
    layers += group["layers"].size();
    EXPECT_FALSE(group["choices"].empty());
    EXPECT_EQ(group["policy"], group["scheme"] == "bf16" ? "accuracy" : "speed") << "by the checkpoint";
    for (const json& rejection : group["rejected"])
      EXPECT_FALSE(rejection["reason"].get<std::string>().empty());
  }
  EXPECT_EQ(layers, 57u);  // the tied lm_head too
  const json accurate = run_json({"plan", model, "--policy", "accuracy", "--json"});
  for (const json& group : accurate["groups"]) EXPECT_EQ(group["policy"], "accuracy");
  EXPECT_NE(run({"plan", model}).out.find("activations e4m3 1x128 dynamic, policy speed\n"),
            std::string::npos);
}

class BenchTest : public CliTest {
 protected:
  std::vector<json> rows(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"bench", "--seconds", "0.001", "--json"});
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    std::vector<json> rows;
    std::istringstream lines(outcome.out);
    for (std::string line; std::getline(lines, line);) {
      rows.push_back(json::parse(line, nullptr, false));
      EXPECT_TRUE(rows.back().is_object()) << line;
      if (!rows.back().is_object()) return {};
    }
    return rows;
  }

  static std::map<std::string, int> count_types(const std::vector<json>& rows) {
    std::map<std::string, int> counts;
    for (const json& row : rows) ++counts[row["type"]];
    // AMX and NEON BF16 have no row of a peak.
    const CpuIsa isa = cpu_device().isa;
    EXPECT_EQ(counts["peak"], isa.amx_bf16 || isa.neon_bf16 ? 0 : counts["read"]);
    counts.erase("peak");
    return counts;
  }
};

TEST_F(BenchTest, JsonIsOneObjectALine) {
  const std::vector<json> two_schemes = rows({"--shape", "64x64", "--m", "1,3", "--scheme", "channel,block"});
  EXPECT_EQ(count_types(two_schemes), (std::map<std::string, int>{{"kernel", 4}, {"read", 2}, {"mean", 4}}));
  for (const json& row : two_schemes) {
    EXPECT_EQ(row["schema_version"], 1);
    EXPECT_EQ(row["isa"], isa_text(cpu_device().isa));
    EXPECT_EQ(row.contains("of_first_scheme"), row.value("scheme", "") == "block") << row;
    if (row["type"] == "mean") continue;
    EXPECT_GT(row["us"], 0) << row;
    EXPECT_GE(row["calls"], row["samples"]) << row;
    EXPECT_EQ(row.contains("of_read"), row["type"] == "kernel") << row;
  }
  EXPECT_EQ(count_types(rows({"--shape", "1x1"})),
            (std::map<std::string, int>{{"kernel", 3}, {"read", 3}, {"mean", 3}}));
}

TEST_F(BenchTest, ThePairOfAnMlpIsMeasuredOnTheRanksThereAre) {
  const std::vector<json> measured = rows({"--tp", "--shape", "96x64", "--m", "1,3"});
  ASSERT_EQ(measured.size(), 2U);
  for (const json& row : measured) {
    EXPECT_EQ(row["type"], "tp_pair");
    EXPECT_EQ(row["ranks"], 1);
    EXPECT_EQ(row["engine"], "self");
    EXPECT_GT(row["us"], 0) << row;
    EXPECT_EQ(row["relative_difference"], 0) << row;
  }
  const Outcome refused = run({"bench", "--tp", "--peers"});
  EXPECT_EQ(refused.exit_code, 2);
}

TEST_F(BenchTest, WhatIsGivenTwiceIsMeasuredOnce) {
  EXPECT_EQ(count_types(rows({"--shape", "64x64", "--shape", "64x64", "--m", "1,3,1", "--scheme",
                              "channel,channel", "--kernel", "cpu_reference,cpu_reference"})),
            (std::map<std::string, int>{{"kernel", 2}, {"read", 2}, {"mean", 2}}));
  EXPECT_EQ(count_types(rows({"--shape", "64x64", "--m", "1", "--kernel", "all,cpu_reference"})),
            count_types(rows({"--shape", "64x64", "--m", "1", "--kernel", "all"})));
}

TEST_F(BenchTest, ARowSaysHowToGetItAgain) {
  if (isa_text(cpu_device().isa) == "scalar") GTEST_SKIP() << "without cpu_reference there is no kernel";
  setenv("ANYFP8_DISABLE", "cpu_reference ", 1);
  const std::vector<json> measured = rows({"--shape", "64x64", "--m", "1", "--kernel", "all", "-v"});
  unsetenv("ANYFP8_DISABLE");
  ASSERT_FALSE(measured.empty());
  for (const json& row : measured) EXPECT_NE(row["name"], "cpu_reference");
  const std::string command = measured.front()["command"];
  EXPECT_NE(command.find("ANYFP8_DISABLE='cpu_reference ' "), std::string::npos) << command;
  EXPECT_TRUE(command.ends_with("anyfp8 bench --seconds 0.001 --json --shape 64x64 --m 1 --kernel all -v"))
      << command;
  // -v sets it for the library.
  if (std::getenv("ANYFP8_LOG") == nullptr) {
    EXPECT_EQ(command.find("ANYFP8_LOG"), std::string::npos) << command;
  }
}

// .ci/run looks at the rows of a build that has them.
TEST_F(BenchTest, PeersThatAreNotInTheBuildAreRefused) {
  const Outcome outcome = run({"bench", "--peers", "--shape", "512x256", "--m", "3", "--seconds", "0.001"});
  if (outcome.exit_code == 0) GTEST_SKIP() << "this build has the peers";
  expect_one_line_error(outcome, 2, "bench --peers");
  EXPECT_NE(outcome.err.find("-DANYFP8_BENCH_PEERS=ON"), std::string::npos) << outcome.err;
}

TEST_F(CliTest, PlanForAbsentHardwareSaysWhatIsNotBuilt) {
  const json devices = run_json({"devices", "--json"});
  for (const json& name : devices["plan_only"]) {
    const Outcome plan = run({"plan", kModel.string(), "--device", name});
    std::istringstream lines(plan.out.substr(plan.out.find('\n')));  // the first has the model's path
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80u) << line;
    if (name == "sm_70") {  // older than what CUDA 13 builds for: every kernel's reason, and a failure
      expect_one_line_error(plan, 1, "sm_70");
      EXPECT_NE(plan.out.find("compute capability 7.5"), std::string::npos);
      continue;
    }
    EXPECT_EQ(plan.exit_code, 0) << name << plan.err;
    EXPECT_NE(plan.out.find("not used:"), std::string::npos) << name;
  }
}

TEST_F(CliTest, VerifyPassesOnEveryLayer) {
  const json verified = run_json({"verify", kModel.string(), "--json"});
  EXPECT_EQ(verified["failures"], 0);
  std::map<std::string, int> modules;
  for (const json& layer : verified["layers"]) {
    ++modules[layer["module"]];
    EXPECT_LE(layer["worst_relative_error"], layer["bound"]) << layer;
  }
  EXPECT_EQ(modules.size(), 57u);
  // 56 block layers, whose activations are to be quantised, and lm_head.
  for (const json& scheme : verified["accuracy"]) {
    EXPECT_GT(scheme["w8a16_db"]["normal"], 100) << "f32 x and y";
    EXPECT_GT(scheme["w8a16_db"]["outliers"], 100);
    if (scheme["scheme"] == "bf16") {
      EXPECT_TRUE(scheme["w8a8_db"]["normal"].is_null());
      continue;
    }
    EXPECT_EQ(scheme["layers"], 56);
    EXPECT_EQ(scheme["w8a8_emulated"], true);
    // A relative error of 4 % is 28 dB; a uniform one of half a step in 2^-4 .. 2^-3 gives 31.5.
    for (const char* kind : {"normal", "outliers"}) {
      EXPECT_GT(scheme["w8a8_db"][kind], 28) << kind;
      EXPECT_LT(scheme["w8a8_db"][kind], 40) << kind;
    }
  }
  EXPECT_EQ(verified["accuracy"].size(), 2u);
}

TEST_F(CliTest, VerifyTakesABfloat16ModelAsAGpuWould) {
  const json verified = run_json({"verify", kModel.string(), "--activations", "bf16", "--json"});
  EXPECT_EQ(verified["failures"], 0);
  for (const json& scheme : verified["accuracy"]) {
    EXPECT_GT(scheme["w8a16_db"]["normal"], 50) << "a relative error of 0.003";
    EXPECT_LT(scheme["w8a16_db"]["normal"], 60) << "y has 8 bits";
  }
}

TEST_F(CliTest, GeneratePrintsTheTextAlone) {
  if (!has_tokenizer()) GTEST_SKIP() << "built without ICU: no tokenizer";
  const std::vector<std::string> arguments = {
      "generate", kModel.string(), "--prompt", "Psa23:1 The LORD is my shepherd", "--max-tokens", "8"};
  const Outcome said = run(arguments);
  EXPECT_EQ(said.exit_code, 0) << said.err;
  EXPECT_TRUE(said.out.starts_with("; I shall not want")) << said.out;
  EXPECT_EQ(said.out.find('\x1b'), std::string::npos);
  EXPECT_NE(said.err.find("tokens/s"), std::string::npos);
  EXPECT_NE(said.err.find("loaded in"), std::string::npos);
  auto verbose = arguments;
  verbose.insert(verbose.begin(), "-v");
  EXPECT_EQ(said.err.find("not used:"), std::string::npos);
  EXPECT_NE(run(verbose).err.find("not used:"), std::string::npos);
  verbose.front() = "-vv";
  EXPECT_NE(run(verbose).err.find("debug: model.layers.7.mlp.up_proj"), std::string::npos);
  setenv("ANYFP8_LOG", "loud", 1);
  EXPECT_NE(run(arguments).err.find("warning: ANYFP8_LOG=loud is none of "), std::string::npos);
  unsetenv("ANYFP8_LOG");
  auto quiet = arguments;
  quiet.push_back("--quiet");
  const Outcome silent = run(quiet);
  EXPECT_EQ(silent.out, said.out);
  EXPECT_TRUE(silent.err.empty()) << silent.err;
}

TEST_F(CliTest, InterruptedGenerationEndsInOrder) {
  if (!has_tokenizer()) GTEST_SKIP() << "built without ICU: no tokenizer";
  const Outcome outcome =
      run({"generate", kModel.string(), "--prompt", "Ge1:1 In the beginning God", "--max-tokens", "2000",
           "--ignore-eos", "--kernel", "cpu_reference", "--threads", "1"},
          {}, /*interrupt=*/true);
  EXPECT_EQ(outcome.signal, 0);
  EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
  EXPECT_NE(outcome.err.find("interrupted"), std::string::npos) << outcome.err;
}

TEST_F(CliTest, ClosedOutputIsNoCrash) {
  if (!has_tokenizer()) GTEST_SKIP() << "built without ICU: no tokenizer";
  for (const char* line :
       {" kernels | true", " generate \"$MODEL\" --prompt Ge --max-tokens 32 -q | head -c 1 >/dev/null",
        " inspect \"$MODEL\" >/dev/null 2>&-"}) {
    setenv("MODEL", kModel.c_str(), 1);
    const std::string command = "bash -c 'set -o pipefail; " ANYFP8_PROGRAM + std::string(line) + "'";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
  }
  for (const auto& [target, sentence] :
       {std::pair("> /dev/full", "No space left"), std::pair(">&-", "standard output is closed")}) {
    const std::string command =
        fmt::format("{} kernels {} 2> {}", ANYFP8_PROGRAM, target, (folder_ / "err").string());
    EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1) << command;
    EXPECT_NE(read_file(folder_ / "err").find(sentence), std::string::npos) << command;
  }
}

TEST_F(CliTest, TokenizeTakesTextAsItIs) {
  if (!has_tokenizer()) GTEST_SKIP() << "built without ICU: no tokenizer";
  for (const std::string text :
       {"", "In the beginning", "a\n", "\n\n", " ", "tab\tand \xC3\xA9\n", "<|im_start|>user\n"}) {
    const json ids = run_json({"tokenize", kModel.string(), "--json"}, text);
    const json back = run_json({"tokenize", kModel.string(), "--decode", "--json"}, ids.dump());
    EXPECT_EQ(back["text"], text);
    const Outcome plain =
        run({"tokenize", kModel.string(), "--decode"}, run({"tokenize", kModel.string()}, text).out);
    EXPECT_EQ(plain.out, text);
  }
}

TEST_F(CliTest, TokenizeAgreesWithTheOriginal) {
  if (!has_tokenizer()) GTEST_SKIP() << "built without ICU: no tokenizer";
  if (!fs::exists(kShared / "tokenizer_cases.json"))
    GTEST_SKIP() << "../shared/models is not here: no tokenizer cases";
  const json cases = json::parse(read_file(kShared / "tokenizer_cases.json"));
  for (const json& test : cases) {
    const json ids = run_json({"tokenize", kModel.string(), "--json"}, test["text"]);
    EXPECT_EQ(ids["ids"], test["ids"]) << test["text"];
    EXPECT_EQ(run({"tokenize", kModel.string(), "--decode"}, ids.dump()).out,
              test["decoded"].get<std::string>())
        << test["text"];
  }
}

TEST_F(CliTest, TruncatedModelsAreRefused) {
  const std::string whole = read_file(kModel / "model.safetensors");
  std::vector<size_t> lengths = {
      0, 1, 7, 8, 9, 100, 4096, 15687, 15688, 20000, whole.size() / 2, whole.size() - 1};
  for (const size_t length : lengths) {
    const std::string model = model_with(whole.substr(0, length)).string();
    for (const char* verb : {"inspect", "plan", "verify"}) {
      expect_one_line_error(run({verb, model}), 1, fmt::format("{} of {} bytes", verb, length));
    }
    expect_one_line_error(run({"generate", model, "--prompt", "x", "-q"}), 1,
                          fmt::format("generate of {} bytes", length));
  }
  expect_one_line_error(run({"inspect", model_with(whole + "x").string()}), 1, "one byte too many");
}

// A block-quantised layer of 64 x 64 with its scale: a file small enough for a mutation to hit something.
TEST_F(CliTest, MutatedModelsNeverCrash) {
  HostTensor weight = HostTensor::allocate(DType::kE4M3, {64, 64});
  HostTensor scale = HostTensor::allocate(DType::kF32, {1, 1});
  reinterpret_cast<float*>(scale.mutable_data())[0] = 1;
  const std::vector<NamedTensor> tensors = {{"model.layers.0.mlp.up_proj.weight", weight},
                                            {"model.layers.0.mlp.up_proj.weight_scale_inv", scale}};
  write_safetensors(folder_ / "small.safetensors", tensors);
  const std::string good = read_file(folder_ / "small.safetensors");
  EXPECT_EQ(run({"inspect", model_with(good).string()}).exit_code, 0);
  EXPECT_EQ(run({"verify", model_with(good).string()}).exit_code, 0);

  std::mt19937 random(7);
  int refused = 0;
  for (int i = 0; i < 300; ++i) {
    std::string bad = good;
    const size_t header = bad.size() - 64 * 64 - 4;
    for (unsigned flips = 1 + random() % 3; flips > 0; --flips) {
      const size_t at = random() % 4 == 0 ? random() % bad.size() : random() % header;
      bad[at] = static_cast<char>(
          random() % 2 == 0 ? random() : static_cast<unsigned char>(bad[at]) ^ (1u << random() % 8));
    }
    const Outcome outcome = run({i % 3 == 0   ? "verify"
                                 : i % 3 == 1 ? "plan"
                                              : "inspect",
                                 model_with(bad).string()});
    if (outcome.exit_code == 0) continue;
    expect_one_line_error(outcome, 1, fmt::format("mutation {}", i));
    ++refused;
  }
  EXPECT_GT(refused, 150);
}

// 30,000 layers of one element that are all in groups of their own.
TEST_F(CliTest, ManyLayersTakeLittleMemoryAndText) {
  // Beside the program itself, into which a CUDA build loads cuBLASLt. Not held to under sanitizers.
  [[maybe_unused]] const size_t room = run({"kernels"}).peak_bytes + (size_t{56} << 20);
  std::vector<NamedTensor> tensors;
  const HostTensor one = HostTensor::allocate(DType::kBF16, {1, 1});
  std::string prefix;
  while (prefix.size() < 130) prefix += "abcdefghij.";
  for (int i = 0; i < 30000; ++i) tensors.push_back({fmt::format("{}x{}y.weight", prefix, i), one});
  const fs::path file = folder_ / "many.safetensors";
  write_safetensors(file, tensors);
  for (const char* verb : {"inspect", "plan", "verify"}) {
#if !defined(__SANITIZE_ADDRESS__)
    const Outcome as_json = run({verb, file.string(), "--json"});
    EXPECT_LE(as_json.peak_bytes, fs::file_size(file) + room) << verb << " --json";
#endif
    const Outcome outcome = run({verb, file.string()});
    EXPECT_EQ(outcome.exit_code, 0) << verb << outcome.err;
    EXPECT_NE(outcome.out.find("... and 29800 more groups"), std::string::npos) << verb;
    EXPECT_LT(outcome.out.size(), 100'000u) << verb;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_LT(outcome.peak_bytes, fs::file_size(file) + room) << verb;
#endif
  }
}

TEST_F(CliTest, PerplexityAgreesWithTheReference) {
  if (!has_tokenizer()) GTEST_SKIP() << "built without ICU: no tokenizer";
  if (!fs::exists(kShared / "perplexity_text.txt"))
    GTEST_SKIP() << "../shared/models is not here: no text with a known perplexity";
  const json reference = json::parse(read_file(kShared / "kjv-qwen3-block" / "reference.json"));
  const json measured = run_json(
      {"perplexity", kModel.string(), "--file", (kShared / "perplexity_text.txt").string(), "--json", "-q"});
  const double expected = reference["perplexity_first_8192_train_tokens"];
  EXPECT_EQ(measured["tokens"], 8192);
  EXPECT_NEAR(measured["perplexity"], expected, 0.005 * expected);
  EXPECT_EQ(measured["emulate_w8a8"], false);

  const json emulated =
      run_json({"perplexity", kModel.string(), "--file", (kShared / "perplexity_text.txt").string(), "--json",
                "-q", "--emulate-w8a8"});
  EXPECT_EQ(emulated["emulate_w8a8"], true);
  EXPECT_NE(emulated["perplexity"], measured["perplexity"]);
  EXPECT_NEAR(emulated["perplexity"], measured["perplexity"], 0.01 * expected);
}

TEST_F(CliTest, W8A8IsNotEmulatedWhereNobodyAsksForIt) {
  if (!has_tokenizer()) GTEST_SKIP() << "built without ICU: no tokenizer";
  std::ofstream(folder_ / "text") << "In the beginning God created the heaven and the earth.";
  const std::string file = (folder_ / "text").string();
  const Outcome refused =
      run({"perplexity", kModel.string(), "--file", file, "-q", "--emulate-w8a8", "--policy", "accuracy"});
  expect_one_line_error(refused, 1, "policy accuracy");
  EXPECT_NE(refused.err.find("no layer has it"), std::string::npos) << refused.err;
  EXPECT_EQ(run({"perplexity", kModel.string(), "--file", file, "-q", "--emulate-w8a8"}).exit_code, 0);
}

}  // namespace
}  // namespace anyfp8
