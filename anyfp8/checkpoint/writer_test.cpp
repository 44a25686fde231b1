#include "anyfp8/checkpoint/writer.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>

#include "anyfp8/base/error.h"
#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/checkpoint/safetensors.h"
#include "anyfp8/checkpoint/test_files.h"

namespace anyfp8 {
namespace {

namespace fs = std::filesystem;

HostTensor filled(DType dtype, Shape shape, uint8_t value) {
  HostTensor tensor = HostTensor::allocate(dtype, std::move(shape));
  std::memset(tensor.mutable_data(), value, tensor.size_bytes());
  return tensor;
}

Error write_error(const fs::path& path, std::span<const NamedTensor> tensors, const Metadata& metadata = {}) {
  try {
    write_safetensors(path, tensors, metadata);
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kInternal, "written");
}

size_t files_in(const fs::path& directory) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(directory), fs::directory_iterator()));
}

void expect_same_after_rewrite(const fs::path& file, const fs::path& target) {
  const Checkpoint checkpoint = Checkpoint::open(file);
  std::vector<NamedTensor> tensors;
  for (const TensorInfo& info : checkpoint.tensors())
    tensors.push_back({std::string(info.name), checkpoint.tensor(info.name)});
  const auto mapped = MappedFile::open(file);
  write_safetensors(target, tensors, SafetensorsHeader::parse(mapped->bytes()).metadata());
  EXPECT_TRUE(file_text(file) == file_text(target)) << file;
}

TEST(Writer, ModelsOfOtherWritersComeBackByteForByte) {
  const fs::path source(ANYFP8_SOURCE_DIR);
  int files = 0;
  for (const fs::path& root : {source / "models", source / ".." / "shared" / "models"}) {
    std::error_code absent;
    for (fs::recursive_directory_iterator it(root, absent), end; it != end; ++it) {
      if (it->path().extension() != ".safetensors") continue;
      const TestDirectory directory;
      expect_same_after_rewrite(it->path(), directory.path() / "copy.safetensors");
      ++files;
    }
  }
  if (files == 0) GTEST_SKIP() << "no models in models/ or ../shared/models";
}

TEST(Writer, OrdersByDTypeThenNameAndPadsTheHeader) {
  const TestDirectory directory;
  const std::vector<NamedTensor> tensors = {
      {"b", filled(DType::kE4M3, {3}, 1)}, {"a", filled(DType::kE4M3, {2}, 2)},
      {"z", filled(DType::kF32, {}, 3)},   {"m", filled(DType::kBF16, {1}, 4)},
      {"h", filled(DType::kF16, {1}, 5)},  {"e", filled(DType::kU8, {0, 4}, 6)}};
  write_safetensors(directory.path() / "f", tensors, {});
  const std::string text = file_text(directory.path() / "f");
  const std::string header =
      R"({"z":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"m":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]},)"
      R"("h":{"dtype":"F16","shape":[1],"data_offsets":[6,8]},"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[8,10]},)"
      R"("b":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[10,13]},"e":{"dtype":"U8","shape":[0,4],"data_offsets":[13,13]}})";
  EXPECT_EQ(text.substr(8, header.size()), header);
  EXPECT_EQ(text.find_first_not_of(' ', 8 + header.size()) % 8, 0u);
  EXPECT_EQ(text.substr(text.size() - 13), "\3\3\3\3\4\4\5\5\2\2\1\1\1");
}

TEST(Writer, EscapesNamesAndMetadata) {
  const TestDirectory directory;
  const std::string name = "a\"b\\c/\xC3\xA9\xF0\x9F\x98\x80";
  const Metadata metadata = {{"k\"\n\x01", "v\t\\\b\f\r\x1F\x7F"}, {"empty", ""}};
  const std::vector<NamedTensor> tensors = {{name, filled(DType::kU8, {1}, 7)}};
  write_safetensors(directory.path() / "f", tensors, metadata);
  const auto file = MappedFile::open(directory.path() / "f");
  const SafetensorsHeader header = SafetensorsHeader::parse(file->bytes());
  EXPECT_EQ(header.entry(0).name, name);
  EXPECT_EQ(header.metadata(), metadata);
  EXPECT_NE(file_text(directory.path() / "f").find(R"({"k\"\n\u0001":"v\t\\\b\f\r\u001f)"),
            std::string::npos);
}

