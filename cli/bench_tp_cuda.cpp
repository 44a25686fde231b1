#include <algorithm>
#include <cmath>

#include "cli/bench_graph.h"
#include "cli/bench_tp.h"

namespace anyfp8::cli {
namespace {

class CudaTpTimer : public TpTimer {
 public:
  explicit CudaTpTimer(const Device& device)
      : device_(device), stream_(make_stream(device)), begin_(make_event(device)), end_(make_event(device)) {}

  double time(Comm& comm, size_t copies, double seconds, const Queue& queue) override {
    constexpr double kReplayUs = 2000;
    constexpr size_t kMostCalls = 1024;
    constexpr int64_t kLeastRounds = 9, kMostRounds = 200;
    const DeviceGuard guard(device_);
    queue(0, {stream_.get()});  // code is loaded and connections are made here
    wait(comm);
    // The ranks must queue the same calls, so that it is the slowest that says how many.
    OwnedGraphExec graph = capture(copies, copies, queue);
    replay_us(comm, graph);
    const double all_us = largest_of_ranks(comm, replay_us(comm, graph));
    const double times = std::ceil(kReplayUs / std::max(all_us, 1.0));
    const size_t calls =
        std::clamp(copies * static_cast<size_t>(times), copies, std::max(copies, kMostCalls));
    if (calls > copies) graph = capture(copies, calls, queue);
    const double each_us = all_us / static_cast<double>(copies) * static_cast<double>(calls);
    std::vector<double> us(static_cast<size_t>(
        std::clamp(static_cast<int64_t>(seconds * 1e6 / each_us), kLeastRounds, kMostRounds)));
    replay_us(comm, graph);
    for (double& replay : us) replay = replay_us(comm, graph) / static_cast<double>(calls);
    return median_of_slowest(comm, us);
  }

 private:
  // Of all that is queued; a lost rank ends it, and is said here.
  void wait(Comm& comm) {
    synchronize(Stream{stream_.get()});
    comm.check();
  }

  OwnedGraphExec capture(size_t copies, size_t calls, const Queue& queue) {
    ANYFP8_CUDA_CHECK(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
    cudaGraph_t captured = nullptr;
    try {
      for (size_t call = 0; call < calls; ++call) queue(call % copies, {stream_.get()});
    } catch (...) {
      static_cast<void>(cudaStreamEndCapture(stream_.get(), &captured));
      const OwnedGraph given_back(captured);
      throw;
    }
    ANYFP8_CUDA_CHECK(cudaStreamEndCapture(stream_.get(), &captured));
    const OwnedGraph graph(captured);
    cudaGraphExec_t exec = nullptr;
    ANYFP8_CUDA_CHECK(cudaGraphInstantiate(&exec, graph.get(), 0));
    return OwnedGraphExec(exec);
  }

  double replay_us(Comm& comm, const OwnedGraphExec& graph) {
    comm.barrier({stream_.get()});
    ANYFP8_CUDA_CHECK(cudaEventRecord(begin_.get(), stream_.get()));
    ANYFP8_CUDA_CHECK(cudaGraphLaunch(graph.get(), stream_.get()));
    ANYFP8_CUDA_CHECK(cudaEventRecord(end_.get(), stream_.get()));
    wait(comm);
    float ms = 0;
    ANYFP8_CUDA_CHECK(cudaEventElapsedTime(&ms, begin_.get(), end_.get()));
    return static_cast<double>(ms) * 1e3;
  }

  Device device_;
  OwnedStream stream_;
  OwnedEvent begin_, end_;
};

}  // namespace

std::unique_ptr<TpTimer> cuda_tp_timer(const Device& device) { return std::make_unique<CudaTpTimer>(device); }

}  // namespace anyfp8::cli
