#include "anyfp8/parallel/watchdog.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "anyfp8/base/text.h"
#include "anyfp8/parallel/tcp_meeting.h"

namespace anyfp8 {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

enum class Kind : uint32_t { kHeartbeat, kGoodbye, kFail, kLost, kGather, kGathered, kCall };

struct Header {
  Kind kind;
  int32_t rank;  // whom it is about
  uint32_t bytes;
};
constexpr uint32_t kMaxBytes = 64 << 20;

// Texts of all ranks as one: lengths, then the words.
std::string packed(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) {
    const auto bytes = static_cast<uint32_t>(text.size());
    all.append(reinterpret_cast<const char*>(&bytes), sizeof(bytes)).append(text);
  }
  return all;
}

std::vector<std::string> unpacked(std::string_view all, int count) {
  std::vector<std::string> texts;
  for (int i = 0; i < count; ++i) {
    uint32_t bytes = 0;
    if (all.size() >= sizeof(bytes)) std::memcpy(&bytes, all.data(), sizeof(bytes));
    all.remove_prefix(std::min(all.size(), sizeof(bytes)));
    texts.emplace_back(all.substr(0, bytes));
    all.remove_prefix(std::min<size_t>(all.size(), bytes));
  }
  return texts;
}

// Whether every rank has said something that is not answered, and the first of each.
using Queues = std::vector<std::deque<std::string>>;
bool complete(const Queues& queues) {
  return std::none_of(queues.begin(), queues.end(), [](const auto& queue) { return queue.empty(); });
}
std::vector<std::string> take(Queues& queues) {
  std::vector<std::string> front;
  for (auto& queue : queues) {
    front.push_back(std::move(queue.front()));
    queue.pop_front();
  }
  return front;
}

// The other end of a connection. On rank 0 one for each rank, else one.
struct Peer {
  int socket = -1;
  int rank = 0;
  std::string received;  // not yet a whole message
  Clock::time_point heard = Clock::now();
};

}  // namespace

struct Watchdog::State {
  WatchdogOptions options;
  std::vector<Peer> peers;
  int wake = -1;
  std::thread thread;
  std::mutex sending;  // one message at a time on the sockets

  mutable std::mutex mutex;  // of all below
  std::condition_variable changed;
  std::string reason;
  std::atomic<bool> lost{false};
  bool stopping = false;
  std::vector<bool> gone;  // by rank: said goodbye
  // Rank 0: what each rank has said and not every rank has answered yet.
  Queues gathering, calls;
  int64_t compared = 0;
  std::deque<std::vector<std::string>> gathered;

  bool is_centre() const { return options.rank == 0; }
  void send(const Peer& peer, const Header& header, std::string_view words);
  void tell_all(Kind kind, int rank, std::string_view words);
  void lose(std::string why, bool tell_owner);
  void handle(const Header& header, std::string words);
  void receive(Peer& peer);
  void match();
  void look_after(Clock::time_point now);
  bool is_gone(int rank) const {
    const std::lock_guard lock(mutex);
    return gone[static_cast<size_t>(rank)];
  }
  bool everyone_gone() const {
    return std::all_of(gone.begin(), gone.end(), [](bool g) { return g; });
  }
  void run();
};

// That nobody reads it any more is noticed where this socket is read.
void Watchdog::State::send(const Peer& peer, const Header& header, std::string_view words) {
  std::string message(reinterpret_cast<const char*>(&header), sizeof(header));
  message += words;
  const std::lock_guard lock(sending);
  for (size_t sent = 0; peer.socket >= 0 && sent < message.size();) {
    const ssize_t count = ::send(peer.socket, message.data() + sent, message.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) return;
    sent += static_cast<size_t>(count);
  }
}

// To rank 0, or from it to all.
void Watchdog::State::tell_all(Kind kind, int rank, std::string_view words) {
  const Header header{kind, rank, static_cast<uint32_t>(words.size())};
  for (const Peer& peer : peers) send(peer, header, words);
}

// The first reason is the reason.
void Watchdog::State::lose(std::string why, bool tell_owner) {
  {
    const std::lock_guard lock(mutex);
    if (lost) return;
    reason = std::move(why);
    lost = true;
  }
  changed.notify_all();
  if (is_centre()) tell_all(Kind::kLost, 0, reason);
  if (tell_owner && options.on_lost) options.on_lost(reason);
}

