#include "anyfp8/parallel/launch.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

bool is_set(const char* name) { return std::getenv(name) != nullptr; }

int number(const char* name, Launch::By by) {
  const char* value = std::getenv(name);
  const std::string_view text = value == nullptr ? "" : value;
  int result = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
  if (error != std::errc{} || end != text.data() + text.size() || result < 0) {
    throw fail(ErrorCode::kInvalidArgument, "{} started this process, and {} is '{}'; it must be a number",
               launcher_name(by), name, text);
  }
  return result;
}

// The variables of one launcher. Those of this machine may be absent; then all ranks are on it.
Launch numbered(Launch::By by, const char* rank, const char* size, const char* local,
                const char* local_size) {
  Launch launch{.by = by, .rank = number(rank, by), .size = number(size, by)};
  launch.local_rank = is_set(local) ? number(local, by) : launch.rank;
  launch.local_size = is_set(local_size) ? std::max(1, number(local_size, by)) : launch.size;
  if (launch.rank >= launch.size) {
    throw fail(ErrorCode::kInvalidArgument, "{} says {} = {} and {} = {}; a rank is below the size",
               launcher_name(by), rank, launch.rank, size, launch.size);
  }
  return launch;
}

// Of this machine, by what srun says of all of them, such as "2(x3),1": three with two tasks, one with one.
int tasks_of_node(std::string_view list, int node) {
  int tasks = 0;
  while (!list.empty()) {
    const std::string_view entry = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), entry.size() + 1));
    const size_t times_at = entry.find("(x");
    int times = 1;
    if (std::from_chars(entry.data(), entry.data() + entry.size(), tasks).ec != std::errc{}) return 0;
    if (times_at != entry.npos)
      std::from_chars(entry.data() + times_at + 2, entry.data() + entry.size(), times);
    if (node < times) return tasks;
    node -= times;
  }
  return 0;
}

}  // namespace

const char* launcher_name(Launch::By by) noexcept {
  switch (by) {
    case Launch::By::kMpirun: return "mpirun";
    case Launch::By::kSrun: return "srun";
    case Launch::By::kTorchrun: return "torchrun";
    default: return "nothing";
  }
}

// torchrun first: it may itself be a task of srun's. srun last: mpirun inside of an allocation sees its
// variables.
Launch launch_from_environment() {
  const char* wish = std::getenv("ANYFP8_LAUNCH");
  if (wish != nullptr && std::string_view(wish) == "none") return {};
  if (wish != nullptr) {
    throw fail(ErrorCode::kInvalidArgument, "ANYFP8_LAUNCH is '{}'; only none is known", wish);
  }
  if (is_set("RANK") && is_set("WORLD_SIZE") && is_set("MASTER_ADDR")) {
    Launch launch = numbered(Launch::By::kTorchrun, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE");
    launch.master_address = std::getenv("MASTER_ADDR");
    launch.master_port = number("MASTER_PORT", launch.by);
    return launch;
  }
  if (is_set("OMPI_COMM_WORLD_RANK")) {
    return numbered(Launch::By::kMpirun, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                    "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE");
  }
  if (is_set("PMI_RANK") && is_set("PMI_SIZE") && !is_set("SLURM_STEP_NUM_TASKS")) {
    return numbered(Launch::By::kMpirun, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS");
  }
  // Not SLURM_NTASKS, which a batch script has too, that is one process.
  if (is_set("SLURM_PROCID") && is_set("SLURM_STEP_NUM_TASKS")) {
    Launch launch = numbered(Launch::By::kSrun, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "");
    if (is_set("SLURM_STEP_TASKS_PER_NODE") && is_set("SLURM_NODEID")) {
      const int tasks =
          tasks_of_node(std::getenv("SLURM_STEP_TASKS_PER_NODE"), number("SLURM_NODEID", launch.by));
      if (tasks > 0) launch.local_size = tasks;
    }
    return launch;
  }
  return {};
}

}  // namespace anyfp8
