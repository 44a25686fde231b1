#include "anyfp8/parallel/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>

#include "anyfp8/base/error.h"

namespace anyfp8 {
namespace {

// The environment of a launcher and nothing of another's, for one scope.
class Environment {
 public:
  explicit Environment(const std::map<std::string, std::string>& set) {
    for (const char* name :
         {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PMI_RANK",
          "PMI_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
          "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID",
          "SLURM_NTASKS", "ANYFP8_LAUNCH"}) {
      if (const char* value = std::getenv(name)) before_[name] = value;
      unsetenv(name);
    }
    for (const auto& [name, value] : set) setenv(name.c_str(), value.c_str(), 1);
    set_ = set;
  }
  ~Environment() {
    for (const auto& [name, value] : set_) unsetenv(name.c_str());
    for (const auto& [name, value] : before_) setenv(name.c_str(), value.c_str(), 1);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  std::map<std::string, std::string> set_, before_;
};

TEST(Launch, IsReadFromTheEnvironmentOfEachLauncher) {
  {
    const Environment torchrun({{"RANK", "3"},
                                {"WORLD_SIZE", "4"},
                                {"LOCAL_RANK", "1"},
                                {"LOCAL_WORLD_SIZE", "2"},
                                {"MASTER_ADDR", "node0"},
                                {"MASTER_PORT", "29500"},
                                {"SLURM_PROCID", "0"},
                                {"SLURM_STEP_NUM_TASKS", "2"}});
    const Launch launch = launch_from_environment();
    EXPECT_EQ(launch.by, Launch::By::kTorchrun);
    EXPECT_EQ(launch.rank, 3);
    EXPECT_EQ(launch.size, 4);
    EXPECT_EQ(launch.local_rank, 1);
    EXPECT_EQ(launch.local_size, 2);
    EXPECT_EQ(launch.master_address, "node0");
    EXPECT_EQ(launch.master_port, 29500);
  }
  {
    const Environment mpirun({{"OMPI_COMM_WORLD_RANK", "1"},
                              {"OMPI_COMM_WORLD_SIZE", "2"},
                              {"SLURM_PROCID", "0"},
                              {"SLURM_STEP_NUM_TASKS", "1"}});
    const Launch launch = launch_from_environment();
    EXPECT_EQ(launch.by, Launch::By::kMpirun);
    EXPECT_EQ(launch.rank, 1);
    EXPECT_EQ(launch.local_size, 2);
  }
  {
    const Environment mpich({{"PMI_RANK", "2"}, {"PMI_SIZE", "8"}});
    EXPECT_EQ(launch_from_environment().by, Launch::By::kMpirun);
  }
  {
    const Environment srun({{"SLURM_PROCID", "2"},
                            {"SLURM_STEP_NUM_TASKS", "8"},
                            {"SLURM_LOCALID", "0"},
                            {"SLURM_NODEID", "3"},
                            {"SLURM_STEP_TASKS_PER_NODE", "2(x3),1,3"},
                            {"PMI_RANK", "2"},
                            {"PMI_SIZE", "8"}});
    EXPECT_EQ(launch_from_environment().by, Launch::By::kSrun);
    EXPECT_EQ(launch_from_environment().size, 8);
    EXPECT_EQ(launch_from_environment().local_size, 1);
  }
}

TEST(Launch, IsNothingWhereNothingStartedRanks) {
  const Environment none({});
  EXPECT_EQ(launch_from_environment().size, 1);
  const Environment batch(
      {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}});  // one script of an allocation for 8
  EXPECT_EQ(launch_from_environment().by, Launch::By::kNothing);
  const Environment wish(
      {{"ANYFP8_LAUNCH", "none"}, {"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}});
  EXPECT_EQ(launch_from_environment().size, 1);
}

TEST(Launch, RefusesWhatIsNoNumber) {
  const auto text = [] {
    try {
      launch_from_environment();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  {
    const Environment odd({{"OMPI_COMM_WORLD_RANK", "one"}, {"OMPI_COMM_WORLD_SIZE", "2"}});
    EXPECT_EQ(text(), "mpirun started this process, and OMPI_COMM_WORLD_RANK is 'one'; it must be a number");
  }
  {
    const Environment odd({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node0"}});
    EXPECT_EQ(text(), "torchrun started this process, and MASTER_PORT is ''; it must be a number");
  }
  const Environment odd({{"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "2"}});
  EXPECT_EQ(text(),
            "mpirun says OMPI_COMM_WORLD_RANK = 2 and OMPI_COMM_WORLD_SIZE = 2; a rank is below the size");
}

}  // namespace
}  // namespace anyfp8
