#include "anyfp8/checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "anyfp8/base/text.h"
#include "anyfp8/checkpoint/header_scanner.h"
#include "anyfp8/checkpoint/safetensors_rules.h"
#include "anyfp8/checkpoint/untrusted_text.h"

namespace anyfp8 {
namespace {

constexpr size_t kLengthBytes = 8;
// \uXXXX takes six bytes for one.
constexpr size_t kMaxEscapeGrowth = 6;
constexpr size_t kMaxDTypeNameBytes = 64;
// Strings with escapes are the only ones that need memory. No writer escapes tensor names in practice.
constexpr size_t kMaxEscapedBytes = size_t{4} << 20;
constexpr uint8_t kUnknownDType = static_cast<uint8_t>(kSafetensorsDTypes.size());

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// For the sentence about a file that cannot be safetensors: what people hand over instead.
std::string_view likely_other_format(std::string_view file) {
  if (file.starts_with("GGUF"))
    return "; this is a GGUF file, the safetensors files it was made from are needed";
  if (file.starts_with("version https://git-lfs")) {
    return "; this is a Git LFS pointer, fetch the file itself with \"git lfs pull\"";
  }
  if (file.starts_with("PK\x03\x04") || file.starts_with("\x80\x02")) {
    return "; this looks like a PyTorch pickle, save the model as safetensors first";
  }
  if (file.starts_with("<")) return "; this looks like a web page, download the file again";
  if (file.starts_with("{")) return "; this looks like JSON, give the directory that holds it";
  return "";
}

uint64_t header_bytes(std::string_view file) {
  const auto refuse = [&](const std::string& found) {
    return fail(ErrorCode::kInvalidFile, "not a safetensors file: {}{}", found, likely_other_format(file));
  };
  if (file.size() < kLengthBytes) {
    throw refuse(fmt::format("it has {} bytes and the length of the header alone takes 8", file.size()));
  }
  uint64_t length = 0;  // little endian
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= uint64_t{static_cast<unsigned char>(file[i])} << (8 * i);
  }
  if (length > kMaxHeaderBytes) {
    throw refuse(fmt::format("its first 8 bytes give a header of {} bytes and the format allows {}", length,
                             kMaxHeaderBytes));
  }
  if (length > file.size() - kLengthBytes) {
    throw refuse(fmt::format("its first 8 bytes give a header of {} bytes and only {} follow", length,
                             file.size() - kLengthBytes));
  }
  if (length == 0 || file[kLengthBytes] != '{') throw refuse("byte 8 must be '{', the begin of the header");
  return length;
}

}  // namespace

struct SafetensorsHeader::Records {
  // A tensor. Names are a place in the header or, when they were escaped there, in the pool.
  struct Record {
    uint64_t begin = 0, end = 0;
    uint32_t name_offset = 0, dtype_offset = 0;
    uint32_t dims_offset = 0;
    uint16_t name_bytes = 0;
    uint8_t dtype_bytes = 0;
    uint8_t dtype = 0;  // index into kSafetensorsDTypes or kUnknownDType
    uint8_t rank = 0;
    bool name_in_pool = false, dtype_in_pool = false;
  };
  static_assert(sizeof(Record) == 40);

  std::string_view json;
  std::string pool;
  std::vector<int64_t> dims;
  std::vector<Record> records;  // by name

  std::string_view name(const Record& r) const {
    return (r.name_in_pool ? std::string_view(pool) : json).substr(r.name_offset, r.name_bytes);
  }
  std::string_view dtype_name(const Record& r) const {
    if (r.dtype != kUnknownDType) return kSafetensorsDTypes[r.dtype].name;
    return (r.dtype_in_pool ? std::string_view(pool) : json).substr(r.dtype_offset, r.dtype_bytes);
  }
  std::span<const int64_t> shape(const Record& r) const {
    return std::span(dims).subspan(r.dims_offset, r.rank);
  }