void Watchdog::State::handle(const Header& header, std::string words) {
  const auto rank = static_cast<size_t>(header.rank);
  if (header.kind == Kind::kHeartbeat || rank >= gone.size()) return;
  if (header.kind == Kind::kFail || header.kind == Kind::kLost) return lose(std::move(words), true);
  {
    const std::lock_guard lock(mutex);
    switch (header.kind) {
      case Kind::kGoodbye: gone[rank] = true; break;
      case Kind::kGather: gathering[rank].push_back(std::move(words)); break;
      case Kind::kCall: calls[rank].push_back(std::move(words)); break;
      case Kind::kGathered: gathered.push_back(unpacked(words, options.size)); break;
      default: break;
    }
  }
  changed.notify_all();
  if (!is_centre()) return;
  if (header.kind == Kind::kGoodbye) tell_all(Kind::kGoodbye, header.rank, {});
  match();
}

// Rank 0: what all ranks have said is compared, or given back to all. A rank that is gone says no more.
void Watchdog::State::match() {
  std::string why;
  {
    const std::lock_guard lock(mutex);
    while (complete(gathering)) {
      gathered.push_back(take(gathering));
      tell_all(Kind::kGathered, 0, packed(gathered.back()));
    }
    while (why.empty() && complete(calls)) {
      const std::vector<std::string> said = take(calls);
      ++compared;
      const auto other =
          std::find_if(said.begin(), said.end(), [&](const auto& call) { return call != said[0]; });
      if (other == said.end()) continue;
      why = fmt::format("the ranks do different things at call {}: rank 0 {}, rank {} {}", compared, said[0],
                        other - said.begin(), *other);
    }
    // Who waits for texts has made all its calls before it, so another rank's next call is one too many.
    for (size_t rank = 0; rank < gone.size() && why.empty(); ++rank) {
      if (gathering[rank].empty() || !calls[rank].empty()) continue;
      for (size_t other = 0; other < gone.size() && why.empty(); ++other) {
        if (calls[other].empty()) continue;
        why = fmt::format("the ranks do different things: rank {} gathers texts, rank {} {}", rank, other,
                          calls[other].front());
      }
    }
    for (size_t rank = 0; rank < gone.size() && why.empty(); ++rank) {
      if (!gone[rank] || !calls[rank].empty() || !gathering[rank].empty()) continue;
      for (size_t waiting = 0; waiting < gone.size(); ++waiting) {
        if (calls[waiting].empty() && gathering[waiting].empty()) continue;
        why = fmt::format("rank {} has ended, and rank {} waits for it in {}", rank, waiting,
                          calls[waiting].empty() ? "a gathering of texts" : calls[waiting].front());
      }
    }
  }
  changed.notify_all();
  if (!why.empty()) lose(std::move(why), true);
}

void Watchdog::State::receive(Peer& peer) {
  char buffer[4096];
  const ssize_t count = ::recv(peer.socket, buffer, sizeof(buffer), MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    {
      const std::lock_guard lock(sending);  // nobody writes to it
      ::close(std::exchange(peer.socket, -1));
    }
    if (!is_gone(peer.rank))
      lose(fmt::format("rank {} died: its connection ended without a goodbye", peer.rank), true);
    return;
  }
  peer.heard = Clock::now();
  peer.received.append(buffer, static_cast<size_t>(count));
  Header header;
  while (peer.received.size() >= sizeof(header)) {
    std::memcpy(&header, peer.received.data(), sizeof(header));
    if (header.bytes > kMaxBytes) return lose(fmt::format("rank {} sends nonsense", peer.rank), true);
    if (peer.received.size() < sizeof(header) + header.bytes) return;
    std::string words = peer.received.substr(sizeof(header), header.bytes);
    peer.received.erase(0, sizeof(header) + header.bytes);
    if (is_centre()) header.rank = peer.rank;
    handle(header, std::move(words));
  }
}

void Watchdog::State::look_after(Clock::time_point now) {
  if (options.timeout_seconds <= 0) return;
  for (const Peer& peer : peers) {
    if (peer.socket < 0 || Seconds(now - peer.heard).count() < options.timeout_seconds) continue;
    if (is_gone(peer.rank)) continue;
    lose(fmt::format("rank {} was not heard of for {} s: it was stopped, or the network was", peer.rank,
                     options.timeout_seconds),
         true);
  }
}

