#include "anyfp8/checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include "anyfp8/base/error.h"
#include "anyfp8/checkpoint/safetensors_rules.h"
#include "anyfp8/checkpoint/test_files.h"
#include "anyfp8/checkpoint/untrusted_text.h"

namespace anyfp8 {
namespace {

std::string refusal(const std::string& file) {
  try {
    SafetensorsHeader::parse(bytes_of(file));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidFile) << error.what();
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos);
    return error.what();
  }
  return "accepted";
}

TEST(Safetensors, ReadsEveryFieldInNameOrder) {
  const std::string file = safetensors_text(
      R"({"__metadata__":{"format":"pt"},"b.weight":{"dtype":"F8_E4M3","shape":[2,3],"data_offsets":[4,10]},)"
      R"("a":{"data_offsets":[0,4],"shape":[],"dtype":"F32"}}  )",
      10);
  const SafetensorsHeader header = SafetensorsHeader::parse(bytes_of(file));
  ASSERT_EQ(header.size(), 2u);
  const auto a = header.entry(0), b = header.entry(1);
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_TRUE(a.shape.empty());
  EXPECT_EQ(b.name, "b.weight");
  EXPECT_EQ(b.dtype, DType::kE4M3);
  EXPECT_EQ(b.dtype_name, "F8_E4M3");
  EXPECT_EQ(std::vector<int64_t>(b.shape.begin(), b.shape.end()), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.begin, 4u);
  EXPECT_EQ(b.end, 10u);
  EXPECT_EQ(header.data_offset(), file.size() - 10);
  EXPECT_EQ(header.metadata(), (std::vector<std::pair<std::string, std::string>>{{"format", "pt"}}));
  EXPECT_EQ(header.find("b.weight"), 1u);
  EXPECT_FALSE(header.find("b"));
  // Names are the mapped bytes themselves.
  EXPECT_GE(b.name.data(), file.data());
  EXPECT_LT(b.name.data(), file.data() + file.size());
}

TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  const auto accepted = [](std::string_view header, size_t data) {
    return refusal(safetensors_text(header, data));
  };
  EXPECT_EQ(accepted("{}", 0), "accepted");
  EXPECT_EQ(accepted("{}      ", 0), "accepted");
  EXPECT_EQ(accepted(R"({"__metadata__":{}})", 0), "accepted");
  EXPECT_EQ(accepted("{ \"a\" :\t{\"dtype\":\"U8\",\n\"shape\":[ ],\"data_offsets\":[ 0 , 1 ]}\r}", 1),
            "accepted");
  // Empty tensors between others, and an empty one alone.
  EXPECT_EQ(accepted(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                     R"("e":{"dtype":"F32","shape":[0,7],"data_offsets":[2,2]},)"
                     R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                     3),
            "accepted");
  EXPECT_EQ(accepted(R"({"e":{"dtype":"F4","shape":[0],"data_offsets":[0,0]}})", 0), "accepted");
  // Metadata may hold line breaks, and any Unicode.
  EXPECT_EQ(accepted(R"({"__metadata__":{"k\n\u00e9\ud83d\ude00":"\u4e2d\t"}})", 0), "accepted");
}

TEST(Safetensors, KeepsUnknownTypesAndChecksTheSizeOfKnownOnes) {
  const std::string file = safetensors_text(
      R"({"a":{"dtype":"F4","shape":[6],"data_offsets":[0,3]},"b":{"dtype":"NEW_7","shape":[99],"data_offsets":[3,5]},)"
      R"("c":{"dtype":"N\u0045W","shape":[9],"data_offsets":[5,6]}})",
      6);
  const SafetensorsHeader header = SafetensorsHeader::parse(bytes_of(file));
  EXPECT_FALSE(header.entry(0).dtype);
  EXPECT_EQ(header.entry(0).dtype_name, "F4");
  EXPECT_EQ(header.entry(1).dtype_name, "NEW_7");
  EXPECT_EQ(header.entry(2).dtype_name, "NEW");
  EXPECT_EQ(refusal(safetensors_text(R"({"a":{"dtype":"F6_E2M3","shape":[3],"data_offsets":[0,3]}})", 3)),
            "tensor \"a\": shape [3] of \"F6_E2M3\" needs 18 bits, not whole bytes");
  EXPECT_EQ(refusal(safetensors_text(R"({"a":{"dtype":"C64","shape":[1],"data_offsets":[0,4]}})", 4)),
            "tensor \"a\": shape [1] of \"C64\" needs 8 bytes, data_offsets [0, 4] hold 4");
}

