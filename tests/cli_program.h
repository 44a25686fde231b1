#pragma once

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

namespace fs = std::filesystem;
using nlohmann::json;

inline const fs::path kModel = fs::path(ANYFP8_SOURCE_DIR) / "models" / "kjv-qwen3-fp8";
inline const fs::path kShared = fs::path(ANYFP8_SOURCE_DIR) / ".." / "shared" / "models";

inline const std::vector<std::string> kVerbs = {"devices",  "kernels",  "inspect",    "plan",
                                                "verify",   "generate", "perplexity", "tokenize",
                                                "quantize", "bench",    "tune"};

struct Outcome {
  int exit_code = -1;  // -1: ended by `signal`
  int signal = 0;
  size_t peak_bytes = 0;
  std::string out, err;
};

inline std::string read_file(const fs::path& path) {
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

  // A build without ICU has no tokenizer, and says so where one is needed.
  bool has_tokenizer() { return run({"--version"}).out.find("icu       yes") != std::string::npos; }

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
inline void expect_one_line_error(const Outcome& outcome, int exit_code, const std::string& context) {
  EXPECT_EQ(outcome.signal, 0) << context;
  EXPECT_EQ(outcome.exit_code, exit_code) << context << "\n" << outcome.err;
  EXPECT_TRUE(outcome.err.starts_with("anyfp8: error: ")) << context << "\n" << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), exit_code == 2 ? 2 : 1)
      << context << "\n"
      << outcome.err;
  EXPECT_EQ(outcome.err.find("std::"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("bug in anyfp8"), std::string::npos) << context << "\n" << outcome.err;
}

}  // namespace anyfp8
