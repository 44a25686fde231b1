#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "anyfp8/parallel/parallel_linear.h"
#include "cli/bench_method.h"

namespace anyfp8::cli {

// `anyfp8 bench --tp`: the two layers of an MLP over the ranks this process was launched with.
struct TpArguments {
  Device device;
  std::vector<MatrixShape> shapes;  // the pair k -> n -> k
  std::vector<int64_t> tokens;
  std::vector<std::string> schemes;
  LinearOptions linear;
  std::optional<bool> reduce_in_f32;
  double seconds = 0.5;  // for each row
  bool json = false;
  std::string command;
};
int run_tp_bench(const TpArguments& arguments);

// How long work takes that the ranks of a Comm do together: each does the same calls, and a call is over when
// the last rank is through.
class TpTimer {
 public:
  TpTimer() = default;
  virtual ~TpTimer() = default;
  TpTimer(const TpTimer&) = delete;
  TpTimer& operator=(const TpTimer&) = delete;

  // Microseconds of one call: the median, over about `seconds`, of the slowest rank's. queue(turn, stream) is
  // called with the turns 0 to copies - 1 over and over.
  using Queue = std::function<void(size_t turn, Stream stream)>;
  virtual double time(Comm& comm, size_t copies, double seconds, const Queue& queue) = 0;
};
std::unique_ptr<TpTimer> host_tp_timer();
// By replays of a graph that holds calls for 2 ms or so, with the device's own clock. In a build without CUDA
// it throws.
std::unique_ptr<TpTimer> cuda_tp_timer(const Device& device);

// The largest value over the ranks, the same on every rank.
double largest_of_ranks(Comm& comm, double value);
// The median over rounds of the slowest rank's time in each.
double median_of_slowest(Comm& comm, const std::vector<double>& us);

}  // namespace anyfp8::cli