TEST(Safetensors, EscapedNamesAreTheNamesTheyMean) {
  const std::string file =
      safetensors_text(R"({"\u0061\"\\\/":{"\u0064type":"\u0055\u0038","shape":[1],"data_offsets":[0,1]},)"
                       R"("\ud83d\ude00":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                       2);
  const SafetensorsHeader header = SafetensorsHeader::parse(bytes_of(file));
  EXPECT_EQ(header.find("a\"\\/"), 0u);
  EXPECT_EQ(header.find("\xF0\x9F\x98\x80"), 1u);
  EXPECT_EQ(header.entry(0).dtype, DType::kU8);
}

TEST(Safetensors, DTypeNamesGoBothWays) {
  int named = 0;
  for (const SafetensorsDType& d : kSafetensorsDTypes) {
    EXPECT_EQ(safetensors_dtype(d.name), d.dtype);
    if (!d.dtype) continue;
    ++named;
    EXPECT_EQ(safetensors_dtype_name(*d.dtype), d.name);
    EXPECT_EQ(dtype_bytes(*d.dtype) * 8, d.bits);
  }
  EXPECT_EQ(named, 16);  // every DType
  EXPECT_FALSE(safetensors_dtype("f32"));
}

// One tensor whose entry is given, over one byte of data.
std::string entry_file(std::string_view entry) {
  return safetensors_text(R"({"t":)" + std::string(entry) + "}", 1);
}

