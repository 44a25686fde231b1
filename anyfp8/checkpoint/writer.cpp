#include "anyfp8/checkpoint/writer.h"

#include <algorithm>
#include <cstdint>

#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/replaced_file.h"
#include "anyfp8/checkpoint/safetensors.h"
#include "anyfp8/checkpoint/safetensors_rules.h"
#include "anyfp8/checkpoint/untrusted_text.h"

namespace anyfp8 {
namespace {

// Readers then find the data at a multiple of 8.
constexpr size_t kHeaderAlignment = 8;

size_t dtype_rank(DType dtype) {
  const auto same = [&](const SafetensorsDType& d) { return d.dtype == dtype; };
  return static_cast<size_t>(std::find_if(kSafetensorsDTypes.begin(), kSafetensorsDTypes.end(), same) -
                             kSafetensorsDTypes.begin());
}

void check(std::span<const NamedTensor> tensors, const Metadata& metadata) {
  const auto need = [](bool valid, std::string_view name, std::string_view fault) {
    if (!valid) throw fail(ErrorCode::kInvalidArgument, "{} cannot be written: it {}", shown(name), fault);
  };
  if (tensors.size() > kMaxTensors) {
    throw fail(ErrorCode::kInvalidArgument, "{} tensors are more than one file holds, {}", tensors.size(),
               kMaxTensors);
  }
  for (const auto& [name, tensor] : tensors) {
    const std::string_view fault = tensor_name_fault(name);
    need(fault.empty(), name, fault);
    need(is_utf8(name), name, "is not valid UTF-8");
    need(name != kMetadataKey, name, "is reserved");
    need(tensor.defined(), name, "has no bytes");
    need(tensor.shape().size() <= kMaxRank, name, "has more than 8 dimensions");
  }
  std::vector<std::string_view> keys;
  size_t metadata_bytes = 0;
  for (const auto& [key, value] : metadata) {
    for (const std::string* text : {&key, &value}) {
      need(is_utf8(*text), *text, "is not valid UTF-8");
      need(text->find('\0') == std::string::npos, *text, "holds NUL");
      metadata_bytes += text->size();
    }
    keys.push_back(key);
  }
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice != keys.end()) need(false, *twice, "is there twice in the metadata");
  if (metadata_bytes > kMaxMetadataBytes || metadata.size() > kMaxMetadataEntries) {
    throw fail(ErrorCode::kInvalidArgument, "{} metadata entries of {} bytes are more than one file holds",
               metadata.size(), metadata_bytes);
  }
}

// In the order of the data.
std::vector<const NamedTensor*> in_file_order(std::span<const NamedTensor> tensors) {
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    const size_t rank_a = dtype_rank(a->tensor.dtype()), rank_b = dtype_rank(b->tensor.dtype());
    return rank_a != rank_b ? rank_a > rank_b : a->name < b->name;
  });
  std::vector<std::string_view> names;
  for (const NamedTensor* tensor : order) names.push_back(tensor->name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    throw fail(ErrorCode::kInvalidArgument, "{} cannot be written: it is there twice", shown(*twice));
  }
  return order;
}

void append_json_string(std::string_view text, std::string& out) {
  constexpr std::string_view kNamed = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt";
  out += '"';
  for (const char c : text) {
    const size_t named = kNamed.find(c);
    if (named != std::string_view::npos) {
      out += '\\';
      out += kLetters[named];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  out += '"';
}

// Eight bytes of length, then JSON and spaces.
std::string header_text(const std::vector<const NamedTensor*>& order, const Metadata& metadata) {
  std::string text(sizeof(uint64_t), '\0');
  text += '{';
  std::string_view comma;
  if (!metadata.empty()) {
    append_json_string(kMetadataKey, text);
    text += ":{";
    for (const auto& [key, value] : metadata) {
      text += comma;
      append_json_string(key, text);
      text += ':';
      append_json_string(value, text);
      comma = ",";
    }
    text += '}';
  }
  uint64_t begin = 0;
  for (const NamedTensor* item : order) {
    const uint64_t end = begin + item->tensor.size_bytes();
    text += comma;
    append_json_string(item->name, text);
    text += fmt::format(R"(:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        safetensors_dtype_name(item->tensor.dtype()), fmt::join(item->tensor.shape(), ","),
                        begin, end);
    comma = ",";
    begin = end;
  }
  text += '}';
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  const uint64_t length = text.size() - sizeof(uint64_t);
  if (length > kMaxHeaderBytes) {
    throw fail(ErrorCode::kInvalidArgument, "a header of {} bytes is more than the format allows, {}", length,
               kMaxHeaderBytes);
  }
  for (size_t i = 0; i < sizeof(length); ++i)
    text[i] = static_cast<char>(length >> (8 * i));  // little endian
  return text;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       const Metadata& metadata) {
  check(tensors, metadata);
  const std::vector<const NamedTensor*> order = in_file_order(tensors);
  const std::string header = header_text(order, metadata);
  ReplacedFile file(path);
  file.write(std::as_bytes(std::span(header)));
  for (const NamedTensor* item : order) file.write(item->tensor.bytes());
  file.commit();
}

void write_text_file(const std::filesystem::path& path, std::string_view text) {
  ReplacedFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace anyfp8
