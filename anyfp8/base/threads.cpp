#include "anyfp8/base/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "anyfp8/base/log.h"
#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

constexpr int kMaxThreads = 1024;

int cpus_of_process() noexcept {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

int threads_from_environment() {
  const char* value = std::getenv("ANYFP8_THREADS");
  if (value == nullptr) return cpus_of_process();
  const std::string_view text = value;
  int count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc{} || end != text.data() + text.size() || count < 1 || count > kMaxThreads) {
    log_once(LogLevel::kWarning,
             fmt::format("ANYFP8_THREADS={} is not a number from 1 to {}; using {} threads", text,
                         kMaxThreads, cpus_of_process()));
    return cpus_of_process();
  }
  return count;
}

std::atomic<int>& setting() {
  static std::atomic<int> count{threads_from_environment()};
  return count;
}

}  // namespace

int num_threads() noexcept { return setting().load(std::memory_order_relaxed); }

void set_num_threads(int count) {
  if (count < 1 || count > kMaxThreads) {
    throw fail(ErrorCode::kInvalidArgument, "{} threads asked for; 1 to {} are possible", count, kMaxThreads);
  }
  setting().store(count, std::memory_order_relaxed);
}

int useful_threads(double work_ns) noexcept {
  constexpr double kNsPerThread = 10000;  // twice what waking one takes
  return static_cast<int>(std::clamp(work_ns / kNsPerThread, 1.0, static_cast<double>(num_threads())));
}

IndexRange static_split(int64_t count, int64_t granule, int part, int parts) noexcept {
  const int64_t granules = (count + granule - 1) / granule;
  const int64_t begin = granules * part / parts * granule;
  const int64_t end = granules * (part + 1) / parts * granule;
  return {std::min(begin, count), std::min(end, count)};
}

}  // namespace anyfp8
