// The program itself, as a shell runs it: exit codes, what goes to which stream, and that no file or argument
// ends it by a signal.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/checkpoint/writer.h"

namespace anyfp8 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kModel = fs::path(ANYFP8_SOURCE_DIR) / "models" / "kjv-qwen3-fp8";
const fs::path kShared = fs::path(ANYFP8_SOURCE_DIR) / ".." / "shared" / "models";

const std::vector<std::string> kVerbs = {"devices",  "kernels",    "inspect",  "plan",     "verify",
                                         "generate", "perplexity", "tokenize", "quantize", "bench"};

struct Outcome {
  int exit_code = -1;  // -1: ended by `signal`
  int signal = 0;
  size_t peak_bytes = 0;
  std::string out, err;
};

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A folder of this test's own, removed with it.
class CliTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "anyfp8_cli_test.XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Arguments after "anyfp8", with `input` on stdin. Files carry the streams, so no pipe can fill up.
  // interrupt: SIGINT once there is something on stdout.
  Outcome run(const std::vector<std::string>& arguments, const std::string& input = {},
              bool interrupt = false) {
    std::ofstream(folder_ / "stdin", std::ios::binary) << input;
    std::vector<std::string> words{ANYFP8_PROGRAM};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string files[3] = {folder_ / "stdin", folder_ / "stdout", folder_ / "stderr"};
    fs::remove(files[1]);
    const pid_t child = fork();
    if (child == 0) {
      for (int fd = 0; fd < 3; ++fd) {
        const int file = open(files[fd].c_str(), fd == 0 ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (file < 0 || dup2(file, fd) < 0) _exit(120);
      }
      execv(argv[0], argv.data());
      _exit(121);
    }
    if (interrupt) {
      std::error_code error;
      for (int i = 0; i < 3000 && (!fs::exists(files[1]) || fs::file_size(files[1], error) == 0); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      kill(child, SIGINT);
    }
    int status = 0;
    rusage usage{};
    wait4(child, &status, 0, &usage);
    Outcome outcome;
    outcome.peak_bytes = static_cast<size_t>(usage.ru_maxrss) * 1024;
    if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
    outcome.out = read_file(files[1]);
    outcome.err = read_file(files[2]);
    return outcome;
  }

  json run_json(const std::vector<std::string>& arguments, const std::string& input = {}) {
    const Outcome outcome = run(arguments, input);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    json parsed = json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(parsed.is_object()) << outcome.out;
    return parsed;
  }

  // A 16-bit model in a folder `name`: a layer to quantise, and one of each kind that stays.
  fs::path tiny_model(const std::string& name) {
    const fs::path model = folder_ / name;
    fs::create_directory(model);
    std::ofstream(model / "config.json") << R"({"quantization_config": null})";
    std::ofstream(model / "reference.json") << "{}";
    std::ofstream(model / "tokenizer.json") << "{}";
    fs::permissions(model / "tokenizer.json", fs::perms::owner_read);
    std::vector<NamedTensor> tensors;
    for (const std::string module : {"mlp.up_proj", "mlp.gate", "mlp.shared_expert_gate", "router"}) {
      tensors.push_back(
          {"model.layers.0." + module + ".weight", HostTensor::allocate(DType::kBF16, {128, 128})});
    }
    tensors.push_back({std::string(600, 'a') + ".weight", HostTensor::allocate(DType::kBF16, {128, 128})});
    tensors.push_back({std::string(500, 'a') + ".weight", HostTensor::allocate(DType::kBF16, {128, 128})});
    write_safetensors(model / "odd-name.safetensors", tensors);
    return model;
  }

  // The model's small files, and the weights given instead of its own.
  fs::path model_with(const std::string& weights) {
    const fs::path model = folder_ / "model";
    fs::remove_all(model);
    fs::create_directory(model);
    for (const char* name :
         {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
      fs::copy_file(kModel / name, model / name);
    }
    std::ofstream(model / "model.safetensors", std::ios::binary) << weights;
    return model;
  }

  fs::path folder_;
};

// "anyfp8: error: <sentence>\n", with no more than the hint of a usage error after it.
void expect_one_line_error(const Outcome& outcome, int exit_code, const std::string& context) {
  EXPECT_EQ(outcome.signal, 0) << context;
  EXPECT_EQ(outcome.exit_code, exit_code) << context << "\n" << outcome.err;
  EXPECT_TRUE(outcome.err.starts_with("anyfp8: error: ")) << context << "\n" << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), exit_code == 2 ? 2 : 1)
      << context << "\n"
      << outcome.err;
  EXPECT_EQ(outcome.err.find("std::"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("bug in anyfp8"), std::string::npos) << context << "\n" << outcome.err;
}

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
      {"generate", model, "--prompt", "x", "--disable", "cpu_reference,cpu_avx2_w8a16,cpu_avx512_w8a16"},
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
    for (const json& rejection : group["rejected"])
      EXPECT_FALSE(rejection["reason"].get<std::string>().empty());
  }
  EXPECT_EQ(layers, 57u);  // the tied lm_head too

  EXPECT_EQ(run_json({"bench", "--shape", "1x1", "--seconds", "0.001", "--json"})["rows"].size(), 3u);
  const json bench = run_json(
      {"bench", "--shape", "64x64", "--m", "1,3", "--kernel", "all", "--seconds", "0.001", "--json"});
  EXPECT_GE(bench["rows"].size(), 2u);
}

