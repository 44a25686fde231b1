// anyfp8 quantize: what it writes, what it leaves alone, and that it deletes nothing of others.
#include <set>

#include "tests/cli_program.h"

namespace anyfp8 {
namespace {

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
  if (!has_tokenizer()) GTEST_SKIP() << "built without ICU: no tokenizer";
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

}  // namespace
}  // namespace anyfp8
