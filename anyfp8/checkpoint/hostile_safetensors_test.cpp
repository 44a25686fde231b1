#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <new>
#include <random>

#include "anyfp8/base/error.h"
#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/checkpoint/json_reader.h"
#include "anyfp8/checkpoint/safetensors.h"
#include "anyfp8/checkpoint/safetensors_rules.h"
#include "anyfp8/checkpoint/test_files.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ANYFP8_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define ANYFP8_TEST_SANITIZED 1
#endif
#endif

namespace {
std::atomic<size_t> live_bytes{0}, peak_bytes{0};
}  // namespace

// Every C++ allocation of this test program is counted; sanitizers bring their own.
#ifndef ANYFP8_TEST_SANITIZED
void* operator new(size_t bytes) {
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  const size_t live = live_bytes += malloc_usable_size(memory);
  if (live > peak_bytes) peak_bytes = live;
  return memory;
}
void operator delete(void* memory) noexcept {
  if (memory != nullptr) live_bytes -= malloc_usable_size(memory);
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept { operator delete(memory); }
#endif

namespace anyfp8 {
namespace {

constexpr size_t kMegabyte = size_t{1} << 20;

const std::string& small_file() {
  static const std::string text = safetensors_text(
      R"({"__metadata__":{"format":"pt","k\n":"\u00e9"},"model.a.weight":{"dtype":"F8_E4M3","shape":[2,3],)"
      R"("data_offsets":[8,14]},"model.a.weight_scale_inv":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
      R"("\u00fcb":{"dtype":"BF16","shape":[],"data_offsets":[14,16]},"e":{"dtype":"X1","shape":[0],"data_offsets":[16,16]}}   )",
      16);
  return text;
}

// Accepted and walked, or refused in a sentence.
bool parses(std::string_view file) {
  try {
    const SafetensorsHeader header = SafetensorsHeader::parse(bytes_of(file));
    for (size_t i = 0; i < header.size(); ++i) EXPECT_EQ(header.find(header.entry(i).name), i);
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidFile);
    EXPECT_GT(std::string_view(error.what()).size(), 10u);
    EXPECT_LT(std::string_view(error.what()).size(), 1000u);
    return false;
  }
}

TEST(HostileSafetensors, EveryTruncationIsRefused) {
  const std::string& whole = small_file();
  ASSERT_TRUE(parses(whole));
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    // A copy of its own size, so that a sanitizer sees a read past the end.
    EXPECT_FALSE(parses(std::string(whole, 0, bytes))) << bytes;
  }
  EXPECT_FALSE(parses(whole + '\0'));
}

// The seeds of the fuzzers: valid_* and invalid_*.
TEST(HostileSafetensors, FuzzCorpusIsWhatItsNamesSay) {
  int files = 0;
  for (const auto& item :
       std::filesystem::directory_iterator(ANYFP8_SOURCE_DIR "/anyfp8/checkpoint/fuzz_corpus")) {
    const std::string name = item.path().filename().string();
    const std::string text = file_text(item.path());
    bool accepted = true;
    if (name.ends_with(".safetensors")) {
      accepted = parses(text);
    } else {
      try {
        read_json(text, 100, "weight_map", [](std::string_view, std::string_view) {});
      } catch (const Error&) {
        accepted = false;
      }
    }
    EXPECT_EQ(accepted, name.starts_with("valid_")) << name;
    ++files;
  }
  EXPECT_GE(files, 12);
}

std::string mutated(std::string text, std::mt19937& random) {
  static constexpr std::string_view kPieces[] = {"{",
                                                 "}",
                                                 "[",
                                                 "]",
                                                 ",",
                                                 ":",
                                                 "\"",
                                                 "\\",
                                                 "\\u0000",
                                                 "-",
                                                 "0",
                                                 "1e9",
                                                 "9223372036854775807",
                                                 "\xFF",
                                                 "\xE9",
                                                 " ",
                                                 "null",
                                                 "\"dtype\"",
                                                 "shape",
                                                 "F4"};
  const auto below = [&](size_t limit) {
    return std::uniform_int_distribution<size_t>(0, limit - 1)(random);
  };
  for (size_t edits = 1 + below(4); edits-- != 0;) {
    // Half of the edits in the length and the first entry, where more depends on each byte.
    const size_t at = below(below(2) == 0 ? std::min<size_t>(text.size(), 120) : text.size());
    switch (below(5)) {
      case 0: text[at] = static_cast<char>(below(256)); break;
      case 1: text[at] = static_cast<char>(text[at] ^ (1 << below(8))); break;
      case 2: text.erase(at, 1 + below(8)); break;
      case 3: text.insert(at, kPieces[below(std::size(kPieces))]); break;
      case 4: text.insert(at, text.substr(below(text.size()), below(64))); break;
    }
    if (text.empty()) text = "x";
  }
  return text;
}

TEST(HostileSafetensors, TenThousandMutationsNeverCrash) {
  std::mt19937 random(20240607);
  int accepted = 0;
  for (int i = 0; i < 10'000; ++i) {
    std::string text = mutated(small_file(), random);
    if (i % 2 == 0 && text.size() > 24) {  // a right length again, so that the JSON is reached
      const size_t header = std::min(text.size() - 8, small_file().size() - 24);
      for (int byte = 0; byte < 8; ++byte) text[byte] = static_cast<char>(header >> (8 * byte));
    }
    accepted += parses(text) ? 1 : 0;
  }
  // Bytes of the data and of names may change; most other edits must not pass.
  EXPECT_LT(accepted, 2'000);
}

TEST(HostileSafetensors, MutatedIndexesAndConfigsNeverCrash) {
  const std::string index =
      R"({"metadata":{"total_size":1.5e3,"x":[null,true,{"y":-7}]},"weight_map":{"a":"m.safetensors","b\u00e9":"n.safetensors"}})";
  std::mt19937 random(7);
  for (int i = 0; i < 10'000; ++i) {
    const std::string text = mutated(index, random);
    for (const std::string_view streamed : {"", "weight_map"}) {
      try {
        read_json(text, 100, streamed, [](std::string_view, std::string_view) {});
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInvalidFile);
      }
    }
  }
}

// Runs `read`, which may throw Error(kInvalidFile), within 64 MB and 10 seconds of CPU time.
void expect_bounded(const std::string& what, bool accepted, const std::function<void()>& read) {
  const size_t before = live_bytes;
  peak_bytes = before;
  const std::clock_t start = std::clock();  // of this process: the machine may be busy
  std::string refusal;
  try {
    read();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidFile);
    refusal = error.what();
  }
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  const double megabytes = static_cast<double>(peak_bytes - before) / kMegabyte;
  ::testing::Test::RecordProperty(what, fmt::format("{:.1f} MB, {:.2f} s", megabytes, seconds));
  EXPECT_EQ(refusal.empty(), accepted) << what << ": " << refusal;
  EXPECT_LT(refusal.size(), 1000u);
  EXPECT_LT(megabytes, 64) << what;
  EXPECT_LT(seconds, 10) << what;
}