TEST_F(CliTest, PlanForAbsentHardwareSaysWhatIsNotBuilt) {
  for (const json& name : run_json({"devices", "--json"})["plan_only"]) {
    const Outcome plan = run({"plan", kModel.string(), "--device", name});
    std::istringstream lines(plan.out.substr(plan.out.find('\n')));  // the first has the model's path
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80u) << line;
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
}

TEST_F(CliTest, GeneratePrintsTheTextAlone) {
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
  const Outcome outcome =
      run({"generate", kModel.string(), "--prompt", "Ge1:1 In the beginning God", "--max-tokens", "2000",
           "--ignore-eos", "--kernel", "cpu_reference", "--threads", "1"},
          {}, /*interrupt=*/true);
  EXPECT_EQ(outcome.signal, 0);
  EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
  EXPECT_NE(outcome.err.find("interrupted"), std::string::npos) << outcome.err;
}

TEST_F(CliTest, ClosedOutputIsNoCrash) {
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

TEST_F(CliTest, QuantizeWritesOneWholeModel) {
  const fs::path in = tiny_model("in"), out = folder_ / "out";
  const Outcome made =
      run({"quantize", in.string(), out.string(), "--scheme", "block", "--ignore", "nosuch"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_NE(made.err.find("--ignore nosuch matches no layer"), std::string::npos) << made.err;
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"config.json", "model.safetensors", "tokenizer.json"}));
  EXPECT_NE(fs::status(out / "tokenizer.json").permissions() & fs::perms::owner_write, fs::perms::none);
  const Checkpoint checkpoint = Checkpoint::open(out);
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    const bool quantized =
        tensor.name.find("up_proj.weight") != std::string_view::npos || tensor.name[0] == 'a';
    if (tensor.name.ends_with("scale_inv")) continue;
    EXPECT_EQ(tensor.dtype_name, quantized ? "F8_E4M3" : "BF16") << tensor.name;
  }
  // A pattern that takes a backtracking matcher 2^500 steps; the name of 600 characters is not looked at.
  const Outcome patient = run({"quantize", in.string(), (folder_ / "patient").string(), "--scheme", "tensor",
                               "--ignore", "(a*)*b", "--ignore", "^a{500}"});
  EXPECT_EQ(patient.exit_code, 0) << patient.err;
  EXPECT_EQ(Checkpoint::open(folder_ / "patient").info(std::string(500, 'a') + ".weight")->dtype_name,
            "BF16");
  EXPECT_EQ(Checkpoint::open(folder_ / "patient").info(std::string(600, 'a') + ".weight")->dtype_name,
            "F8_E4M3");
}

