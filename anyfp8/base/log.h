#pragma once

#include <functional>
#include <string_view>

#include "anyfp8/base/export.h"

namespace anyfp8 {

enum class LogLevel : int { kDebug, kInfo, kWarning, kOff };

// Called for each message at or above the level, from any thread, one call at a time.
using LogSink = std::function<void(LogLevel, std::string_view)>;

// The library never prints on its own behalf except through this sink. Default: stderr, warnings only;
// ANYFP8_LOG=debug|info|warning|off sets the level. Passing an empty function restores the default.
ANYFP8_API void set_log_sink(LogSink sink);

void log_message(LogLevel level, std::string_view text);

// For facts that would be said once per layer: the same text is passed on once per process.
void log_once(LogLevel level, std::string_view text);

}  // namespace anyfp8
