// Ranks as a shell starts them: mpirun -n N PROGRAM. parallel_ranks checks what they compute; here is what
// each of them says and ends with.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

const std::string kModel = ANYFP8_SOURCE_DIR "/models/kjv-qwen3-fp8";
const fs::path kShared = fs::path(ANYFP8_SOURCE_DIR) / ".." / "shared" / "models";

struct Rank {
  int exit_code = -1;
  std::string out, err;
  // One line that names the rank and has `words`.
  void expect_line(int rank, const std::string& words) const {
    EXPECT_EQ(exit_code, 1) << "rank " << rank << ": " << err;
    EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 1) << err;
    EXPECT_NE(err.find(fmt::format("rank {}: ", rank)), std::string::npos) << err;
    EXPECT_NE(err.find(words), std::string::npos) << "rank " << rank << " says: " << err;
  }
};

class Ranks : public testing::Test {
 protected:
  void SetUp() override {
#ifndef ANYFP8_MPIRUN
    GTEST_SKIP() << "this build found no MPI: ranks on CPUs were NOT tested";
#else
    std::string name = (fs::temp_directory_path() / "anyfp8_ranks.XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
#endif
  }
  // A rank that hangs must not stay.
  void TearDown() override {
    if (folder_.empty()) return;
    for (int rank = 0; rank < size_; ++rank) {
      if (!fs::exists(file("code", rank)) && pid(rank) > 0) kill(pid(rank), SIGKILL);
    }
    fs::remove_all(folder_);
  }

  fs::path file(const char* what, int rank) const { return folder_ / fmt::format("{}.{}", what, rank); }
  static std::string read(const fs::path& path) {
    std::ifstream stream(path);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
  }
  pid_t pid(int rank) const { return static_cast<pid_t>(std::atoi(read(file("pid", rank)).c_str())); }

  // Each rank in a session of its own, out of mpirun's reach: it must end by itself, and its exit code can be
  // read. `arguments` is shell text, in which $RANK is the rank.
  void start(int size, const std::string& arguments, const std::string& environment = "") {
    for (int rank = 0; rank < size_; ++rank) {
      for (const char* what : {"code", "pid", "out", "err"}) fs::remove(file(what, rank));
    }
    size_ = size;
    std::ofstream(folder_ / "rank.sh")
        << "RANK=$OMPI_COMM_WORLD_RANK\n"
        << "cd " << folder_ << "\n"
        << "export ASAN_OPTIONS=detect_leaks=0\n"  // MPI has some of its own
        << "export ANYFP8_THREADS=1 " << environment << "\n"
        << arguments << " >out.$RANK 2>err.$RANK &\n"
        << "echo $! >pid.$RANK\nwait $!\necho $? >code.part.$RANK\nmv code.part.$RANK code.$RANK\n";
    started_ = Clock::now();
    mpirun_ = fork();
    if (mpirun_ == 0) {
#ifdef ANYFP8_MPIRUN
      const std::string command = fmt::format(
          "exec {} {}--oversubscribe -n {} setsid -w sh {}/rank.sh >{}/mpirun 2>&1 </dev/null", ANYFP8_MPIRUN,
          geteuid() == 0 ? "--allow-run-as-root " : "", size, folder_.string(), folder_.string());
      execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
#endif
      _exit(127);
    }
  }

  // 60 s, of which 30 are the promise and the rest for a busy machine to start.
  std::vector<Rank> wait() {
    const auto ended = [&](int rank) { return fs::exists(file("code", rank)); };
    for (int rank = 0; rank < size_; ++rank) {
      while (!ended(rank) && Clock::now() - started_ < std::chrono::seconds(60))
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      EXPECT_TRUE(ended(rank)) << "rank " << rank << " hangs; mpirun says " << read(folder_ / "mpirun");
    }
    std::vector<Rank> ranks;
    for (int rank = 0; rank < size_; ++rank) {
      const std::string code = read(file("code", rank));
      ranks.push_back(
          {code.empty() ? -1 : std::atoi(code.c_str()), read(file("out", rank)), read(file("err", rank))});
    }
    if (!ended(size_ - 1)) kill(mpirun_, SIGKILL);
    waitpid(mpirun_, nullptr, 0);
    return ranks;
  }

  std::vector<Rank> run(int size, const std::string& arguments, const std::string& environment = "") {
    start(size, arguments, environment);
    return wait();
  }
  void expect_good(int size, const std::string& mode) {
    for (const Rank& rank : run(size, std::string(ANYFP8_RANKS) + " " + mode)) {
      EXPECT_EQ(rank.exit_code, 0) << rank.err;
      EXPECT_EQ(rank.err, "");
    }
  }

  fs::path folder_;
  int size_ = 0;
  pid_t mpirun_ = -1;
  Clock::time_point started_;
};

class RanksOf : public Ranks, public testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(Size, RanksOf, testing::Values(1, 2, 3, 4, 7));

TEST_P(RanksOf, SumsAndGatherings) { expect_good(GetParam(), "collectives"); }
TEST_P(RanksOf, ColumnsHaveTheBitsOfOneRankAndRowsItsSums) { expect_good(GetParam(), "layers"); }

class ModelOnRanks : public Ranks, public testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(Size, ModelOnRanks, testing::Values(2, 3, 4));

TEST_P(ModelOnRanks, HoldsItsShareInMemory) { expect_good(GetParam(), "memory " + kModel); }

TEST_P(ModelOnRanks, GeneratesTheReferenceOfEveryDialect) {
  for (const char* name :
       {"kjv-qwen3", "kjv-qwen3-block", "kjv-qwen3-channel", "kjv-qwen3-fbgemm", "kjv-qwen3-tensor-static"}) {
    if (!fs::exists(kShared / name / "reference.safetensors"))
      GTEST_SKIP() << kShared / name << " is not here";
    SCOPED_TRACE(name);
    expect_good(GetParam(), "reference " + (kShared / name).string());
  }
}

struct Misbehaviour {
  const char* how;
  const char* others;  // what ranks 0 and 2 say
  const char* itself;  // what rank 1 says; null: nothing, "": not looked at
  int code;            // what it ends with
};
class RankOne : public Ranks, public testing::WithParamInterface<Misbehaviour> {};
INSTANTIATE_TEST_SUITE_P(
    Misbehaves, RankOne,
    testing::Values(
        Misbehaviour{"die", "rank 1 died: its connection ended without a goodbye", nullptr, 137},
        Misbehaviour{"leave", "rank 1 has ended, and rank ", nullptr, 0},
        Misbehaviour{"throw", "rank 1 gave up: it does not like this model", "it does not like", 1},
        Misbehaviour{"operation", "do different things: rank ", "do different things: rank ", 1},
        Misbehaviour{"count", "all_reduce of 4000 f32 to f32", "all_reduce of 8000 f32", 1},
        Misbehaviour{"layer",
                     "the ranks have not the same layer: rank 0 has column-parallel, k = 10 bf16 to bf16, "
                     "rank 1 has column-parallel, k = 9 bf16 to bf16",
                     "the ranks have not the same layer", 1}),
    [](const auto& param) { return std::string(param.param.how); });

TEST_P(RankOne, EndsAllOfThemInWords) {
  const Misbehaviour& expected = GetParam();
  const std::vector<Rank> ranks = run(3, std::string(ANYFP8_RANKS) + " " + expected.how);
  EXPECT_LT(Clock::now() - started_, std::chrono::seconds(30));
  ranks[0].expect_line(0, expected.others);
  ranks[2].expect_line(2, expected.others);
  EXPECT_EQ(ranks[1].exit_code, expected.code) << ranks[1].err;
  if (expected.itself != nullptr) ranks[1].expect_line(1, expected.itself);
}

TEST_F(Ranks, OneThatIsStoppedIsLost) {
  start(3, std::string(ANYFP8_RANKS) + " stop", "ANYFP8_COMM_TIMEOUT=2");
  const auto others_ended = [&] { return fs::exists(file("code", 0)) && fs::exists(file("code", 2)); };
  while (!others_ended() && Clock::now() - started_ < std::chrono::seconds(30))
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE(others_ended());
  kill(pid(1), SIGKILL);
  std::ofstream(file("code", 1)) << 137;  // mpirun may have ended the shell that writes it
  const std::vector<Rank> ranks = wait();
  for (const int rank : {0, 2})
    ranks[static_cast<size_t>(rank)].expect_line(rank, "rank 1 was not heard of for 2 s");
}

#ifdef ANYFP8_PROGRAM

std::string generate(const std::string& model, const std::string& more) {
  return fmt::format("{} generate {} --prompt 'Ge1:1 In the beginning God' -q {}", ANYFP8_PROGRAM, model,
                     more);
}

TEST_F(Ranks, TextIsThatOfOneProcessAndRankZeroWritesIt) {
  const std::string text = run(1, generate(kModel, "--max-tokens 48"))[0].out;
  EXPECT_NE(text.find("created the heaven and the earth"), std::string::npos);
  for (const int size : {2, 3, 4}) {
    for (int rank = 0; const Rank& one : run(size, generate(kModel, "--max-tokens 48"))) {
      EXPECT_EQ(one.exit_code, 0) << one.err;
      EXPECT_EQ(one.err, "");
      EXPECT_EQ(one.out, rank++ == 0 ? text : "") << "of " << size << " ranks";
    }
  }
}

// 50 repetitions were done by hand: docs/parallel.md.
TEST_F(Ranks, KilledInTheMiddleEndsTheOthersWithAReason) {
  for (const int victim : {0, 1, 3}) {
    start(4, generate(kModel, "--max-tokens 480 --ignore-eos"));
    const auto begun = [&] { return fs::exists(file("out", 0)) && fs::file_size(file("out", 0)) > 100; };
    while (!begun() && Clock::now() - started_ < std::chrono::seconds(30))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    kill(pid(victim), SIGKILL);
    const auto killed = Clock::now();
    const std::vector<Rank> ranks = wait();
    EXPECT_LT(Clock::now() - killed, std::chrono::seconds(10));
    for (int rank = 0; rank < 4; ++rank) {
      if (rank == victim) continue;
      ranks[static_cast<size_t>(rank)].expect_line(rank, fmt::format("rank {} died", victim));
    }
  }
}

TEST_F(Ranks, RefusalsNameWhatIsWrong) {
  const auto all_say = [&](const std::vector<Rank>& ranks, const std::string& words) {
    for (int rank = 0; const Rank& one : ranks) one.expect_line(rank++, words);
  };
  all_say(run(5, generate(kModel, "")), "attention with 4 heads cannot be split over 5 ranks; use at most 4");
  all_say(run(2, generate(kModel, ""), "ANYFP8_MPI_MODULE=/nowhere.so"),
          "mpirun started 2 ranks, and libanyfp8_mpi.so is not here");
  all_say(run(2, generate(kModel, "--seed $RANK")),
          "the ranks have not the same request: rank 0 has --prompt");
  all_say(run(2, generate(kModel, ""), "RANK WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=29500"),
          "ranks on CPUs talk through MPI: start them with mpirun -n 2");
  fs::create_directory(folder_ / "other");
  for (const auto& entry : fs::directory_iterator(kModel))
    fs::copy_file(entry, folder_ / "other" / entry.path().filename());
  {
    std::fstream weights(folder_ / "other" / "model.safetensors",
                         std::ios::in | std::ios::out | std::ios::binary);
    uint64_t header = 0;
    weights.read(reinterpret_cast<char*>(&header), sizeof(header));
    const std::string text = read(folder_ / "other" / "model.safetensors");
    // A norm's weights: other numbers in the same places.
    const size_t name = text.find("model.norm.weight"), offsets = text.find("data_offsets\":[", name) + 15;
    weights.seekp(static_cast<std::streamoff>(8 + header + std::stoull(text.substr(offsets))));
    weights.write("\x01\x02\x03\x04", 4);
  }
  fs::create_symlink(kModel, folder_ / "model.0");
  fs::create_symlink(folder_ / "other", folder_ / "model.1");
  all_say(run(2, generate("model.$RANK", "")), "the ranks have not the same model: rank 0 has ");
}

TEST_F(Ranks, AreEachAloneOnRequest) {
  for (const Rank& rank : run(2, generate(kModel, "--max-tokens 8"), "ANYFP8_LAUNCH=none"))
    EXPECT_NE(rank.out.find("created the heaven"), std::string::npos) << rank.err;
}

#endif

}  // namespace
}  // namespace anyfp8