TEST(Writer, AMappedSourceMayBeItsOwnTarget) {
  const TestDirectory directory;
  const fs::path path = directory.path() / "f";
  write_safetensors(path, std::vector<NamedTensor>{{"a", filled(DType::kU8, {1000}, 7)}});
  const Checkpoint before = Checkpoint::open(path);
  const std::vector<NamedTensor> twice = {{"a", before.tensor("a")}, {"b", before.tensor("a")}};
  write_safetensors(path, twice);
  EXPECT_EQ(before.tensor("a").data()[999], std::byte{7});  // the old file, still mapped
  const Checkpoint after = Checkpoint::open(path);
  EXPECT_EQ(after.tensor("b").data()[999], std::byte{7});
  EXPECT_EQ(after.metadata("format"), "pt");
  EXPECT_EQ(files_in(directory.path()), 1u);
}

TEST(Writer, FilesHaveTheModeOfAnyNewFile) {
  const TestDirectory directory;
  directory.put("plain", "");
  write_text_file(directory.path() / "text", "x");
  struct stat plain {
  }, written{};
  ASSERT_EQ(::stat((directory.path() / "plain").c_str(), &plain), 0);
  ASSERT_EQ(::stat((directory.path() / "text").c_str(), &written), 0);
  EXPECT_EQ(written.st_mode, plain.st_mode);
}

TEST(Writer, AFullDiskIsAnErrorThatLeavesTheOldFile) {
  const TestDirectory directory;
  const fs::path path = directory.put("f", "old");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Error error = write_error(path, std::vector<NamedTensor>{{"a", filled(DType::kU8, {100'000}, 1)}});
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(error.code(), ErrorCode::kIo) << error.what();
  EXPECT_EQ(error.what(), path.string() + ": cannot be written: File too large");
  EXPECT_EQ(file_text(path), "old");
  EXPECT_EQ(files_in(directory.path()), 1u);
}

TEST(Writer, PathsThatCannotBeWrittenAreErrors) {
  const TestDirectory directory;
  EXPECT_EQ(write_error(directory.path() / "no" / "f", {}).code(), ErrorCode::kIo);
  fs::create_directory(directory.path() / "d");
  EXPECT_EQ(write_error(directory.path() / "d", {}).code(), ErrorCode::kIo);
  EXPECT_EQ(files_in(directory.path()), 1u);
  EXPECT_THROW(write_text_file(directory.path() / "no" / "f", ""), Error);
}

TEST(Writer, RefusesWhatTheReaderWouldRefuse) {
  const TestDirectory directory;
  const fs::path path = directory.path() / "f";
  const HostTensor one = filled(DType::kU8, {1}, 1);
  const auto refusal = [&](std::vector<NamedTensor> tensors, const Metadata& metadata = {}) {
    const Error error = write_error(path, tensors, metadata);
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << error.what();
    return std::string(error.what());
  };
  EXPECT_EQ(refusal({{"a", one}, {"a", one}}), "\"a\" cannot be written: it is there twice");
  EXPECT_EQ(refusal({{"", one}}), "\"\" cannot be written: it is empty");
  EXPECT_EQ(refusal({{"a\n", one}}), "\"a\\x0a\" cannot be written: it holds a control character");
  EXPECT_EQ(refusal({{"\xFF", one}}), "\"\\xff\" cannot be written: it is not valid UTF-8");
  EXPECT_EQ(refusal({{"__metadata__", one}}), "\"__metadata__\" cannot be written: it is reserved");
  EXPECT_EQ(refusal({{"a", HostTensor()}}), "\"a\" cannot be written: it has no bytes");
  EXPECT_EQ(refusal({{"a", filled(DType::kU8, {1, 1, 1, 1, 1, 1, 1, 1, 1}, 1)}}),
            "\"a\" cannot be written: it has more than 8 dimensions");
  EXPECT_EQ(refusal({}, {{"a", "1"}, {"a", "2"}}),
            "\"a\" cannot be written: it is there twice in the metadata");
  EXPECT_EQ(refusal({}, {{"a", std::string(1, '\0')}}), "\"\\x00\" cannot be written: it holds NUL");
  EXPECT_EQ(files_in(directory.path()), 0u);
}

}  // namespace
}  // namespace anyfp8