  void read(HeaderScanner& scan, std::vector<std::pair<std::string, std::string>>& metadata);
  void read_metadata(HeaderScanner& scan, std::vector<std::pair<std::string, std::string>>& metadata);
  void read_entry(HeaderScanner& scan, Record& record);
  void read_dtype(HeaderScanner& scan, Record& record);
  void read_shape(HeaderScanner& scan, Record& record);
  std::string_view keep(HeaderScanner& scan, HeaderScanner::Text text, uint32_t& offset, bool& in_pool);
  void check_size(const Record& record) const;
  void sort_by_name();
  void check_layout(uint64_t data_bytes) const;
};

// Gives the text and where it stays.
std::string_view SafetensorsHeader::Records::keep(HeaderScanner& scan, HeaderScanner::Text text,
                                                  uint32_t& offset, bool& in_pool) {
  offset = text.offset;
  in_pool = text.escaped;
  if (!text.escaped) return scan.as_written(text);
  offset = static_cast<uint32_t>(pool.size());
  scan.decode(text, pool);
  if (pool.size() > kMaxEscapedBytes) {
    scan.fail_at(text.offset, "names with escapes take more than {} bytes together", kMaxEscapedBytes);
  }
  return std::string_view(pool).substr(offset);
}

void SafetensorsHeader::Records::read(HeaderScanner& scan,
                                      std::vector<std::pair<std::string, std::string>>& metadata) {
  bool metadata_seen = false;
  scan.need('{', "at the begin of the header");
  if (scan.take('}')) return;
  do {
    Record record;
    const auto text = scan.text("a tensor name", kMaxNameBytes * kMaxEscapeGrowth);
    const std::string_view found = keep(scan, text, record.name_offset, record.name_in_pool);
    const std::string_view fault = tensor_name_fault(found);
    if (!fault.empty()) scan.fail_at(text.offset, "the tensor name {} {}", shown(found), fault);
    record.name_bytes = static_cast<uint16_t>(found.size());
    scan.need(':', "after a name");
    if (found == kMetadataKey) {
      if (metadata_seen) scan.fail_at(text.offset, "__metadata__ is there twice");
      metadata_seen = true;
      read_metadata(scan, metadata);
      continue;
    }
    if (records.size() == kMaxTensors)
      scan.fail_at(text.offset, "more than {} tensors in one file", kMaxTensors);
    try {
      read_entry(scan, record);
      check_size(record);
    } catch (Error& error) {
      error.in(fmt::format("tensor {}", shown(name(record))));
      throw;
    }
    records.push_back(record);
  } while (scan.more('}'));
}

void SafetensorsHeader::Records::read_metadata(HeaderScanner& scan,
                                               std::vector<std::pair<std::string, std::string>>& metadata) {
  scan.need('{', "to begin __metadata__");
  if (scan.take('}')) return;
  const size_t start = scan.position();
  do {
    if (metadata.size() == kMaxMetadataEntries) {
      scan.fail_at(scan.position(), "__metadata__ has more than {} entries", kMaxMetadataEntries);
    }
    auto& [key, value] = metadata.emplace_back();
    scan.decode(scan.text("a __metadata__ key", kMaxMetadataBytes), key);
    scan.need(':', "after a __metadata__ key");
    const auto text = scan.text(fmt::format("__metadata__ {}", shown(key)), kMaxMetadataBytes);
    value.reserve(text.bytes);
    scan.decode(text, value);
    if (scan.position() - start > kMaxMetadataBytes) {
      scan.fail_at(start, "__metadata__ is longer than {} bytes", kMaxMetadataBytes);
    }
  } while (scan.more('}'));

  std::vector<std::string_view> keys;
  for (const auto& [key, value] : metadata) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice != keys.end()) scan.fail_at(start, "__metadata__ has the key {} twice", shown(*twice));
}

