#pragma once

#include <functional>

#include "anyfp8/parallel/comm.h"

namespace anyfp8::cli {

// Runs a verb with the ranks that mpirun, srun or torchrun started, or with one: the exit code is what `body`
// gives. An error of one rank ends all of them: each prints one line that names it, and ends with 1, by
// itself or when its launcher sends SIGTERM. Ranks but the first print errors alone. Without a wish of the
// user's the cores are shared out among the ranks of a machine.
int on_ranks(const Device& device, const std::function<int(Comm&)>& body);

}  // namespace anyfp8::cli
