#include "anyfp8/checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "anyfp8/base/error.h"
#include "anyfp8/base/log.h"
#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/checkpoint/test_files.h"

namespace anyfp8 {
namespace {

namespace fs = std::filesystem;

// One byte per name.
std::string shard(const std::vector<std::string>& names, std::string_view dtype = "U8") {
  std::string header = R"({"__metadata__":{"format":"pt","first":")" + names.front() + "\"}";
  size_t at = 0;
  for (const std::string& name : names) {
    header += ",\"" + name + "\":{\"dtype\":\"" + std::string(dtype) + "\",\"shape\":[1],\"data_offsets\":[" +
              std::to_string(at) + "," + std::to_string(at + 1) + "]}";
    ++at;
  }
  return safetensors_text(header + "}", at);
}

Error open_error(const fs::path& path) {
  try {
    Checkpoint::open(path);
  } catch (const Error& error) {
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos);
    EXPECT_TRUE(std::string_view(error.what()).starts_with(path.string())) << error.what();
    return error;
  }
  return Error(ErrorCode::kInternal, "opened");
}

void expect_error(const fs::path& path, ErrorCode code, std::string_view words) {
  const Error error = open_error(path);
  EXPECT_EQ(error.code(), code) << error.what();
  EXPECT_NE(std::string_view(error.what()).find(words), std::string_view::npos)
      << "need: " << words << "\nfound: " << error.what();
}

TEST(Checkpoint, SingleFile) {
  const TestDirectory directory;
  const Checkpoint checkpoint = Checkpoint::open(directory.put("any.safetensors", shard({"b", "a"})));
  EXPECT_EQ(checkpoint.shard_paths().size(), 1u);
  EXPECT_EQ(checkpoint.file_bytes(), fs::file_size(directory.path() / "any.safetensors"));
  const auto tensors = checkpoint.tensors();
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].dtype, DType::kU8);
  EXPECT_EQ(tensors[0].shape, Shape{1});
  EXPECT_EQ(tensors[0].bytes, 1u);
  EXPECT_EQ(checkpoint.tensor("a").data()[0], std::byte{1});
  EXPECT_EQ(checkpoint.metadata("format"), "pt");
  EXPECT_FALSE(checkpoint.metadata("other"));
  EXPECT_TRUE(config_json(checkpoint).is_object());
  EXPECT_TRUE(config_json(checkpoint).empty());
  EXPECT_TRUE(sibling_json(checkpoint, "any.safetensors").is_null());
}

TEST(Checkpoint, TensorsOutliveTheCheckpoint) {
  const TestDirectory directory;
  HostTensor tensor;
  {
    const Checkpoint checkpoint = Checkpoint::open(directory.put("f", shard({"x", "y"})));
    tensor = checkpoint.tensor("y");
  }
  EXPECT_FALSE(tensor.owned());
  EXPECT_EQ(tensor.data()[0], std::byte{1});
}

TEST(Checkpoint, ShardsOfAnIndexAlsoAsLinksOutOfTheDirectory) {
  const TestDirectory directory;
  directory.put("blobs/1", shard({"a", "extra"}));
  directory.put("blobs/2", shard({"b"}));
  directory.put("model/config.json", R"({"hidden_size": 7})");
  directory.put("model/generation_config.json", R"({"eos_token_id": [1]})");
  fs::create_symlink("../blobs/1", directory.path() / "model/m-1.safetensors");
  fs::create_symlink("../blobs/2", directory.path() / "model/m-2.safetensors");
  directory.put("model/stray.safetensors", "not read");
  directory.put(
      "model/model.safetensors.index.json",
      R"({"metadata":{"total_size":1.5},"weight_map":{"b":"m-2.safetensors","a":"m-1.safetensors"}})");
  std::vector<std::string> warnings;
  set_log_sink([&](LogLevel, std::string_view text) { warnings.emplace_back(text); });
  const Checkpoint checkpoint = Checkpoint::open(directory.path() / "model");
  set_log_sink({});
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("1 tensors of the shards are not in the index"), std::string::npos)
      << warnings[0];
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_FALSE(checkpoint.has("extra"));
  EXPECT_EQ(checkpoint.info("a")->shard, 0);
  EXPECT_EQ(checkpoint.info("b")->shard, 1);
  EXPECT_EQ(checkpoint.shard_paths()[1].filename(), "m-2.safetensors");
  EXPECT_EQ(checkpoint.metadata("first"), "a");
  EXPECT_EQ(config_json(checkpoint)["hidden_size"], 7);
  EXPECT_EQ(sibling_json(checkpoint, "generation_config.json")["eos_token_id"][0], 1);
  EXPECT_TRUE(sibling_json(checkpoint, "absent.json").is_null());
}