void SafetensorsHeader::Records::read_entry(HeaderScanner& scan, Record& record) {
  bool has_dtype = false, has_shape = false, has_offsets = false;
  const auto first_time = [&](bool& seen, std::string_view field) {
    if (seen) scan.fail_at(scan.position(), "{} is there twice", field);
    seen = true;
  };
  std::string field;
  scan.need('{', "to begin the object of dtype, shape and data_offsets");
  if (!scan.take('}')) {
    do {
      const auto text = scan.text("a field name", kMaxNameBytes);
      field.clear();
      scan.decode(text, field);
      scan.need(':', "after a field name");
      if (field == "dtype") {
        first_time(has_dtype, field);
        read_dtype(scan, record);
      } else if (field == "shape") {
        first_time(has_shape, field);
        read_shape(scan, record);
      } else if (field == "data_offsets") {
        first_time(has_offsets, field);
        scan.need('[', "to begin data_offsets");
        record.begin = scan.integer("data_offsets");
        scan.need(',', "between the two data_offsets");
        record.end = scan.integer("data_offsets");
        scan.need(']', "after two data_offsets");
      } else {
        scan.fail_at(text.offset, "unknown field {}, an entry has dtype, shape and data_offsets",
                     shown(field));
      }
    } while (scan.more('}'));
  }
  for (const auto& [present, name] :
       {std::pair(has_dtype, "dtype"), {has_shape, "shape"}, {has_offsets, "data_offsets"}}) {
    if (!present) scan.fail_at(scan.position(), "the field {} is missing", name);
  }
}

void SafetensorsHeader::Records::read_dtype(HeaderScanner& scan, Record& record) {
  const auto text = scan.text("dtype", kMaxDTypeNameBytes * kMaxEscapeGrowth);
  const std::string_view found = keep(scan, text, record.dtype_offset, record.dtype_in_pool);
  if (found.size() > kMaxDTypeNameBytes) {
    scan.fail_at(text.offset, "the dtype {} is longer than {} bytes", shown(found), kMaxDTypeNameBytes);
  }
  record.dtype_bytes = static_cast<uint8_t>(found.size());
  const auto known = std::find_if(kSafetensorsDTypes.begin(), kSafetensorsDTypes.end(),
                                  [&](const SafetensorsDType& d) { return d.name == found; });
  record.dtype = static_cast<uint8_t>(known - kSafetensorsDTypes.begin());
}

void SafetensorsHeader::Records::read_shape(HeaderScanner& scan, Record& record) {
  record.dims_offset = static_cast<uint32_t>(dims.size());
  scan.need('[', "to begin shape");
  if (scan.take(']')) return;
  do {
    if (record.rank == kMaxRank) scan.fail_at(scan.position(), "shape has more than {} dimensions", kMaxRank);
    dims.push_back(static_cast<int64_t>(scan.integer("shape")));
    ++record.rank;
  } while (scan.more(']'));
}

void SafetensorsHeader::Records::check_size(const Record& record) const {
  const auto extents = shape(record);
  const auto refuse = [&](const std::string& what) {
    return fail(ErrorCode::kInvalidFile, "shape [{}] of {} {}", fmt::join(extents, ", "),
                shown(dtype_name(record)), what);
  };
  // Also a shape with a zero must not overflow by its other extents: strides are products of those.
  int64_t nonzero = 1;
  bool empty = false;
  for (const int64_t extent : extents) {
    empty = empty || extent == 0;
    if (extent != 0 && __builtin_mul_overflow(nonzero, extent, &nonzero))
      throw refuse("overflows 2^63 - 1 elements");
  }
  if (record.begin > record.end) {
    throw fail(ErrorCode::kInvalidFile, "data_offsets [{}, {}] end before they begin", record.begin,
               record.end);
  }
  if (record.dtype == kUnknownDType) return;  // of a later version of the format: its size is unknown
  int64_t bits = 0;
  if (__builtin_mul_overflow(empty ? 0 : nonzero, int64_t{kSafetensorsDTypes[record.dtype].bits}, &bits)) {
    throw refuse("overflows 2^63 - 1 bits");
  }
  if (bits % 8 != 0) throw refuse(fmt::format("needs {} bits, not whole bytes", bits));
  if (static_cast<uint64_t>(bits / 8) != record.end - record.begin) {
    throw refuse(fmt::format("needs {} bytes, data_offsets [{}, {}] hold {}", bits / 8, record.begin,
                             record.end, record.end - record.begin));
  }
}

