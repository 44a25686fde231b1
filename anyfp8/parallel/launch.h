#pragma once

#include <string>

#include "anyfp8/base/export.h"

namespace anyfp8 {

// How this process was started as one of several, read from the environment alone.
struct Launch {
  enum class By { kNothing, kMpirun, kSrun, kTorchrun };
  By by = By::kNothing;
  int rank = 0, size = 1;
  int local_rank = 0;          // among the ranks of this machine: the GPU to take
  int local_size = 1;          // ranks of this machine
  std::string master_address;  // MASTER_ADDR, MASTER_PORT: torchrun sets them; empty and 0 otherwise
  int master_port = 0;
};

// torchrun: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT. mpirun:
// OMPI_COMM_WORLD_* (Open MPI) or PMI_* (MPICH and its kin). srun: SLURM_PROCID, SLURM_STEP_NUM_TASKS,
// SLURM_LOCALID. ANYFP8_LAUNCH=none: started alone, whatever the rest says. Error(kInvalidArgument) names a
// variable that is missing or no number.
ANYFP8_API Launch launch_from_environment();

// "mpirun", "srun", "torchrun", "nothing"
ANYFP8_API const char* launcher_name(Launch::By by) noexcept;

}  // namespace anyfp8
