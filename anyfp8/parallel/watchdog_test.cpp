#include "anyfp8/parallel/watchdog.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <functional>
#include <thread>

#include "anyfp8/base/error.h"

namespace anyfp8 {
namespace {

// Ranks as threads of this process; what each ends with, "" without an error. `left` counts those that saw
// all leave in order.
std::vector<std::string> ranks(int size, const std::function<void(Watchdog&)>& body, double timeout_s = 20,
                               std::atomic<int>* left = nullptr) {
  const Listener listener = listen_anywhere();
  std::vector<std::string> ends(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        const auto watchdog = Watchdog::start({.rank = rank,
                                               .size = size,
                                               .addresses = listener.addresses,
                                               .port = listener.port,
                                               .listening = rank == 0 ? listener.socket : -1,
                                               .token = "test",
                                               .meet_seconds = 10,
                                               .timeout_seconds = timeout_s,
                                               .on_left = [left] {
                                                 if (left != nullptr) ++*left;
                                               }});
        body(*watchdog);
      } catch (const Error& error) {
        ends[static_cast<size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ends;
}

// Until a rank is lost, which ends it.
[[noreturn]] void wait_for_the_end(Watchdog& watchdog) {
  while (true) {
    watchdog.check();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST(Watchdog, GathersTextsInTheOrderOfRanks) {
  const auto ends = ranks(4, [](Watchdog& watchdog) {
    for (int turn = 0; turn < 20; ++turn) {
      const std::string text(static_cast<size_t>(turn * watchdog.rank() * 500), 'x');
      const std::vector<std::string> all = watchdog.gather(text);
      ASSERT_EQ(all.size(), 4u);
      for (size_t rank = 0; rank < 4; ++rank)
        EXPECT_EQ(all[rank].size(), static_cast<size_t>(turn) * rank * 500);
    }
  });
  for (const std::string& end : ends) EXPECT_EQ(end, "");
}

TEST(Watchdog, EqualCallsPassAndDifferentOnesEndAll) {
  const auto ends = ranks(3, [](Watchdog& watchdog) {
    for (int i = 0; i < 100; ++i) watchdog.announce("all_reduce of 64 f32");
    watchdog.announce(watchdog.rank() == 2 ? "barrier" : "all_reduce of 65 f32");
    wait_for_the_end(watchdog);
  });
  for (const std::string& end : ends)
    EXPECT_EQ(end, "the ranks do different things at call 101: rank 0 all_reduce of 65 f32, rank 2 barrier");
}

TEST(Watchdog, TextsOfSomeAndCallsOfOthersEndAll) {
  const auto ends = ranks(3, [](Watchdog& watchdog) {
    watchdog.announce("barrier");
    if (watchdog.rank() == 1) watchdog.gather("a layer");
    watchdog.announce("all_reduce of 64 f32");
    wait_for_the_end(watchdog);
  });
  for (const std::string& end : ends) {
    EXPECT_NE(end.find("do different things: rank 1 gathers texts, rank "), std::string::npos) << end;
    EXPECT_NE(end.find(" all_reduce of 64 f32"), std::string::npos) << end;
  }
}

TEST(Watchdog, WhoWaitsForARankThatLeftIsTold) {
  const auto ends = ranks(3, [](Watchdog& watchdog) {
    if (watchdog.rank() != 1) watchdog.gather("is anybody there");
  });
  EXPECT_NE(ends[0].find("rank 1 has ended, and rank "), std::string::npos) << ends[0];
  EXPECT_EQ(ends[2], ends[0]);
}

TEST(Watchdog, AReasonReachesEveryRank) {
  const auto ends = ranks(3, [](Watchdog& watchdog) {
    if (watchdog.rank() == 2) watchdog.fail("out of memory");
    wait_for_the_end(watchdog);
  });
  for (const std::string& end : ends) EXPECT_EQ(end, "rank 2 gave up: out of memory");
}

TEST(Watchdog, SaysThatAllHaveLeftAndNotThatOneIsLost) {
  std::atomic<int> left = 0;
  ranks(
      3, [](Watchdog&) {}, 20, &left);
  EXPECT_EQ(left, 3);
  ranks(
      3,
      [](Watchdog& watchdog) {
        if (watchdog.rank() == 1) watchdog.fail("it does not like this model");
        wait_for_the_end(watchdog);
      },
      20, &left);
  EXPECT_EQ(left, 3);
}

TEST(Watchdog, ADeadProcessIsLostAtOnce) {
  for (const int victim : {0, 1}) {
    const Listener listener = listen_anywhere();
    const auto options = [&](int rank) {
      return WatchdogOptions{.rank = rank,
                             .size = 2,
                             .addresses = listener.addresses,
                             .port = listener.port,
                             .listening = rank == 0 ? listener.socket : -1};
    };
    const pid_t child = fork();
    if (child == 0) {
      const auto watchdog = Watchdog::start(options(victim));
      watchdog->gather("ready");
      raise(SIGKILL);
    }
    if (victim == 0) close(listener.socket);  // the child's
    const auto begin = std::chrono::steady_clock::now();
    const auto watchdog = Watchdog::start(options(1 - victim));
    try {
      watchdog->gather("ready");  // of a rank 0 that dies, what it sent last may not come
      wait_for_the_end(*watchdog);
    } catch (const Error& error) {
      EXPECT_EQ(error.what(),
                "rank " + std::to_string(victim) + " died: its connection ended without a goodbye");
    }
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
    waitpid(child, nullptr, 0);
  }
}

TEST(Watchdog, SaysWhoDidNotCome) {
  const Listener listener = listen_anywhere();
  try {
    Watchdog::start({.rank = 0, .size = 3, .listening = listener.socket, .meet_seconds = 0.1});
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "rank 1, 2 did not come within 0.1 s");
  }
  try {
    Watchdog::start(
        {.rank = 2, .size = 3, .addresses = {"127.0.0.1"}, .port = listener.port, .meet_seconds = 0.1});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("rank 2 does not reach rank 0 at 127.0.0.1, port "),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace anyfp8