void SafetensorsHeader::Records::sort_by_name() {
  std::sort(records.begin(), records.end(),
            [&](const Record& a, const Record& b) { return name(a) < name(b); });
  const auto twice = std::adjacent_find(records.begin(), records.end(),
                                        [&](const Record& a, const Record& b) { return name(a) == name(b); });
  if (twice != records.end()) {
    throw fail(ErrorCode::kInvalidFile, "the header has the tensor {} twice", shown(name(*twice)));
  }
}

void SafetensorsHeader::Records::check_layout(uint64_t data_bytes) const {
  std::vector<uint32_t> order(records.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return std::pair(records[a].begin, records[a].end) < std::pair(records[b].begin, records[b].end);
  });
  uint64_t covered = 0;
  for (const uint32_t index : order) {
    const Record& record = records[index];
    if (record.begin != covered) {
      throw fail(ErrorCode::kInvalidFile,
                 "tensor {}: data_offsets [{}, {}] {} the bytes before, which end at {}", shown(name(record)),
                 record.begin, record.end, record.begin > covered ? "leave a hole after" : "overlap",
                 covered);
    }
    covered = record.end;
    if (covered > data_bytes) {
      throw fail(ErrorCode::kInvalidFile,
                 "tensor {}: data_offsets [{}, {}] pass the end of the data, {} bytes; the file is cut short",
                 shown(name(record)), record.begin, record.end, data_bytes);
    }
  }
  if (covered != data_bytes) {
    throw fail(ErrorCode::kInvalidFile,
               "the tensors end at byte {} of the data and the file has {}, {} too many", covered, data_bytes,
               data_bytes - covered);
  }
}

SafetensorsHeader::SafetensorsHeader() = default;
SafetensorsHeader::SafetensorsHeader(SafetensorsHeader&&) noexcept = default;
SafetensorsHeader& SafetensorsHeader::operator=(SafetensorsHeader&&) noexcept = default;
SafetensorsHeader::~SafetensorsHeader() = default;

SafetensorsHeader SafetensorsHeader::parse(std::span<const std::byte> file) {
  const uint64_t length = header_bytes(as_text(file));
  SafetensorsHeader header;
  header.data_offset_ = kLengthBytes + length;
  header.records_ = std::make_unique<Records>();
  Records& records = *header.records_;
  records.json = as_text(file).substr(kLengthBytes, length);

  HeaderScanner scan(records.json, kLengthBytes);
  records.read(scan, header.metadata_);
  const size_t extra = records.json.find_first_not_of(' ', scan.position());
  if (extra != std::string_view::npos) scan.fail_at(extra, "only spaces may follow the header's last '}}'");
  records.sort_by_name();
  records.check_layout(file.size() - header.data_offset_);
  return header;
}

size_t SafetensorsHeader::size() const noexcept { return records_->records.size(); }

SafetensorsHeader::Entry SafetensorsHeader::entry(size_t index) const noexcept {
  const Records::Record& record = records_->records[index];
  const bool known = record.dtype != kUnknownDType;
  return {records_->name(record),
          records_->dtype_name(record),
          known ? kSafetensorsDTypes[record.dtype].dtype : std::nullopt,
          records_->shape(record),
          record.begin,
          record.end};
}

std::optional<size_t> SafetensorsHeader::find(std::string_view name) const noexcept {
  const auto& records = records_->records;
  const auto place =
      std::lower_bound(records.begin(), records.end(), name,
                       [&](const Records::Record& r, std::string_view n) { return records_->name(r) < n; });
  if (place == records.end() || records_->name(*place) != name) return std::nullopt;
  return static_cast<size_t>(place - records.begin());
}

std::string_view safetensors_dtype_name(DType dtype) noexcept {
  for (const SafetensorsDType& d : kSafetensorsDTypes) {
    if (d.dtype == dtype) return d.name;
  }
  return {};
}

std::optional<DType> safetensors_dtype(std::string_view name) noexcept {
  for (const SafetensorsDType& d : kSafetensorsDTypes) {
    if (d.name == name) return d.dtype;
  }
  return std::nullopt;
}

}  // namespace anyfp8
