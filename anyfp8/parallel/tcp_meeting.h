#pragma once

#include <vector>

#include "anyfp8/parallel/watchdog.h"

namespace anyfp8 {

// Internal to parallel/: the sockets of the watchdog's star. Rank 0 gets one for each rank (its own is -1),
// the others one, to rank 0. Strangers that do not show the token are sent away. Error(kIo) as
// Watchdog::start().
std::vector<int> meet(const WatchdogOptions& options);

}  // namespace anyfp8
