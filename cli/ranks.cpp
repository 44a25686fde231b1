#include "cli/ranks.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string_view>
#include <thread>

#include "anyfp8/base/log.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/parallel/launch.h"
#include "cli/arguments.h"
#include "cli/terminal.h"

namespace anyfp8::cli {
namespace {

int own_rank = 0;
std::atomic<bool> watched{false};  // by the other ranks

// Not by exit(): other threads may wait in MPI for ranks that are gone, and MPI_Finalize() would too.
[[noreturn]] void end_rank(std::string_view reason) {
  static std::atomic_flag said;
  if (said.test_and_set()) {
    while (true) pause();  // the thread that says it ends this one too
  }
  print_err("{} rank {}: {}\n", styled(Style::kRed, "anyfp8: error:", stderr), own_rank, printable(reason));
  _exit(1);
}

// mpirun sends SIGTERM to the other ranks when one has ended, and SIGKILL within a second. The watchdog, once
// there is one, knows which rank, and why; it comes first if it can. Before that Open MPI 4.1.4's mpirun
// sometimes hangs (once in some 50 times that a rank died in MPI_Init) and the ranks in MPI_Init with it;
// hence the clock, where MPI starts. The signal is blocked before any other thread is started, so that this
// one gets it.
void say_why_on_sigterm(const Launch& launch, int most_seconds) {
  sigset_t terminate;
  sigemptyset(&terminate);
  sigaddset(&terminate, SIGTERM);
  std::signal(SIGTERM, SIG_DFL);
  pthread_sigmask(SIG_BLOCK, &terminate, nullptr);
  const bool timed = launch.by != Launch::By::kTorchrun && most_seconds > 0;
  std::thread([terminate, timed, most_seconds] {
    const timespec start{most_seconds, 0};
    int signal = timed ? sigtimedwait(&terminate, nullptr, &start) : -1;
    if (timed && signal < 0 && errno == EAGAIN && !watched)
      end_rank(fmt::format("the ranks have not met within {} s; another rank has ended, or mpirun hangs",
                           most_seconds));
    if (signal < 0) sigwait(&terminate, &signal);
    if (!watched)
      end_rank("ended by SIGTERM before the ranks had met; another rank has ended, or its launcher");
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    end_rank("ended by SIGTERM, which launchers send when another rank has ended");
  }).detach();
}

// mpirun binds ranks to cores only where there are enough; ranks that all have every core would fight for
// them.
void share_cores(const Launch& launch) {
  const auto all = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  if (threads_were_named() || num_threads() != all) return;
  set_num_threads(std::max(1, all / launch.local_size));
}

}  // namespace

int on_ranks(const Device& device, const std::function<int(Comm&)>& body) {
  const Launch launch = launch_from_environment();
  if (launch.size == 1) return body(*open_comm(device));
  own_rank = launch.rank;
  // Four ranks take a second, on a busy machine five; NCCL and CUDA may take a minute on a cold one.
  const char* const timeout = std::getenv("ANYFP8_COMM_TIMEOUT");
  const bool for_ever = timeout != nullptr && std::string_view(timeout) == "0";
  say_why_on_sigterm(launch, for_ever ? 0 : device.kind == DeviceKind::kCuda ? 300 : 25);
  share_cores(launch);
  if (launch.rank != 0) set_log_sink([](LogLevel, std::string_view) {});
  std::unique_ptr<Comm> comm;
  try {
    comm = open_comm(device, {.on_lost = end_rank});
    watched = true;
    return body(*comm);
  } catch (const OutputClosed&) {
    if (comm != nullptr) comm->abandon("standard output was closed");
    end_rank("standard output was closed");
  } catch (const std::bad_alloc&) {
    if (comm != nullptr) comm->abandon("out of memory");
    end_rank("out of memory; close other programs, or use more machines");
  } catch (const std::exception& error) {
    if (comm != nullptr) comm->abandon(error.what());
    end_rank(error.what());
  }
}

}  // namespace anyfp8::cli
