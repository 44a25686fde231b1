#include "anyfp8/base/log.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

struct Logger {
  std::mutex mutex;
  LogSink sink;
  std::set<std::string, std::less<>> said;
};

Logger& logger() {
  static Logger instance;
  return instance;
}

void deliver(const Logger& log, LogLevel level, std::string_view text) {
  if (log.sink) {
    log.sink(level, text);
  } else {
    fmt::print(stderr, "anyfp8: {}\n", text);
  }
}

LogLevel level_from_environment(const Logger& log) {
  const char* value = std::getenv("ANYFP8_LOG");
  const std::string_view name = value == nullptr || *value == '\0' ? "warning" : value;
  if (name == "debug") return LogLevel::kDebug;
  if (name == "info") return LogLevel::kInfo;
  if (name == "off") return LogLevel::kOff;
  if (name != "warning") {
    deliver(log, LogLevel::kWarning,
            fmt::format("ANYFP8_LOG={} is none of debug, info, warning, off; warning is taken", name));
  }
  return LogLevel::kWarning;
}

void pass_on(const Logger& log, LogLevel level, std::string_view text) {
  static const LogLevel threshold = level_from_environment(log);
  if (level >= threshold) deliver(log, level, text);
}

}  // namespace

void set_log_sink(LogSink sink) {
  std::lock_guard lock(logger().mutex);
  logger().sink = std::move(sink);
}

void log_message(LogLevel level, std::string_view text) {
  std::lock_guard lock(logger().mutex);
  pass_on(logger(), level, text);
}

void log_once(LogLevel level, std::string_view text) {
  std::lock_guard lock(logger().mutex);
  if (logger().said.emplace(text).second) pass_on(logger(), level, text);
}

}  // namespace anyfp8
