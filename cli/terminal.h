#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "anyfp8/base/text.h"

namespace anyfp8::cli {

// The reader of stdout went away (head, a closed pager): nothing is wrong, the program ends quietly.
struct OutputClosed {};

// All of the program's results go through here, so that a full disk is an error and a closed pipe is not.
void write_out(std::string_view text);
void flush_out();

template <typename... Args>
void print_out(fmt::format_string<Args...> text, Args&&... args) {
  write_out(fmt::format(text, std::forward<Args>(args)...));
}

// For a person, on stderr. That nobody listens there is no reason to stop.
void write_err(std::string_view text);

template <typename... Args>
void print_err(fmt::format_string<Args...> text, Args&&... args) {
  write_err(fmt::format(text, std::forward<Args>(args)...));
}

// One JSON object and a newline on stdout; bytes that are not UTF-8 (paths may have them) become U+FFFD.
void print_json(const nlohmann::json& value);
void print_json_line(const nlohmann::json& value);  // on one line, and at once
// The same with one more member, a list of `count` rows that are made and written one at a time: a checkpoint
// can have more layers than there should be memory for.
void print_json(const nlohmann::json& head, std::string_view list, size_t count,
                const std::function<nlohmann::json(size_t)>& row);

// Colours are used on a terminal, unless NO_COLOR is set, TERM is dumb or --no-color was given.
enum class Style { kPlain, kBold, kDim, kRed, kYellow, kGreen };
void forbid_color();
std::string styled(Style style, std::string_view text, std::FILE* stream);

bool is_terminal(std::FILE* stream);
int terminal_width(std::FILE* stream);  // columns; 0 where the stream is no terminal: tables are not broken
int line_width(std::FILE* stream);      // for sentences: the terminal's, else 80

// -v, -vv: how much is said on stderr.
void set_verbosity(int verbosity);
int verbosity();

// The text without control characters: names from untrusted files must not steer the terminal, and an
// error stays one line.
std::string printable(std::string_view text);

std::string bytes_text(double bytes);  // "8.4 MB", powers of 1000 as disks and safetensors files are counted
std::string count_text(double count);  // "7.3 M"
std::string seconds_text(double seconds);  // "41 ms", "2.3 s"

// Words of `text` in lines of at most `width` columns, the second and later ones indented by `indent`.
std::string wrapped(std::string_view text, int indent, int width);

// A table of text. Columns are as wide as their widest cell; on a terminal the last one is broken into lines.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;  // all empty: no head line
    Align align = Align::kLeft;
    Style style = Style::kPlain;
  };
  explicit Table(std::vector<Column> columns, int indent = 0);
  void add(std::vector<std::string> cells);
  std::string text(std::FILE* stream) const;  // as it is to be printed on this stream

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
  int indent_;
};

// A bar on stderr while something long runs; nothing at all where stderr is no terminal, or within the first
// quarter second. Erased at the end.
class ProgressBar {
 public:
  ProgressBar(std::string title, double total, bool enabled = true);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  void advance(double amount, std::string_view what);
  void finish();  // erases it, as the destructor does

 private:
  std::string title_;
  double total_, done_ = 0;
  double begin_s_, drawn_s_ = 0;
  bool enabled_, visible_ = false;
};

}  // namespace anyfp8::cli