TEST(Checkpoint, ShardsWithoutAnIndex) {
  const TestDirectory directory;
  directory.put("x-2.safetensors", shard({"b"}));
  directory.put("x-1.safetensors", shard({"a"}));
  directory.put("consolidated.safetensors", shard({"a"}));
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.shard_paths()[0].filename(), "x-1.safetensors");
  directory.put("y.safetensors", shard({"c", "b"}));
  expect_error(directory.path(), ErrorCode::kInvalidFile,
               "tensor \"b\" is there twice, in \"x-2.safetensors\" and in \"y.safetensors\"");
  directory.put("model.safetensors", shard({"single"}));  // has priority
  EXPECT_TRUE(Checkpoint::open(directory.path()).has("single"));
}

TEST(Checkpoint, RefusesBadIndexes) {
  struct Case {
    std::string_view index;
    ErrorCode code;
    std::string_view words;
  };
  const Case cases[] = {
      {R"({"weight_map":{"a":"../m.safetensors"}})", ErrorCode::kInvalidFile, "must be a plain file name"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", ErrorCode::kInvalidFile, "must be a plain file name"},
      {R"({"weight_map":{"a":"d/m.safetensors"}})", ErrorCode::kInvalidFile, "must be a plain file name"},
      {R"({"weight_map":{"a":"d\\m.safetensors"}})", ErrorCode::kInvalidFile, "must be a plain file name"},
      {R"({"weight_map":{"a":"m.safetensors\u0000"}})", ErrorCode::kInvalidFile, "must be a plain file name"},
      {R"({"weight_map":{"a":".."}})", ErrorCode::kInvalidFile, "is a directory"},
      {R"({"weight_map":{"a":""}})", ErrorCode::kInvalidFile, "is empty"},
      {R"({"weight_map":{"a":7}})", ErrorCode::kInvalidFile,
       "\"a\" of weight_map must be a string, found number"},
      {R"({"weight_map":{"a":{"file":"m.safetensors"}}})", ErrorCode::kInvalidFile,
       "must be a string, found object"},
      {R"({"weight_map":{"a":null}})", ErrorCode::kInvalidFile, "must be a string, found null"},
      {R"({"weight_map":{"a":"n.safetensors"}})", ErrorCode::kNotFound, "1 of its 1 shards are not there"},
      {R"({"weight_map":{"z":"m.safetensors"}})", ErrorCode::kInvalidFile,
       "\"z\" into \"m.safetensors\", which has no such tensor"},
      {R"({"weight_map":{"a":"m.safetensors","a":"m.safetensors"}})", ErrorCode::kInvalidFile, "twice"},
      {R"({"weight_map":{"a":"m.safetensors"},"weight_map":{}})", ErrorCode::kInvalidFile,
       "key \"weight_map\" is there twice"},
      {R"({"metadata":{"x":1,"x":1},"weight_map":{"a":"m.safetensors"}})", ErrorCode::kInvalidFile,
       "key \"x\" is there twice"},
      {R"({"weight_map":{}})", ErrorCode::kInvalidFile, "weight_map is empty"},
      {R"({"weight_map":[]})", ErrorCode::kInvalidFile, "object weight_map"},
      {R"({"metadata":{}})", ErrorCode::kInvalidFile, "object weight_map"},
      {R"(["weight_map"])", ErrorCode::kInvalidFile, "object weight_map"},
      {R"({"weight_map":{"a":"m.safetensors"}} x)", ErrorCode::kInvalidFile, "not valid JSON"},
      {"", ErrorCode::kInvalidFile, "not valid JSON"},
  };
  for (const Case& c : cases) {
    const TestDirectory directory;
    directory.put("m.safetensors", shard({"a", "b"}));
    directory.put("model.safetensors.index.json", c.index);
    expect_error(directory.path(), c.code, c.words);
  }
}

TEST(Checkpoint, SaysWhatIsThereInstead) {
  const TestDirectory directory;
  const fs::path& root = directory.path();
  expect_error(root / "absent", ErrorCode::kNotFound, "there is no such file or directory");
  expect_error(root, ErrorCode::kNotFound, "the directory is empty");
  directory.put("bin/pytorch_model.bin", "");
  expect_error(root / "bin", ErrorCode::kNotFound,
               "only \"pytorch_model.bin\"; PyTorch pickles are not read");
  directory.put("gguf/model.gguf", "");
  expect_error(root / "gguf", ErrorCode::kNotFound, "GGUF files are not read");
  directory.put("hub/snapshots/abc/model.safetensors", "");
  expect_error(root / "hub", ErrorCode::kNotFound, "give the directory of a revision");
  for (int i = 0; i < 9; ++i) directory.put("many/" + std::to_string(i), "");
  expect_error(root / "many", ErrorCode::kNotFound, "\"5\" and 3 more");
  directory.put("lfs/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
  EXPECT_NE(std::string_view(open_error(root / "lfs").what()).find("Git LFS pointer"),
            std::string_view::npos);
  ASSERT_EQ(::mkfifo((root / "pipe").c_str(), 0600), 0);
  expect_error(root / "pipe", ErrorCode::kIo, "not a regular file");
  fs::create_symlink("nowhere", root / "link");
  expect_error(root / "link", ErrorCode::kNotFound, "no such file");
}

TEST(Checkpoint, ConfigIsCheckedJson) {
  const auto config_error = [](std::string_view text, std::string_view words) {
    const TestDirectory directory;
    directory.put("model.safetensors", shard({"a"}));
    directory.put("config.json", text);
    expect_error(directory.path(), ErrorCode::kInvalidFile, words);
  };
  config_error("{\"a\": 1,\n \"b\": tru}", "config.json: byte 19: not valid JSON, syntax error");
  config_error("[]", "must hold an object, found array");
  config_error(R"({"a":{"b":1,"b":2}})", "the key \"b\" is there twice");
  config_error("{\"a\":" + std::string(64, '[') + std::string(64, ']') + "}", "nested more than 64 deep");
  config_error("{\"a\":\"\xFF\"}", "not valid JSON");
  config_error("{\"a\":1e999}", "not valid JSON");
  config_error(std::string((4 << 20) + 1, ' '), "at most 4194304 are read");
  config_error("{\"" + std::string((1 << 20) + 10, 'x') + "\":1}", "in one string, number or gap");
}

TEST(Checkpoint, MissingTensorsNameTheirNeighbours) {
  const TestDirectory directory;
  const Checkpoint checkpoint = Checkpoint::open(directory.put(
      "f", shard({"model.layers.0.q_proj.weight", "model.layers.1.q_proj.weight", "model.norm.weight"})));
  const auto message = [&](std::string_view name) {
    try {
      checkpoint.tensor(name);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kNotFound);
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_TRUE(
      message("layers.0.q_proj.weight")
          .ends_with("no tensor \"layers.0.q_proj.weight\" among 3; near: \"model.layers.0.q_proj.weight\""));
  EXPECT_TRUE(message("model.layers.1.k_proj.weight")
                  .ends_with("near: \"model.layers.1.q_proj.weight\", \"model.layers.0.q_proj.weight\""));
  EXPECT_TRUE(message("zzzzzzzzzzzzzzzzzzzz").find("; it has \"model.layers.0.q_proj.weight\"") !=
              std::string::npos);
}

TEST(Checkpoint, UnknownTypesAreErrorsOnlyWhenAskedFor) {
  const TestDirectory directory;
  const Checkpoint checkpoint = Checkpoint::open(directory.put("f", shard({"a"}, "F99")));
  EXPECT_EQ(checkpoint.info("a")->dtype_name, "F99");
  EXPECT_FALSE(checkpoint.info("a")->dtype);
  try {
    checkpoint.tensor("a");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string_view(error.what()).find("dtype \"F99\""), std::string_view::npos);
  }
}

TEST(Checkpoint, ModelOfTheRepository) {
  const Checkpoint checkpoint = Checkpoint::open(fs::path(ANYFP8_SOURCE_DIR) / "models" / "kjv-qwen3-fp8");
  const HostTensor weight = checkpoint.tensor("model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(weight.dtype(), DType::kE4M3);
  EXPECT_EQ(weight.shape(), checkpoint.info("model.layers.0.mlp.down_proj.weight")->shape);
  EXPECT_EQ(config_json(checkpoint)["quantization_config"]["quant_method"], "fp8");
}

}  // namespace
}  // namespace anyfp8
