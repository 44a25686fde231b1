#include "anyfp8/kernels/tune_table.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "anyfp8/base/error.h"
#include "anyfp8/base/log.h"
#include "anyfp8/kernels/select.h"

namespace anyfp8 {
namespace {

namespace fs = std::filesystem;

class TuneFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "anyfp8_tune_test.XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    if (const char* before = std::getenv("ANYFP8_TUNE_CACHE")) before_ = before;
    setenv("ANYFP8_TUNE_CACHE", file().c_str(), 1);
    set_log_sink([this](LogLevel, std::string_view text) { warnings_ += std::string(text) + "\n"; });
  }
  void TearDown() override {
    set_log_sink({});
    before_.empty() ? unsetenv("ANYFP8_TUNE_CACHE") : setenv("ANYFP8_TUNE_CACHE", before_.c_str(), 1);
    fs::remove_all(folder_);
  }

  fs::path file() const { return folder_ / "deep" / "tune.json"; }

  void write(const std::string& text) {
    fs::create_directories(file().parent_path());
    std::ofstream(file(), std::ios::binary) << text;
  }
  std::string text() const {
    std::ifstream stream(file(), std::ios::binary);
    std::ostringstream whole;
    whole << stream.rdbuf();
    return whole.str();
  }

  // What reading `text` is refused with.
  std::string refusal(const std::string& text) {
    write(text);
    try {
      (void)read_tune_table(file());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  static TunedLayer layer(int64_t n = 4096) {
    return {{"a card, sm_90, 132 SMs", "e4m3 row, weight-only", DType::kBF16, n, 14336},
            {{{17, 64}, "cuda_mma_w8a16"}, {{512, TokenRange{}.end}, "cuda_dequant_w8a16"}}};
  }

  fs::path folder_;
  std::string before_, warnings_;
};

// `text` with `from` replaced.
std::string with(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST_F(TuneFile, ComesBackAsItWasWritten) {
  TuneTable table;
  table.put(layer());
  table.put({layer(8).key, {}});
  write_tune_table(file(), table);
  const TuneTable read = read_tune_table(file());
  ASSERT_EQ(read.layers.size(), 2u);
  EXPECT_EQ(read.layers[0].key, layer().key);
  EXPECT_EQ(read.layers[0].ranges, layer().ranges);
  EXPECT_TRUE(read.layers[1].ranges.empty());
  EXPECT_EQ(read.find(layer(16).key), nullptr);
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(file().parent_path())) ++files;
  EXPECT_EQ(files, 1u) << "nothing half written is left";
}

TEST_F(TuneFile, ANewMeasurementTakesThePlaceOfTheOld) {
  TuneTable table;
  table.put(layer());
  table.put({layer().key, {}});
  ASSERT_EQ(table.layers.size(), 1u);
  EXPECT_TRUE(table.layers[0].ranges.empty());
}

TEST_F(TuneFile, WhatIsBrokenIsRefusedInWords) {
  TuneTable table;
  table.put(layer());
  write_tune_table(file(), table);
  const std::string good = text();
  EXPECT_EQ(refusal(good), "");
  const auto expect = [&](const std::string& broken, std::string_view words) {
    const std::string found = refusal(broken);
    EXPECT_NE(found.find(words), std::string::npos) << "no '" << words << "' in: " << found;
    EXPECT_NE(found.find(file().string()), std::string::npos) << found;
    EXPECT_EQ(found.find('\n'), std::string::npos) << found;
  };
  expect("", "tune.json");
  expect(good.substr(0, good.size() / 2), "tune.json");
  expect("[]", "schema_version");
  expect(R"({"schema_version": "1"})", "schema_version");
  expect(with(good, "\"schema_version\": 1", "\"schema_version\": 2"), "this program reads 1");
  expect(with(good, std::string("\"anyfp8\": \"") + ANYFP8_VERSION, "\"anyfp8\": \"0.0.1"),
         "was measured with anyfp8 \"0.0.1\"");
  expect(with(good, "\"begin\": 17", "\"begin\": -1"), "layers[0]: begin is -1");
  expect(with(good, "\"begin\": 17", "\"begin\": 64"), "end is 64; it must be an integer from 65");
  expect(with(good, "\"begin\": 512", "\"begin\": 63"), "begin is 63; it must be an integer from 64");
  expect(with(good, "\"begin\": 512", "\"begin\": 1e300"), "begin is");
  expect(with(good, "cuda_mma_w8a16", "\\u001b[31m"), "kernel is \"\\u001b[31m\"");
  expect(with(good, "\"in\": \"bf16\"", "\"in\": \"int4\""), "in is \"int4\"");
  expect(with(good, "\"n\": 4096", "\"n\": 0"), "n is 0");
  expect(with(good, "\"n\": 4096", "\"n\": 4096.5"), "n is 4096.5");
  expect(with(good, "\"ranges\": [", "\"rages\": ["), "has no ranges");
  expect(with(good, "a card", std::string(600, 'x')), "at most 500 bytes");
  expect(std::string(5 << 20, ' '), "at most");
  const size_t begin = good.find("{\n   \"device\""), end = good.rfind('}', good.rfind(']')) + 1;
  ASSERT_NE(begin, std::string::npos);
  const std::string entry = good.substr(begin, end - begin);
  expect(with(good, entry, entry + "," + entry), "layers[1] is there twice");
}

// A file that cannot be used changes nothing but what is said.
TEST_F(TuneFile, WhatCannotBeUsedIsIgnoredOutLoud) {
  EXPECT_EQ(user_tune_table(), nullptr);
  EXPECT_NE(warnings_.find("which is not there"), std::string::npos) << warnings_;
  warnings_.clear();
  write("{");
  EXPECT_EQ(user_tune_table(), nullptr);
  EXPECT_EQ(SelectOptions::from_environment().tuned, nullptr);
  EXPECT_NE(warnings_.find("the built-in choices hold"), std::string::npos) << warnings_;
  EXPECT_EQ(std::count(warnings_.begin(), warnings_.end(), '\n'), 1) << "said once: " << warnings_;
  fs::remove(file());
  fs::create_directory(file());
  warnings_.clear();
  EXPECT_EQ(user_tune_table(), nullptr);
  EXPECT_FALSE(warnings_.empty());
}

TEST_F(TuneFile, IsReadAgainWhenItHasChanged) {
  TuneTable table;
  table.put(layer());
  write_tune_table(file(), table);
  const auto first = user_tune_table();
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(user_tune_table(), first) << "not read for every layer";
  table.put(layer(8));
  write_tune_table(file(), table);
  ASSERT_NE(user_tune_table(), nullptr);
  EXPECT_EQ(user_tune_table()->layers.size(), 2u);
  EXPECT_EQ(SelectOptions::from_environment().tuned, user_tune_table());
  EXPECT_EQ(SelectOptions::from_environment(/*tuning=*/false).tuned, nullptr);
  EXPECT_EQ(warnings_, "");
}

TEST_F(TuneFile, CannotBeWrittenWhereAFolderIsAFile) {
  std::ofstream(folder_ / "deep") << "x";
  try {
    write_tune_table(file(), {});
    FAIL() << "was written";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(error.what()).find(file().string()), std::string::npos) << error.what();
  }
}

TEST_F(TuneFile, LiesWhereTheEnvironmentSays) {
  const auto restore = [](const char* name, const char* value) {
    value == nullptr ? unsetenv(name) : setenv(name, value, 1);
  };
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const std::string kept = cache == nullptr ? "" : cache;
  EXPECT_EQ(tune_path(), file());
  setenv("ANYFP8_TUNE_CACHE", "off", 1);
  EXPECT_EQ(tune_path(), fs::path());
  EXPECT_EQ(user_tune_table(), nullptr);
  unsetenv("ANYFP8_TUNE_CACHE");
  setenv("XDG_CACHE_HOME", folder_.c_str(), 1);
  EXPECT_EQ(tune_path(), folder_ / "anyfp8" / "tune.json");
  EXPECT_EQ(user_tune_table(), nullptr) << "and that nothing is there is what is usual";
  EXPECT_EQ(warnings_, "");
  restore("XDG_CACHE_HOME", cache == nullptr ? nullptr : kept.c_str());
}

}  // namespace
}  // namespace anyfp8
