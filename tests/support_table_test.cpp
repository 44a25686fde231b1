#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include "anyfp8/base/text.h"
#include "anyfp8/kernels/select.h"

// README.md's table of what runs where is written from the kernels' own rules, and fails here when it is not
// what they say. UPDATE_GOLDEN=1 build/tests/support_table_test writes it again.
namespace anyfp8 {
namespace {

const std::string kReadme = std::string(ANYFP8_SOURCE_DIR) + "/README.md";
constexpr std::string_view kBegin = "<!-- support table: begin -->\n", kEnd = "<!-- support table: end -->";

struct Column {
  const char* title;
  QuantScheme scheme;
};

std::vector<Column> columns() {
  const auto fp8 = [](Group weight, Group activation, DType scale_dtype = DType::kF32) {
    const QuantKey x{DType::kE4M3, activation, ScaleSource::kDynamic, scale_dtype};
    return QuantScheme{QuantKey{DType::kE4M3, weight, ScaleSource::kStored, scale_dtype}, x};
  };
  return {{"per tensor", fp8(kPerTensor, kPerTensor)},
          {"per channel", fp8(kPerRow, kPerRow)},
          {"128x128", fp8(kBlock128, kGroup128)},
          {"MXFP8", fp8(kMx32, kMx32, DType::kE8M0)}};
}

// fp16 where the card's tensor cores have no bf16.
DType native_dtype(const Device& device) {
  return device.kind == DeviceKind::kCuda && device.cc.major < 8 ? DType::kF16 : DType::kBF16;
}

std::string cell(const Device& device, const QuantScheme& scheme) {
  const DType dtype = native_dtype(device);
  const LinearConfig config{
      .n = 4096, .k = 4096, .scheme = scheme, .in = dtype, .out = dtype, .policy = Policy::kSpeed};
  // The README is about a build without CUDA; a build with it has the same table.
  const auto shown = [](const Kernel& kernel) {
    const bool there = kernel.apply != nullptr && kernel.device == DeviceKind::kCpu;
    return there ? std::string(kernel.name) : fmt::format("({})", kernel.name);
  };
  try {
    const Selection selection = select_kernel(device, config, {.ignore_build = true});
    const std::string decode = shown(selection.kernel_for(1)), prefill = shown(selection.kernel_for(4096));
    return decode == prefill ? decode : decode + " / " + prefill;
  } catch (const Error&) {
    return "–";
  }
}

// Neighbouring devices with the same row share it.
std::string table() {
  struct Row {
    std::string devices, cells;
  };
  std::vector<Row> rows;
  for (const std::string& name : virtual_device_names()) {
    std::string cells;
    for (const Column& column : columns())
      cells += fmt::format(" {} |", cell(device_from_name(name), column.scheme));
    if (!rows.empty() && rows.back().cells == cells) {
      rows.back().devices.append(", ").append(name);
    } else {
      rows.push_back({name, cells});
    }
  }
  std::string text = "| device |";
  for (const Column& column : columns()) text += fmt::format(" {} |", column.title);
  text += "\n|---|---|---|---|---|\n";
  for (const Row& row : rows) text += fmt::format("| {} |{}\n", row.devices, row.cells);
  return text;
}

TEST(SupportTable, ReadmeSaysWhatTheKernelsSay) {
  std::stringstream file;
  file << std::ifstream(kReadme).rdbuf();
  std::string readme = file.str();
  const size_t begin = readme.find(kBegin), end = readme.find(kEnd);
  ASSERT_TRUE(begin != std::string::npos && end != std::string::npos && begin < end)
      << "no markers in " << kReadme;
  const size_t from = begin + kBegin.size();
  if (std::getenv("UPDATE_GOLDEN") != nullptr) {
    readme.replace(from, end - from, table());
    std::ofstream(kReadme) << readme;
    return;
  }
  EXPECT_EQ(readme.substr(from, end - from), table());
}

}  // namespace
}  // namespace anyfp8
