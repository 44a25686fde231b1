#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "anyfp8/base/export.h"

namespace anyfp8 {

// The ranks' side channel: TCP from every rank to rank 0, with a thread on each rank. It carries words, never
// data: who is alive, what a rank is about to do, small texts at creation. Knows neither MPI nor NCCL.
//
// A rank is lost when its connection ends without a goodbye (it died), when it was not heard of for
// `timeout_seconds` (it is stopped, or the network is), when it said fail(), and when two ranks announce
// differing calls. Then every rank has the same reason in words: check() throws it, on_lost gets it.
struct WatchdogOptions {
  int rank = 0, size = 1;
  // Rank 0 listens here; the others try these addresses in turn ("host" or a number each) for up to
  // meet_seconds.
  std::vector<std::string> addresses;
  int port = 0;
  int listening =
      -1;  // of rank 0: a socket from listen_anywhere(), which is closed then; -1: listen on `port`
  std::string token = {};  // both sides must show the same: keeps other jobs out; under torchrun no secret
  double meet_seconds = 60;
  double timeout_seconds = 20;  // 0: a silent rank is never lost
  // Called once, on the thread that notices, with the reason. May end the process; must not throw.
  std::function<void(std::string_view reason)> on_lost = {};
  // Called by leave() and the destructor once every rank has said goodbye; must not throw.
  std::function<void()> on_left = {};
};

class ANYFP8_API Watchdog {
 public:
  // Returns when all ranks are connected. Error(kIo) says who did not come, or what could not be reached.
  static std::unique_ptr<Watchdog> start(WatchdogOptions options);
  // Says goodbye, and waits until every rank has (true), or one is lost.
  static bool leave(std::unique_ptr<Watchdog> watchdog) noexcept;
  ~Watchdog();  // leave()
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  int rank() const noexcept;
  int size() const noexcept;

  // Every rank's text, by rank. All ranks call it in the same order. Error(kIo) when one is lost.
  std::vector<std::string> gather(std::string_view text);

  // What this rank does next, as words: "all_reduce of 4096 f32". Rank 0 compares the ranks' sequences; a
  // difference is the end of all of them. Costs a message, and waits for nothing.
  void announce(std::string_view call);

  // Error(kIo) with the reason once a rank is lost.
  void check() const;
  bool lost() const noexcept;
  std::string reason() const;  // "" until then
  // The rank said goodbye, so it takes part in nothing more.
  bool gone(int rank) const noexcept;

  // This rank gives up, for `reason`: the other ranks are told that, and end. Returns when the words are
  // sent.
  void fail(std::string_view reason) noexcept;

 private:
  struct State;
  explicit Watchdog(std::unique_ptr<State> state);
  void goodbye() noexcept;
  std::unique_ptr<State> state_;
};

// A listening TCP socket on a free port of every interface, and where it is reached.
struct Listener {
  int socket = -1;
  int port = 0;
  std::vector<std::string> addresses;  // of this machine, the loopback last
};
Listener listen_anywhere();

}  // namespace anyfp8