// What quantize did not write it does not delete, and what it cannot replace it leaves whole.
TEST_F(CliTest, QuantizeDeletesNothingOfOthers) {
  const fs::path in = tiny_model("out.anyfp8-partial"), out = folder_ / "out";
  const auto quantize = [&](const std::string& target, bool force) {
    std::vector<std::string> arguments = {"quantize", in.string(), target, "--scheme", "block"};
    if (force) arguments.push_back("--force");
    return run(arguments);
  };
  const std::string weights = read_file(in / "odd-name.safetensors");
  fs::create_directory(out);
  EXPECT_EQ(quantize(out, false).exit_code, 0);  // an empty folder is no loss
  expect_one_line_error(quantize(out, false), 1, "OUT has a model");
  EXPECT_EQ(quantize(out, true).exit_code, 0);
  std::ofstream(out / "notes.txt") << "x";
  const Outcome refused = quantize(out, true);
  expect_one_line_error(refused, 1, "a file of somebody else");
  EXPECT_NE(refused.err.find("notes.txt"), std::string::npos) << refused.err;
  EXPECT_EQ(read_file(out / "notes.txt"), "x");
  EXPECT_TRUE(fs::exists(out / "model.safetensors"));

  fs::create_directory_symlink(in, folder_ / "link");
  std::ofstream(folder_ / "file") << "x";
  for (const fs::path& target : {in, in / "", in / ".." / in.filename(), folder_ / "link", folder_,
                                 folder_ / "file", folder_ / "nosuch" / "out"}) {
    expect_one_line_error(quantize(target, true), 1, target.string());
  }
  EXPECT_FALSE(fs::exists(folder_ / "nosuch"));
  EXPECT_EQ(read_file(in / "odd-name.safetensors"), weights);
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_))
    EXPECT_FALSE(entry.path().filename().string().starts_with(".anyfp8")) << entry.path();
}

