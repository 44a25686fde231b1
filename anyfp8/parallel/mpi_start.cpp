// MPI as a module: found, opened, started, and left at the process's end.
#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <sstream>
#include <thread>
#include <utility>

#include "anyfp8/base/text.h"
#include "anyfp8/parallel/mpi_comm.h"

namespace anyfp8 {
namespace {

const Anyfp8MpiTable* opened = nullptr;
// Meetings that are on, or were not left in order: MPI_Finalize() waits for ranks that will not come then.
std::atomic<int> not_left{0};

// What this code is part of lies beside the module, or in bin/ while that is in lib/.
std::vector<std::string> candidates() {
  if (const char* wish = std::getenv("ANYFP8_MPI_MODULE")) return {wish};
  std::vector<std::string> paths;
  Dl_info own{};
  if (dladdr(reinterpret_cast<const void*>(&opened), &own) != 0 && own.dli_fname != nullptr) {
    std::error_code error;
    const std::filesystem::path file = std::filesystem::canonical(
        std::string_view(own.dli_fname).find('/') == std::string_view::npos ? "/proc/self/exe"
                                                                            : own.dli_fname,
        error);
    for (const char* folder : {"", "lib", "../lib"}) {
      const std::filesystem::path path = file.parent_path() / folder / kMpiModule;
      if (std::filesystem::exists(path, error)) paths.push_back(path.lexically_normal());
    }
  }
  paths.emplace_back(kMpiModule);
  return paths;
}

const Anyfp8MpiTable* open_module(const Launch& launch) {
  void* library = nullptr;
  std::string why;
  for (const std::string& path : candidates()) {
    // Open MPI loads parts of its own, which look for its symbols among the global ones.
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
    if (library != nullptr) break;
    why = dlerror();
  }
  if (library == nullptr) {
    throw fail(
        ErrorCode::kUnsupported,
        "{} started {} ranks, and {} is not here, which is built with anyfp8 where MPI is (Debian: "
        "libopenmpi-dev): {}; ANYFP8_MPI_MODULE names it elsewhere, ANYFP8_LAUNCH=none runs each rank alone",
        launcher_name(launch.by), launch.size, kMpiModule, why);
  }
  const auto entry = reinterpret_cast<decltype(&anyfp8_mpi_table)>(dlsym(library, kMpiSymbol));
  if (entry == nullptr) throw fail(ErrorCode::kUnsupported, "{} does not export {}", kMpiModule, kMpiSymbol);
  char words[256] = "";
  const Anyfp8MpiTable* table = entry(words, sizeof(words));
  if (table == nullptr) throw fail(ErrorCode::kUnsupported, "{} cannot be used: {}", kMpiModule, words);
  if (table->version != kMpiTableVersion) {
    throw fail(ErrorCode::kUnsupported, "{} has version {}, this library needs {}; build it again",
               kMpiModule, table->version, kMpiTableVersion);
  }
  return table;
}

}  // namespace

const Anyfp8MpiTable& mpi_table(const Launch& launch) {
  if (opened == nullptr) {
    opened = open_module(launch);
    std::atexit([] {
      if (not_left == 0) opened->finalize();
    });
  }
  if (opened->rank != launch.rank || opened->size != launch.size) {
    throw fail(
        ErrorCode::kUnsupported,
        "{} says this is rank {} of {}, and {}, which {} was built with, says rank {} of {}; {}",
        launcher_name(launch.by), launch.rank, launch.size, opened->library, kMpiModule, opened->rank,
        opened->size,
        launch.by == Launch::By::kSrun ? "try srun --mpi=pmix, or mpirun" : "use the mpirun of that MPI");
  }
  return *opened;
}

std::unique_ptr<Watchdog> meet_by_mpi(const Anyfp8MpiTable& mpi, WatchdogOptions options) {
  const auto check = [](const char* error) {
    if (error != nullptr) throw Error(ErrorCode::kIo, error);
  };
  ++not_left;
  options.on_left = [] { --not_left; };
  struct Socket {
    int number = -1;
    ~Socket() {
      if (number >= 0) ::close(number);
    }
  } listening;           // the watchdog's, once it starts
  char note[1024] = "";  // port, token, addresses
  std::vector<Anyfp8MpiRequest> requests(static_cast<size_t>(options.size));
  void* comm = nullptr;
  check(mpi.open(&comm));
  int count = 0;
  if (options.rank == 0) {
    const Listener listener = listen_anywhere();
    listening.number = listener.socket;
    std::random_device random;
    options.token = fmt::format("{:08x}{:08x}{:08x}", random(), random(), random());
    std::string words =
        fmt::format("{} {} {}", listener.port, options.token, fmt::join(listener.addresses, " "));
    // Of a machine with very many addresses the first; the loopback, which is last, serves ranks beside.
    if (words.size() >= sizeof(note)) words.resize(words.rfind(' ', sizeof(note) - 1));
    words.copy(note, sizeof(note) - 1);
    for (int rank = 1; rank < options.size; ++rank)
      check(mpi.send(comm, note, sizeof(note), rank, 0, &requests[static_cast<size_t>(count++)]));
  } else {
    check(mpi.receive(comm, note, sizeof(note), 0, 0, &requests[static_cast<size_t>(count++)]));
  }
  // MPI has just brought all ranks together, so who is not here soon has died.
  options.meet_seconds = 20;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  for (bool done = false; !done;) {
    check(mpi.test(requests.data(), count, &done));
    if (std::chrono::steady_clock::now() > deadline)
      throw fail(ErrorCode::kIo, "rank {} heard nothing of rank 0 through MPI in 20 s", options.rank);
    std::this_thread::yield();
  }
  if (options.rank != 0) {
    std::istringstream words(note);
    words >> options.port >> options.token;
    for (std::string address; words >> address;) options.addresses.push_back(address);
  }
  options.listening = std::exchange(listening.number, -1);
  return Watchdog::start(std::move(options));
}

}  // namespace anyfp8
