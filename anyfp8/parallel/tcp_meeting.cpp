#include "anyfp8/parallel/tcp_meeting.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

using Clock = std::chrono::steady_clock;

// What a rank says first; rank 0 gives it back. Every field is checked.
struct Hello {
  char magic[8] = {'a', 'n', 'y', 'f', 'p', '8', ' ', '1'};
  char token[40] = {};
  int32_t rank = 0, size = 0;
};

Hello hello(const WatchdogOptions& options, int rank) {
  Hello words;
  words.rank = rank;
  words.size = options.size;
  std::memcpy(words.token, options.token.data(), std::min(options.token.size(), sizeof(words.token)));
  return words;
}

bool same_job(const Hello& a, const Hello& b) {
  return std::memcmp(&a, &b, offsetof(Hello, rank)) == 0 && a.size == b.size;
}

int milliseconds(Clock::duration time) {
  return static_cast<int>(
      std::max<int64_t>(0, std::chrono::duration_cast<std::chrono::milliseconds>(time).count()));
}

bool ready(int socket, short events, Clock::time_point deadline) {
  pollfd entry{socket, events, 0};
  while (true) {  // signals that are handled end poll()
    const int count = ::poll(&entry, 1, milliseconds(deadline - Clock::now()));
    if (count >= 0 || errno != EINTR) return count == 1;
  }
}

Clock::time_point soon() { return Clock::now() + std::chrono::seconds(2); }

// All of `words` within two seconds, as ranks send it at once.
template <class Words>
bool receive(int socket, Words& words) {
  auto* to = reinterpret_cast<char*>(&words);
  const Clock::time_point deadline = soon();
  for (size_t got = 0; got < sizeof(words);) {
    if (!ready(socket, POLLIN, deadline)) return false;
    const ssize_t count = ::recv(socket, to + got, sizeof(words) - got, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    got += static_cast<size_t>(count);
  }
  return true;
}

template <class Words>
bool send_all(int socket, const Words& words) {
  return ::send(socket, &words, sizeof(words), MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(words));
}

void prepare(int socket) {
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  // A peer that does not read for so long has stopped; the watchdog finds out by itself.
  const timeval patience{5, 0};
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
}

int listen_on(int port) {
  for (const int family : {AF_INET6, AF_INET}) {
    const int socket = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (socket < 0) continue;
    const int on = 1, off = 0;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in6 six{};
    sockaddr_in four{};
    six.sin6_family = AF_INET6;
    four.sin_family = AF_INET;
    six.sin6_port = four.sin_port = htons(static_cast<uint16_t>(port));
    if (family == AF_INET6) ::setsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    const auto* address =
        family == AF_INET6 ? reinterpret_cast<sockaddr*>(&six) : reinterpret_cast<sockaddr*>(&four);
    const socklen_t bytes = family == AF_INET6 ? sizeof(six) : sizeof(four);
    if (::bind(socket, address, bytes) == 0 && ::listen(socket, 256) == 0) return socket;
    const int error = errno;
    ::close(socket);
    errno = error;
  }
  throw fail(ErrorCode::kIo, "rank 0 cannot listen on TCP port {}: {}", port, std::strerror(errno));
}

std::vector<int> wait_for_ranks(const WatchdogOptions& options, Clock::time_point deadline) {
  const int listening = options.listening >= 0 ? options.listening : listen_on(options.port);
  std::vector<int> sockets(static_cast<size_t>(options.size), -1);
  int missing = options.size - 1;
  while (missing > 0 && ready(listening, POLLIN, deadline)) {
    const int socket = ::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket < 0) continue;
    prepare(socket);
    Hello words;
    const bool ours = receive(socket, words) && same_job(words, hello(options, 0)) && words.rank > 0 &&
                      words.rank < options.size && sockets[static_cast<size_t>(words.rank)] < 0;
    // A rank that had to wait for the answer has gone, and comes again: only who confirms it is here.
    char here = 0;
    if (!ours || !send_all(socket, words) || !receive(socket, here)) {
      ::close(socket);
      continue;
    }
    sockets[static_cast<size_t>(words.rank)] = socket;
    --missing;
  }
  ::close(listening);
  if (missing == 0) return sockets;
  std::vector<int> absent;
  for (int rank = 1; rank < options.size; ++rank) {
    const int socket = sockets[static_cast<size_t>(rank)];
    if (socket < 0) absent.push_back(rank);
    if (socket >= 0) ::close(socket);
  }
  throw fail(ErrorCode::kIo, "rank {} did not come within {} s", fmt::join(absent, ", "),
             options.meet_seconds);
}

