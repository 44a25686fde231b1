#include "cli/shape_arguments.h"

#include <memory>
#include <sstream>

#include "anyfp8/base/mapped_file.h"
#include "anyfp8/base/text.h"
#include "cli/arguments.h"

namespace anyfp8::cli {
namespace {

MatrixShape parse_shape(const std::string& text) {
  constexpr int64_t kMost = 1 << 20;
  std::istringstream stream(text);
  MatrixShape shape{0, 0};
  char by = 0;
  std::string rest;
  if (!(stream >> shape.n >> by >> shape.k) || (by != 'x' && by != 'X') || (stream >> rest) || shape.n < 1 ||
      shape.k < 1 || shape.n > kMost || shape.k > kMost) {
    throw fail(ErrorCode::kInvalidArgument, "{} is no shape; write N x K like 4096x14336, each from 1 to {}",
               text, kMost);
  }
  return shape;
}

// One N x K a line; empty lines and what follows # are skipped.
std::vector<MatrixShape> read_shapes(const std::string& path) {
  constexpr size_t kMostBytes = 1'000'000;
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  const auto bytes = file->bytes();
  if (bytes.size() > kMostBytes) {
    throw fail(ErrorCode::kInvalidArgument, "{} has {} bytes; a list of shapes has at most {}", path,
               bytes.size(), kMostBytes);
  }
  std::istringstream text(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  std::vector<MatrixShape> shapes;
  for (std::string line; std::getline(text, line);) {
    line.resize(std::min(line.find('#'), line.size()));
    if (line.find_first_not_of(" \t\r") != std::string::npos) shapes.push_back(parse_shape(line));
  }
  if (shapes.empty())
    throw fail(ErrorCode::kInvalidArgument, "{} has no shape; write one N x K a line", path);
  return shapes;
}

}  // namespace

const std::vector<MatrixShape>& default_shapes() {
  static const std::vector<MatrixShape> shapes = {{4096, 4096}, {14336, 4096}, {4096, 14336}};
  return shapes;
}

void add_shapes(CLI::App& verb, std::vector<MatrixShape>& shapes, const std::string& preset) {
  verb.add_option_function<std::vector<std::string>>(
          "--shape",
          [&shapes](const std::vector<std::string>& texts) {
            for (const std::string& text : texts)
              shapes.push_back(checked("--shape", [&] { return parse_shape(text); }));
          },
          fmt::format("Weight N x K, repeatable (default: {})", preset))
      ->type_name("NxK")
      ->allow_extra_args(false);
  verb.add_option_function<std::string>(
          "--shapes",
          [&shapes](const std::string& path) {
            for (const MatrixShape shape : checked("--shapes", [&] { return read_shapes(path); }))
              shapes.push_back(shape);
          },
          "File with one N x K a line")
      ->type_name("FILE")
      ->check(not_empty());
}

}  // namespace anyfp8::cli