TEST(Safetensors, RefusesEachBadHeaderWithASentence) {
  struct Case {
    std::string file;
    std::string_view words;
  };
  const auto header = [](std::string_view json, size_t data = 0) { return safetensors_text(json, data); };
  const std::string ok = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  const std::string nul_name = std::string("{\"a\0b\":", 7) + ok + "}";
  const std::vector<Case> cases = {
      // the frame
      {"", "it has 0 bytes"},
      {"1234567", "it has 7 bytes"},
      {std::string(8, '\0'), "byte 8 must be '{'"},
      {std::string(8, '\xFF') + "{}", "header of 18446744073709551615 bytes and the format allows 100000000"},
      {std::string("\x01\xE1\xF5\x05\0\0\0\0{}", 10), "header of 100000001 bytes"},
      {std::string("\x03\0\0\0\0\0\0\0{}", 10), "header of 3 bytes and only 2 follow"},
      {header(" {}"), "byte 8 must be '{'"},
      {header("[]"), "byte 8 must be '{'"},
      {header("{}\n"), "byte 10: only spaces may follow"},
      {header("{}{}"), "only spaces may follow"},
      {header("{} x"), "byte 11: only spaces"},
      {header("{"), "need a string for a tensor name"},
      {header("{,}"), "found \",\""},
      {header(R"({"a")"), "found the end of the header, need ':'"},
      {header(R"({"a)"), "does not end within the header"},
      {header(R"({"t":)" + ok + ",}", 1), "need a string for a tensor name"},
      {header(R"({"t":)" + ok, 1), "found the end of the header, need ',' or '}'"},
      {"GGUF\x03\0\0\0\0\0\0\0", "is a GGUF file"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"},
      {"PK\x03\x04\x14zzzzzzzzzzz", "PyTorch pickle"},
      {"<!DOCTYPE html>", "web page"},
      {R"({"metadata": {}, "weight_map": {}})", "looks like JSON"},
      // an entry
      {entry_file("[]"), "found an array, need '{'"},
      {entry_file("null"), "found \"n\", need '{'"},
      {entry_file("{}"), "the field dtype is missing"},
      {entry_file(R"({"dtype":"U8","data_offsets":[0,1]})"), "the field shape is missing"},
      {entry_file(R"({"dtype":"U8","shape":[1]})"), "the field data_offsets is missing"},
      {entry_file(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0})"), "unknown field \"x\""},
      {entry_file(R"({"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]})"), "dtype is there twice"},
      {entry_file(R"({"dtype":"U8","\u0064type":"U8","shape":[1],"data_offsets":[0,1]})"),
       "dtype is there twice"},
      {entry_file(R"({"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]})"), "shape is there twice"},
      {entry_file(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1],"data_offsets":[0,1]})"),
       "data_offsets is there twice"},
      {entry_file(R"({"dtype":5,"shape":[1],"data_offsets":[0,1]})"),
       "found a number, need a string for dtype"},
      {entry_file(R"({"dtype":"U8","shape":1,"data_offsets":[0,1]})"),
       "found a number, need '[' to begin shape"},
      {entry_file(R"({"dtype":"U8","shape":[[1]],"data_offsets":[0,1]})"),
       "found an array, need a whole number"},
      {entry_file(R"({"dtype":"U8","shape":["1"],"data_offsets":[0,1]})"),
       "found a string, need a whole number"},
      {entry_file(R"({"dtype":"U8","shape":[-1],"data_offsets":[0,1]})"), "found a negative number"},
      {entry_file(R"({"dtype":"U8","shape":[-0],"data_offsets":[0,1]})"), "found a negative number"},
      {entry_file(R"({"dtype":"U8","shape":[1.0],"data_offsets":[0,1]})"), "fraction or exponent"},
      {entry_file(R"({"dtype":"U8","shape":[1e0],"data_offsets":[0,1]})"), "fraction or exponent"},
      {entry_file(R"({"dtype":"U8","shape":[01],"data_offsets":[0,1]})"), "begins with 0"},
      {entry_file(R"({"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]})"),
       "larger than 2^63 - 1"},
      {entry_file(R"({"dtype":"U8","shape":[99999999999999999999999],"data_offsets":[0,1]})"),
       "larger than 2^63 - 1"},
      {entry_file(R"({"dtype":"U8","shape":[1,],"data_offsets":[0,1]})"), "need a whole number"},
      {entry_file(R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]})"),
       "more than 8 dimensions"},
      {entry_file(R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,1]})"),
       "overflows 2^63 - 1 elements"},
      {entry_file(R"({"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})"),
       "overflows 2^63 - 1 elements"},
      {entry_file(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]})"),
       "overflows 2^63 - 1 bits"},
      {entry_file(R"({"dtype":"U8","shape":[2],"data_offsets":[0,1]})"),
       "needs 2 bytes, data_offsets [0, 1] hold 1"},
      {entry_file(R"({"dtype":"U8","shape":[1],"data_offsets":[1,0]})"),
       "data_offsets [1, 0] end before they begin"},
      {entry_file(R"({"dtype":"U8","shape":[1],"data_offsets":[0]})"), "between the two data_offsets"},
      {entry_file(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1,2]})"), "need ']' after two data_offsets"},
      {entry_file(R"({"dtype":"U8","shape":[1],"data_offsets":[-1,0]})"), "negative"},
      {entry_file(R"({"dtype":"U8","shape":[1],"data_offsets":{"a":0}})"), "found an object, need '['"},
      {entry_file(R"({"dtype":")" + std::string(65, 'X') + R"(","shape":[1],"data_offsets":[0,1]})"),
       "longer than 64 bytes"},
      // the layout
      {header(R"({"t":)" + ok + "}", 0), "pass the end of the data, 0 bytes; the file is cut short"},
      {header(R"({"t":)" + ok + "}", 3),
       "the tensors end at byte 1 of the data and the file has 3, 2 too many"},
      {header("{}", 1), "1 too many"},
      {header(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2),
       "tensor \"t\": data_offsets [1, 2] leave a hole after"},
      {header(R"({"a":)" + ok + R"(,"b":)" + ok + "}", 1), "tensor \"b\": data_offsets [0, 1] overlap"},
      {header(
           R"({"a":{"dtype":"X","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"X","shape":[1],"data_offsets":[2,3]}})",
           3),
       "hole"},
      // names
      {header(R"({"t":)" + ok + R"(,"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2),
       "has the tensor \"t\" twice"},
      {header(R"({"t":)" + ok + R"(,"\u0074":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2),
       "has the tensor \"t\" twice"},
      {header(R"({"":)" + ok + "}", 1), "the tensor name \"\" is empty"},
      {header(nul_name, 1), "control character \\x00"},
      {header("{\"a\nb\":" + ok + "}", 1), "control character \\x0a"},
      {header(R"({"a\nb":)" + ok + "}", 1), "name \"a\\x0ab\" holds a control character"},
      {header(R"({"a\u0000":)" + ok + "}", 1), "NUL"},
      {header(R"({"a\ud800":)" + ok + "}", 1), "lone surrogate \\ud800"},
      {header(R"({"a\ude00\ud83d":)" + ok + "}", 1), "lone surrogate \\ude00"},
      {header(R"({"a\ud83d\u0041":)" + ok + "}", 1), "lone surrogate \\ud83d"},
      {header(R"({"a\u12g4":)" + ok + "}", 1), "four hexadecimal digits"},
      {header(R"({"a\x":)" + ok + "}", 1), "unknown escape"},
      {header(R"({"a\)"), "unknown escape"},
      {header("{\"a\xFF\":" + ok + "}", 1), "not valid UTF-8"},
      {header("{\"a\xC0\xAF\":" + ok + "}", 1), "not valid UTF-8"},
      {header("{\"a\xED\xA0\x80\":" + ok + "}", 1), "not valid UTF-8"},
      {header("{\"a\xF4\x90\x80\x80\":" + ok + "}", 1), "not valid UTF-8"},
      {header("{\"" + std::string(4097, 'n') + "\":" + ok + "}", 1), "longer than 4096 bytes"},
      {header("{\"" + std::string(90000, 'n') + "\":" + ok + "}", 1), "longer than"},
      // metadata
      {header(R"({"__metadata__":[]})"), "found an array, need '{' to begin __metadata__"},
      {header(R"({"__metadata__":{"a":1}})"), "found a number, need a string for __metadata__ \"a\""},
      {header(R"({"__metadata__":{"a":{}}})"), "found an object, need a string"},
      {header(R"({"__metadata__":{"a":"1","a":"1"}})"), "has the key \"a\" twice"},
      {header(R"({"__metadata__":{"a":"1","\u0061":"1"}})"), "has the key \"a\" twice"},
      {header(R"({"__metadata__":{},"__metadata__":{}})"), "__metadata__ is there twice"},
      {header(R"({"__metadata__":{"a":"\u0000"}})"), "NUL"},
  };
  for (const Case& c : cases) {
    const std::string text = refusal(c.file);
    EXPECT_NE(text.find(c.words), std::string::npos) << "need: " << c.words << "\nfound: " << text;
    EXPECT_LT(text.size(), 600u);
  }
}

TEST(Safetensors, ErrorsNameTheTensorOnOneShortLine) {
  const std::string text = refusal(safetensors_text(
      "{\"" + std::string(3000, 'n') + "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1));
  EXPECT_TRUE(text.starts_with("tensor \"nnn")) << text;
  EXPECT_NE(text.find("nnn...nnn"), std::string::npos);
  EXPECT_LT(text.size(), 300u);
  EXPECT_EQ(shown("a\"\n\xFF\x7F\xC3\xA9"), "\"a\\\"\\x0a\\xff\\x7f\xC3\xA9\"");
}

}  // namespace
}  // namespace anyfp8