// 30,000 layers of one element that are all in groups of their own.
TEST_F(CliTest, ManyLayersTakeLittleMemoryAndText) {
  constexpr size_t kRoom = size_t{64} << 20;
  std::vector<NamedTensor> tensors;
  const HostTensor one = HostTensor::allocate(DType::kBF16, {1, 1});
  std::string prefix;
  while (prefix.size() < 130) prefix += "abcdefghij.";
  for (int i = 0; i < 30000; ++i) tensors.push_back({fmt::format("{}x{}y.weight", prefix, i), one});
  const fs::path file = folder_ / "many.safetensors";
  write_safetensors(file, tensors);
  for (const char* verb : {"inspect", "plan", "verify"}) {
    const Outcome outcome = run({verb, file.string()});
    EXPECT_EQ(outcome.exit_code, 0) << verb << outcome.err;
    EXPECT_NE(outcome.out.find("... and 29800 more groups"), std::string::npos) << verb;
    EXPECT_LT(outcome.out.size(), 100'000u) << verb;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_LT(outcome.peak_bytes, fs::file_size(file) + kRoom) << verb;
#endif
  }
}

TEST_F(CliTest, BlockQuantisationIsTheReferencesToTheByte) {
  if (!fs::exists(kShared / "kjv-qwen3"))
    GTEST_SKIP() << "../shared/models is not here: no 16-bit model to quantise";
  const fs::path out = folder_ / "block";
  const Outcome made = run({"quantize", (kShared / "kjv-qwen3").string(), out.string(), "--scheme", "block"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_TRUE(made.err.empty()) << made.err;  // no progress bar into a file
  EXPECT_EQ(read_file(out / "model.safetensors"),
            read_file(kShared / "kjv-qwen3-block" / "model.safetensors"));
  EXPECT_EQ(json::parse(read_file(out / "config.json")),
            json::parse(read_file(kShared / "kjv-qwen3-block" / "config.json")));
  EXPECT_EQ(read_file(out / "tokenizer.json"), read_file(kModel / "tokenizer.json"));
}

TEST_F(CliTest, EveryQuantisedFormSaysTheSameText) {
  if (!fs::exists(kShared / "kjv-qwen3"))
    GTEST_SKIP() << "../shared/models is not here: no 16-bit model to quantise";
  const json reference = json::parse(read_file(kShared / "kjv-qwen3" / "reference.json"));
  const std::vector<std::vector<std::string>> forms = {{"tensor", "fp8"},
                                                       {"block", "fp8"},
                                                       {"mxfp8", "fp8"},
                                                       {"tensor", "compressed-tensors"},
                                                       {"channel", "compressed-tensors"},
                                                       {"block", "compressed-tensors"},
                                                       {"mxfp8", "compressed-tensors"}};
  for (const auto& form : forms) {
    const std::string out = folder_ / (form[0] + form[1]);
    ASSERT_EQ(
        run({"quantize", (kShared / "kjv-qwen3").string(), out, "--scheme", form[0], "--dialect", form[1]})
            .exit_code,
        0);
    const json inspected = run_json({"inspect", out, "--json"});
    EXPECT_EQ(inspected["fp8_layers"], 56) << out;
    EXPECT_TRUE(inspected["anomalies"].empty()) << out << inspected["anomalies"];
    const json& prompt = reference["prompts"][1];
    const Outcome said = run({"generate", out, "--prompt", prompt["text"], "--max-tokens", "48", "-q"});
    EXPECT_EQ(said.exit_code, 0) << said.err;
    EXPECT_TRUE(prompt["completion"].get<std::string>().starts_with(said.out)) << out << said.out;
  }
}

TEST_F(CliTest, QuantiseLeavesOutWhatIsIgnored) {
  if (!fs::exists(kShared / "kjv-qwen3"))
    GTEST_SKIP() << "../shared/models is not here: no 16-bit model to quantise";
  const std::string out = folder_ / "out";
  ASSERT_EQ(run({"quantize", (kShared / "kjv-qwen3").string(), out, "--scheme", "block", "--ignore",
                 "layers\\.0\\.", "--ignore", "down_proj"})
                .exit_code,
            0);
  const json inspected = run_json({"inspect", out, "--json"});
  EXPECT_EQ(inspected["fp8_layers"], 56 - 7 - 7);
  EXPECT_TRUE(inspected["anomalies"].empty()) << inspected["anomalies"];
}

// Shards stay shards, and the index names every tensor.
TEST_F(CliTest, ShardedModelsStaySharded) {
  if (!fs::exists(kShared / "kjv-qwen3"))
    GTEST_SKIP() << "../shared/models is not here: no 16-bit model to quantise";
  const Checkpoint source = Checkpoint::open(kShared / "kjv-qwen3");
  const fs::path sharded = folder_ / "sharded";
  fs::create_directory(sharded);
  for (const char* name : {"config.json", "tokenizer.json"})
    fs::copy_file(kShared / "kjv-qwen3" / name, sharded / name);
  std::vector<NamedTensor> parts[2];
  json index = {{"metadata", json::object()}, {"weight_map", json::object()}};
  const std::string names[2] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  for (const TensorInfo& tensor : source.tensors()) {
    const size_t part = tensor.name.find("layers.3") == std::string_view::npos;
    parts[part].push_back({std::string(tensor.name), source.tensor(tensor.name)});
    index["weight_map"][std::string(tensor.name)] = names[part];
  }
  for (size_t part = 0; part < 2; ++part) write_safetensors(sharded / names[part], parts[part]);
  write_text_file(sharded / "model.safetensors.index.json", index.dump());

  const fs::path out = folder_ / "out";
  ASSERT_EQ(run({"quantize", sharded.string(), out.string(), "--scheme", "block"}).exit_code, 0);
  EXPECT_TRUE(fs::exists(out / names[0]) && fs::exists(out / names[1]) &&
              !fs::exists(out / "model.safetensors"));
  const Checkpoint made = Checkpoint::open(out), expected = Checkpoint::open(kShared / "kjv-qwen3-block");
  ASSERT_EQ(made.tensors().size(), expected.tensors().size());
  for (const TensorInfo& tensor : expected.tensors()) {
    const HostTensor a = made.tensor(tensor.name), b = expected.tensor(tensor.name);
    EXPECT_TRUE(a.dtype() == b.dtype() && std::ranges::equal(a.bytes(), b.bytes())) << tensor.name;
  }
}

TEST_F(CliTest, PerplexityAgreesWithTheReference) {
  if (!fs::exists(kShared / "perplexity_text.txt"))
    GTEST_SKIP() << "../shared/models is not here: no text with a known perplexity";
  const json reference = json::parse(read_file(kShared / "kjv-qwen3-block" / "reference.json"));
  const json measured = run_json(
      {"perplexity", kModel.string(), "--file", (kShared / "perplexity_text.txt").string(), "--json", "-q"});
  const double expected = reference["perplexity_first_8192_train_tokens"];
  EXPECT_EQ(measured["tokens"], 8192);
  EXPECT_NEAR(measured["perplexity"], expected, 0.005 * expected);
}

}  // namespace
}  // namespace anyfp8