// A header of 100 MB: `item` while there is room, with "#" replaced by a number of eight digits.
std::string large_header(std::string_view begin, std::string_view item, std::string_view end,
                         size_t most_items = SIZE_MAX) {
  std::string json(begin);
  json.reserve(kMaxHeaderBytes);
  for (size_t i = 0; i < most_items && json.size() + item.size() + end.size() + 8 < kMaxHeaderBytes; ++i) {
    const size_t hash = item.find('#');
    if (i != 0) json += ',';
    json += item.substr(0, hash);
    if (hash != std::string_view::npos) {
      json += fmt::format("{:08}", (i * 48271) % 99'999'989);  // in no order
      json += item.substr(hash + 1);
    }
  }
  json += end;
  json.resize(kMaxHeaderBytes, ' ');
  return safetensors_text(json, 0);
}

TEST(HostileSafetensors, HugeHeadersStayBelow64MegabytesAndTenSeconds) {
#ifdef ANYFP8_TEST_SANITIZED
  GTEST_SKIP() << "a sanitizer's allocator and speed are not the ones the bound is about";
#endif
  const std::string full_rank = R"(":{"dtype":"U8","shape":[0,1,1,1,1,1,1,1],"data_offsets":[0,0]})";
  const auto parse = [](const std::string& what, bool accepted, const std::string& file) {
    expect_bounded(what, accepted, [&] { SafetensorsHeader::parse(bytes_of(file)); });
  };
  const std::string long_name(280, 'n');
  parse("tensors", true, large_header("{", "\"" + long_name + "#" + full_rank, "}", kMaxTensors));
  // Metadata, escaped names, dimensions and tensors, each up to what it may take.
  std::string metadata = R"({"__metadata__":{"a":")" + std::string(12 * kMegabyte, 'x') + "\\n\"";
  for (size_t i = 1; i < kMaxMetadataEntries; ++i) metadata += fmt::format(R"(,"{:016}":"{:016}")", i, i);
  parse("all_limits", true, large_header(metadata + "},", R"("\u0041nnnnn#)" + full_rank, "}", kMaxTensors));
  parse("too_many_tensors", false, large_header("{", "\"#" + full_rank, "}"));
  parse("escaped_names", false,
        large_header("{", "\"\\u0041" + long_name + "#" + full_rank, "}", kMaxTensors));
  parse("unknown_dtypes", true,
        large_header("{", R"("#":{"dtype":"ABCDEFGHIJKLMNOPQRSTUVWXYZ","shape":[],"data_offsets":[0,0]})",
                     "}", kMaxTensors));
  parse("metadata_entries", false, large_header(R"({"__metadata__":{)", R"("#":"")", "}}"));
  parse("metadata_value", false, large_header(R"({"__metadata__":{"a":")", R"(\u0041)", "\"}}"));
  parse("one_name", false, large_header("{\"", "nnnnnnn\\n#", full_rank + "}"));
  parse("one_shape", false,
        large_header(R"({"a":{"dtype":"U8","shape":[)", "1", R"(],"data_offsets":[0,0]}})"));
  parse("nested", false, large_header(R"({"a":)", "[", "}"));
  parse("one_number", false,
        large_header(R"({"a":{"dtype":"U8","shape":[)", "0", "", 1) + std::string(8, '0'));
  parse("fields", false, large_header(R"({"a":{)", R"("dtype":"U8")", "}}"));
  parse("spaces", false, safetensors_text("{" + std::string(kMaxHeaderBytes - 1, ' '), 0));
}

TEST(HostileSafetensors, HugeJsonStaysBelow64Megabytes) {
#ifdef ANYFP8_TEST_SANITIZED
  GTEST_SKIP() << "a sanitizer's allocator and speed are not the ones the bound is about";
#endif
  const auto repeat = [](std::string_view begin, std::string_view item, std::string_view end, size_t bytes) {
    std::string text(begin);
    text.reserve(bytes);
    while (text.size() + item.size() + end.size() <= bytes) text += item;
    return text += end;
  };
  size_t members = 0;
  const MemberSink count = [&](std::string_view, std::string_view) { ++members; };
  const auto index = [&](const std::string& what, bool accepted, const std::string& text) {
    expect_bounded(what, accepted, [&] { read_json(text, 4096, "weight_map", count); });
  };
  const size_t most = 64 * kMegabyte;
  index("index_members", true, repeat(R"({"weight_map":{)", R"("a":"b",)", R"("z":"z"}})", most));
  EXPECT_GT(members, 8'000'000u);
  index("index_key", false, repeat(R"({"weight_map":{")", "k", R"(":"z"}})", most));
  index("index_value", false, repeat(R"({"weight_map":{"a":")", "\\u0041", R"("}})", most));
  index("index_spaces", false, repeat("{", " ", "}", most));
  index("index_literals", false, repeat(R"({"a":[)", "true,", "1]}", most));
  index("index_nested", false, repeat("", "[", "", most));
  index("index_digits", false, repeat(R"({"a":)", "1", "}", most));
  const auto config = [&](const std::string& what, bool accepted, const std::string& text) {
    expect_bounded(what, accepted, [&] { read_json(text, 4 * kMegabyte / 16); });
  };
  config("config_objects", false, repeat("[", R"({"":0},)", "0]", 4 * kMegabyte));
  config("config_arrays", false, repeat("[", "[],", "0]", 4 * kMegabyte));
  config("config_nested_objects", true,
         repeat("[", R"({")" + std::string(90, 'a') + R"(":0},)", "0]", 4 * kMegabyte));
}

// The same bound through the file: header and mapping together.
TEST(HostileSafetensors, ACheckpointOfHugeHeadersStaysBelow64Megabytes) {
#ifdef ANYFP8_TEST_SANITIZED
  GTEST_SKIP() << "a sanitizer's allocator and speed are not the ones the bound is about";
#endif
  const TestDirectory directory;
  directory.put("model.safetensors",
                large_header("{", R"("#":{"dtype":"U8","shape":[0,1,1,1,1,1,1,1],"data_offsets":[0,0]})", "}",
                             kMaxTensors));
  expect_bounded("checkpoint", true, [&] { Checkpoint::open(directory.path()); });
}

}  // namespace
}  // namespace anyfp8
