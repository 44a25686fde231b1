#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anyfp8/base/mapped_file.h"
#include "anyfp8/base/tensor.h"

namespace anyfp8 {

// The header of one safetensors file, every rule of the format checked (README of huggingface/safetensors
// and the attacks listed there): 8-byte length N <= 100 MB and within the file; N bytes of JSON that begin
// with '{', UTF-8, no duplicate keys, spaces after it; each entry exactly dtype, shape, data_offsets, with
// non-negative integers; sizes without overflow; offsets that cover the rest of the file without hole or
// overlap, to its last byte. Rank 0 and empty tensors are legal. JSON order need not be offset order.
//
// The scanner is our own: one pass, no recursion, names are views of the mapped header unless escaped.
// Memory stays below 64 MB whatever the header says (safetensors_rules.h has the limits: 2^18 tensors, rank
// 8, names of 4096 bytes; the largest published shard has 0.3 % of the tensors).
class SafetensorsHeader {
 public:
  struct Entry {
    std::string_view name;
    std::string_view dtype_name;
    std::optional<DType> dtype;  // absent: not one of ours
    std::span<const int64_t> shape;
    uint64_t begin, end;  // bytes from the start of the data
  };

  // `file` is the whole file and must outlive the header. Error(kInvalidFile) names the tensor or offset.
  static SafetensorsHeader parse(std::span<const std::byte> file);

  size_t size() const noexcept;
  Entry entry(size_t index) const noexcept;  // in name order
  std::optional<size_t> find(std::string_view name) const noexcept;
  const std::vector<std::pair<std::string, std::string>>& metadata() const noexcept { return metadata_; }
  size_t data_offset() const noexcept { return data_offset_; }  // of byte 0 of the data in the file

  SafetensorsHeader(SafetensorsHeader&&) noexcept;
  SafetensorsHeader& operator=(SafetensorsHeader&&) noexcept;
  ~SafetensorsHeader();

 private:
  SafetensorsHeader();
  struct Records;  // compact form
  std::unique_ptr<Records> records_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  size_t data_offset_ = 0;
};

// Name of a dtype in a safetensors file ("F8_E4M3") and back; absent when there is none.
std::string_view safetensors_dtype_name(DType dtype) noexcept;
std::optional<DType> safetensors_dtype(std::string_view name) noexcept;

}  // namespace anyfp8