// A connected socket, or -1 and why not in `why`.
int connect_to(const addrinfo& address, std::string& why) {
  const int socket = ::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (socket < 0) return -1;
  int error = ::connect(socket, address.ai_addr, address.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    socklen_t bytes = sizeof(error);
    error = ETIMEDOUT;
    if (ready(socket, POLLOUT, soon())) ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &bytes);
  }
  if (error == 0) {
    ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) & ~O_NONBLOCK);
    prepare(socket);
    return socket;
  }
  why = std::strerror(error);
  ::close(socket);
  return -1;
}

int try_address(const WatchdogOptions& options, const std::string& host, std::string& why) {
  addrinfo wanted{}, *found = nullptr;
  wanted.ai_socktype = SOCK_STREAM;
  const int error = ::getaddrinfo(host.c_str(), std::to_string(options.port).c_str(), &wanted, &found);
  if (error != 0) {
    why = ::gai_strerror(error);
    return -1;
  }
  int socket = -1;
  for (const addrinfo* address = found; address != nullptr && socket < 0; address = address->ai_next) {
    socket = connect_to(*address, why);
    if (socket < 0) continue;
    const Hello mine = hello(options, options.rank);
    Hello answer;
    if (send_all(socket, mine) && receive(socket, answer) && same_job(answer, mine) &&
        send_all(socket, 'k')) {
      continue;
    }
    why = "what answers there is not rank 0 of this job";
    ::close(socket);
    socket = -1;
  }
  ::freeaddrinfo(found);
  return socket;
}

}  // namespace

Listener listen_anywhere() {
  Listener listener;
  listener.socket = listen_on(0);
  sockaddr_in6 own{};
  socklen_t bytes = sizeof(own);
  ::getsockname(listener.socket, reinterpret_cast<sockaddr*>(&own), &bytes);
  listener.port = ntohs(own.sin6_port);  // at the same place in both families
  ifaddrs* interfaces = nullptr;
  ::getifaddrs(&interfaces);
  for (const ifaddrs* one = interfaces; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_LOOPBACK) != 0 || (one->ifa_flags & IFF_UP) == 0)
      continue;
    const bool four = one->ifa_addr->sa_family == AF_INET;
    if (!four && (own.sin6_family != AF_INET6 || one->ifa_addr->sa_family != AF_INET6)) continue;
    const auto* six = reinterpret_cast<const sockaddr_in6*>(one->ifa_addr);
    if (!four && IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr)) continue;
    char text[NI_MAXHOST];
    if (::getnameinfo(one->ifa_addr, four ? sizeof(sockaddr_in) : sizeof(sockaddr_in6), text, sizeof(text),
                      nullptr, 0, NI_NUMERICHOST) == 0) {
      listener.addresses.emplace_back(text);
    }
  }
  if (interfaces != nullptr) ::freeifaddrs(interfaces);
  listener.addresses.emplace_back("127.0.0.1");
  return listener;
}

std::vector<int> meet(const WatchdogOptions& options) {
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                           std::chrono::duration<double>(options.meet_seconds));
  if (options.rank == 0) return wait_for_ranks(options, deadline);
  std::string why = "no address";
  do {
    for (const std::string& host : options.addresses) {
      const int socket = try_address(options, host, why);
      if (socket >= 0) return {socket};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  } while (Clock::now() < deadline);
  throw fail(ErrorCode::kIo, "rank {} does not reach rank 0 at {}, port {}, within {} s: {}", options.rank,
             fmt::join(options.addresses, ", "), options.port, options.meet_seconds, why);
}

}  // namespace anyfp8