void Watchdog::State::run() {
  const double beat = options.timeout_seconds > 0 ? std::min(2.0, options.timeout_seconds / 4) : 2;
  Clock::time_point last_beat = Clock::now(), last_turn = last_beat;
  while (true) {
    std::vector<pollfd> entries{{wake, POLLIN, 0}};
    for (const Peer& peer : peers) entries.push_back({peer.socket, POLLIN, 0});
    ::poll(entries.data(), entries.size(), static_cast<int>(beat * 500));
    {
      const std::lock_guard lock(mutex);
      if (stopping) return;
    }
    const Clock::time_point now = Clock::now();
    // Who was stopped itself (Ctrl-Z of the whole job) has heard nothing, and that says nothing of the
    // others.
    if (Seconds(now - last_turn).count() > 2 * beat) {
      for (Peer& peer : peers) peer.heard = now;
    }
    last_turn = now;
    for (size_t i = 0; i < peers.size(); ++i) {
      if (entries[i + 1].revents != 0 && peers[i].socket >= 0) receive(peers[i]);
    }
    look_after(now);
    if (Seconds(now - last_beat).count() >= beat) {
      last_beat = now;
      tell_all(Kind::kHeartbeat, options.rank, {});
    }
  }
}

Watchdog::Watchdog(std::unique_ptr<State> state) : state_(std::move(state)) {}

std::unique_ptr<Watchdog> Watchdog::start(WatchdogOptions options) {
  const std::vector<int> sockets = meet(options);
  auto state = std::make_unique<State>();
  const auto size = static_cast<size_t>(options.size);
  for (size_t i = 0; i < sockets.size(); ++i) {
    if (sockets[i] >= 0) state->peers.push_back({.socket = sockets[i], .rank = static_cast<int>(i)});
  }
  state->options = std::move(options);
  state->gone.resize(size);
  state->gathering.resize(size);
  state->calls.resize(size);
  state->wake = ::eventfd(0, EFD_CLOEXEC);
  std::unique_ptr<Watchdog> watchdog(new Watchdog(std::move(state)));
  State& s = *watchdog->state_;
  s.thread = std::thread([&s] { s.run(); });
  return watchdog;
}

bool Watchdog::leave(std::unique_ptr<Watchdog> watchdog) noexcept {
  watchdog->goodbye();
  return !watchdog->lost();
}

void Watchdog::goodbye() noexcept {
  State& s = *state_;
  if (s.is_gone(s.options.rank)) return;
  if (!s.is_centre()) s.tell_all(Kind::kGoodbye, s.options.rank, {});
  s.handle({Kind::kGoodbye, s.options.rank, 0}, {});
  std::unique_lock lock(s.mutex);
  s.changed.wait(lock, [&] { return s.lost || s.everyone_gone(); });
  if (!s.lost && s.options.on_left) s.options.on_left();
}

Watchdog::~Watchdog() {
  goodbye();
  State& s = *state_;
  {
    const std::lock_guard lock(s.mutex);
    s.stopping = true;
  }
  const uint64_t one = 1;
  static_cast<void>(::write(s.wake, &one, sizeof(one)) == sizeof(one));
  s.thread.join();
  for (const Peer& peer : s.peers) {
    if (peer.socket >= 0) ::close(peer.socket);
  }
  ::close(s.wake);
}

int Watchdog::rank() const noexcept { return state_->options.rank; }
int Watchdog::size() const noexcept { return state_->options.size; }

std::vector<std::string> Watchdog::gather(std::string_view text) {
  State& s = *state_;
  if (!s.is_centre()) {
    s.tell_all(Kind::kGather, s.options.rank, text);
  } else {
    s.handle({Kind::kGather, 0, 0}, std::string(text));
  }
  std::unique_lock lock(s.mutex);
  s.changed.wait(lock, [&] { return s.lost || !s.gathered.empty(); });
  if (s.lost) throw Error(ErrorCode::kIo, s.reason);
  std::vector<std::string> texts = std::move(s.gathered.front());
  s.gathered.pop_front();
  return texts;
}

void Watchdog::announce(std::string_view call) {
  State& s = *state_;
  check();
  if (!s.is_centre()) return s.tell_all(Kind::kCall, s.options.rank, call);
  s.handle({Kind::kCall, 0, 0}, std::string(call));
}

void Watchdog::check() const {
  if (lost()) throw Error(ErrorCode::kIo, reason());
}

bool Watchdog::lost() const noexcept { return state_->lost.load(std::memory_order_acquire); }

std::string Watchdog::reason() const {
  const std::lock_guard lock(state_->mutex);
  return state_->reason;
}

bool Watchdog::gone(int rank) const noexcept { return state_->is_gone(rank); }

void Watchdog::fail(std::string_view reason) noexcept try {
  State& s = *state_;
  const std::string words = fmt::format("rank {} gave up: {}", s.options.rank, reason);
  if (!s.is_centre() && !s.lost) s.tell_all(Kind::kFail, s.options.rank, words);
  s.lose(words, false);
} catch (...) {  // out of memory: the connection ends without a goodbye, which says it too
}

}  // namespace anyfp8
