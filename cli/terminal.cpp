#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace anyfp8::cli {
namespace {

bool color_forbidden = false;
int chosen_verbosity = 0;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

[[noreturn]] void fail_write() {
  if (errno == EPIPE) throw OutputClosed{};
  throw fail(ErrorCode::kIo, "cannot write to standard output: {}", std::strerror(errno));
}

bool colored(std::FILE* stream) {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return !color_forbidden && is_terminal(stream) && (no_color == nullptr || *no_color == '\0') &&
         (term == nullptr || std::string_view(term) != "dumb");
}

// Columns a text takes: one for each character, counted as the bytes that do not continue one.
int columns_of(std::string_view text) {
  return static_cast<int>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

std::string scaled_text(double value, const char* const* units, int last) {
  int unit = 0;
  while (value >= 999.5 && unit < last) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f}{}", value, value < 9.95 && unit > 0 ? 1 : 0, units[unit]);
}

}  // namespace

void write_out(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) fail_write();
}

void flush_out() {
  errno = 0;
  if (std::fflush(stdout) != 0) fail_write();
}

void write_err(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

void print_json_line(const nlohmann::json& value) {
  write_out(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  flush_out();
}

void print_json(const nlohmann::json& value) {
  write_out(value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  write_out("\n");
}

void print_json(const nlohmann::json& head, std::string_view list, size_t count,
                const std::function<nlohmann::json(size_t)>& row) {
  constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
  std::string text = head.dump(2, ' ', false, kReplace);
  text.resize(text.size() - 2);  // the "\n}" that ends the object
  write_out(fmt::format("{},\n  \"{}\": [", text, list));
  for (size_t i = 0; i < count; ++i) {
    write_out(fmt::format("{}\n    {}", i == 0 ? "" : ",", row(i).dump(-1, ' ', false, kReplace)));
  }
  write_out("\n  ]\n}\n");
}

void forbid_color() { color_forbidden = true; }

std::string styled(Style style, std::string_view text, std::FILE* stream) {
  if (style == Style::kPlain || text.empty() || !colored(stream)) return std::string(text);
  const char* code = style == Style::kBold     ? "1"
                     : style == Style::kDim    ? "2"
                     : style == Style::kRed    ? "31"
                     : style == Style::kYellow ? "33"
                                               : "32";
  return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

bool is_terminal(std::FILE* stream) { return isatty(fileno(stream)) != 0; }

int terminal_width(std::FILE* stream) {
  if (!is_terminal(stream)) return 0;
  winsize size{};
  if (ioctl(fileno(stream), TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return 80;
  return size.ws_col;
}

int line_width(std::FILE* stream) {
  const int width = terminal_width(stream);
  return width == 0 ? 80 : width;
}

void set_verbosity(int verbosity) { chosen_verbosity = verbosity; }
int verbosity() { return chosen_verbosity; }

std::string printable(std::string_view text) {
  std::string result;
  unsigned char before = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool c1_control = before == 0xC2 && byte < 0xA0;  // U+0080..U+009F, some terminals obey them
    if (c == '\n' || c == '\t') {
      result += ' ';
    } else if (byte < 0x20 || byte == 0x7F || c1_control) {
      if (c1_control) result.pop_back();
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
    before = byte;
  }
  return result;
}

std::string bytes_text(double bytes) {
  static constexpr const char* kUnits[] = {" B", " kB", " MB", " GB", " TB"};
  return scaled_text(bytes, kUnits, 4);
}

std::string count_text(double count) {
  static constexpr const char* kUnits[] = {"", " k", " M", " G", " T"};
  return scaled_text(count, kUnits, 4);
}

std::string seconds_text(double seconds) {
  if (seconds < 0.9995) return fmt::format("{:.0f} ms", std::max(1.0, seconds * 1e3));
  return fmt::format("{:.{}f} s", seconds, seconds < 99.5 ? 1 : 0);
}

std::string wrapped(std::string_view text, int indent, int width) {
  std::string result;
  int column = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    const int columns = columns_of(word);
    if (column > 0 && column + 1 + columns > width) {
      result += '\n';
      result.append(static_cast<size_t>(indent), ' ');
      column = 0;
    } else if (column > 0) {
      result += ' ';
      ++column;
    }
    result += word;
    column += columns;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return result;
}

Table::Table(std::vector<Column> columns, int indent) : columns_(std::move(columns)), indent_(indent) {}

void Table::add(std::vector<std::string> cells) {
  for (std::string& cell : cells) cell = printable(cell);
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::text(std::FILE* stream) const {
  constexpr int kGap = 2;
  constexpr int kLeastLastColumn = 16;  // below this a broken last column is harder to read than a long line
  const size_t last = columns_.size() - 1;
  std::vector<int> widths;
  int before_last = indent_;
  bool titled = false;
  for (size_t c = 0; c <= last; ++c) {
    int width = columns_of(columns_[c].title);
    titled |= !columns_[c].title.empty();
    for (const auto& row : rows_) width = std::max(width, columns_of(row[c]));
    widths.push_back(width);
    if (c < last) before_last += width + kGap;
  }
  const int room = terminal_width(stream) - before_last;
  const bool wrap = columns_[last].align == Align::kLeft && room >= kLeastLastColumn;

  std::string result;
  const auto line = [&](const std::vector<std::string>& cells, bool head) {
    std::string text(static_cast<size_t>(indent_), ' ');
    size_t written = text.size();  // without trailing spaces
    for (size_t c = 0; c <= last; ++c) {
      const std::string pad(static_cast<size_t>(widths[c] - columns_of(cells[c])), ' ');
      const std::string cell = c == last && wrap ? wrapped(cells[c], before_last, room) : cells[c];
      if (columns_[c].align == Align::kRight) text += pad;
      text += styled(head ? Style::kDim : columns_[c].style, cell, stream);
      if (!cell.empty()) written = text.size();
      if (columns_[c].align == Align::kLeft) text += pad;
      text.append(kGap, ' ');
    }
    text.resize(written);
    result += text + '\n';
  };
  if (titled) {
    std::vector<std::string> titles;
    for (const Column& column : columns_) titles.push_back(column.title);
    line(titles, true);
  }
  for (const auto& row : rows_) line(row, false);
  return result;
}

ProgressBar::ProgressBar(std::string title, double total, bool enabled)
    : title_(std::move(title)), total_(total), begin_s_(now_s()), enabled_(enabled && is_terminal(stderr)) {}

ProgressBar::~ProgressBar() { finish(); }

void ProgressBar::finish() {
  if (visible_) write_err("\r\x1b[K");
  visible_ = enabled_ = false;
}

void ProgressBar::advance(double amount, std::string_view what) {
  constexpr double kQuietS = 0.25, kRedrawS = 0.05;
  constexpr int kBar = 24;
  done_ += amount;
  const double now = now_s();
  if (!enabled_ || now - begin_s_ < kQuietS || now - drawn_s_ < kRedrawS) return;
  drawn_s_ = now;
  visible_ = true;
  const double part = total_ > 0 ? std::min(1.0, done_ / total_) : 1.0;
  const double left_s = part > 0 ? (now - begin_s_) * (1 - part) / part : 0;
  std::string line =
      fmt::format("{} [{:-<{}}] {:3.0f} %  {} left  ", title_,
                  std::string(static_cast<size_t>(part * kBar), '#'), kBar, part * 100, seconds_text(left_s));
  const int room = std::max(0, terminal_width(stderr) - 1 - columns_of(line));
  line += printable(what).substr(0, static_cast<size_t>(room));
  print_err("\r\x1b[K{}", line);
}

}  // namespace anyfp8::cli
