#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "anyfp8/device/check_cuda.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/linear/linear.h"
#include "cli/bench_method.h"

// How methods on a CUDA device are timed, for the sources of CUDA builds alone.
namespace anyfp8::cli {

// Handles of CUDA, given back in the end; an error then changes nothing any more.
template <typename Handle, cudaError_t (*kDestroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) static_cast<void>(kDestroy(handle_));
  }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using OwnedStream = Owned<cudaStream_t, cudaStreamDestroy>;
using OwnedEvent = Owned<cudaEvent_t, cudaEventDestroy>;
using OwnedGraph = Owned<cudaGraph_t, cudaGraphDestroy>;
using OwnedGraphExec = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

inline OwnedStream make_stream(const Device& device) {
  const DeviceGuard guard(device);
  cudaStream_t stream = nullptr;
  ANYFP8_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return OwnedStream(stream);
}

inline OwnedEvent make_event(const Device& device) {
  const DeviceGuard guard(device);
  cudaEvent_t event = nullptr;
  ANYFP8_CUDA_CHECK(cudaEventCreate(&event));
  return OwnedEvent(event);
}

// Work that is queued on a stream, as replays of a graph of it.
class GraphMethod : public BenchMethod {
 public:
  explicit GraphMethod(const Device& device)
      : device_(device), stream_(make_stream(device)), begin_(make_event(device)), end_(make_event(device)) {}

  void run(size_t turn) override { timed_run(turn); }

  Timed timed_run(size_t) override {
    const DeviceGuard guard(device_);
    ANYFP8_CUDA_CHECK(cudaEventRecord(begin_.get(), stream_.get()));
    ANYFP8_CUDA_CHECK(cudaGraphLaunch(graph_.get(), stream_.get()));
    ANYFP8_CUDA_CHECK(cudaEventRecord(end_.get(), stream_.get()));
    ANYFP8_CUDA_CHECK(cudaEventSynchronize(end_.get()));
    float ms = 0;
    ANYFP8_CUDA_CHECK(cudaEventElapsedTime(&ms, begin_.get(), end_.get()));
    // The device's own time: who had the CPU meanwhile does not matter.
    return {.us = static_cast<double>(ms) * 1e3 / static_cast<double>(calls_), .preempted = false};
  }

 protected:
  virtual void queue(size_t copy) = 0;
  Stream stream() const { return {stream_.get()}; }
  const Device& device() const { return device_; }

  // Starting a replay costs a few us, so it takes 2 ms; a slow kernel gets along with two of its copies.
  void capture(size_t copies) {
    constexpr double kReplayUs = 2000, kSlowUs = 100'000;
    constexpr size_t kMostCalls = 4096;
    const DeviceGuard guard(device_);
    queue(0);  // code is loaded and algorithms are chosen here
    synchronize(stream());
    capture_calls(copies, copies);
    timed_run(0);
    const double all_us = timed_run(0).us * static_cast<double>(copies);
    if (all_us > kSlowUs && copies > 2) return capture_calls(copies, 2);
    const auto times = static_cast<size_t>(std::ceil(kReplayUs / std::max(all_us, 1.0)));
    if (times > 1) capture_calls(copies, std::min(copies * times, std::max(copies, kMostCalls)));
  }

 private:
  void capture_calls(size_t copies, size_t calls) {
    ANYFP8_CUDA_CHECK(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
    cudaGraph_t captured = nullptr;
    try {
      for (size_t call = 0; call < calls; ++call) queue(call % copies);
    } catch (...) {
      static_cast<void>(cudaStreamEndCapture(stream_.get(), &captured));
      const OwnedGraph given_back(captured);
      throw;
    }
    ANYFP8_CUDA_CHECK(cudaStreamEndCapture(stream_.get(), &captured));
    const OwnedGraph graph(captured);
    cudaGraphExec_t exec = nullptr;
    ANYFP8_CUDA_CHECK(cudaGraphInstantiate(&exec, graph.get(), 0));
    graph_ = OwnedGraphExec(exec);
    calls_ = calls;
  }

  Device device_;
  OwnedStream stream_;
  OwnedEvent begin_, end_;
  OwnedGraphExec graph_;
  size_t calls_ = 1;
};

// y[m, n] = x[m, k] · W[n, k]ᵀ of some kind.
class ProductMethod : public GraphMethod {
 public:
  ProductMethod(const Device& device, MatrixShape shape) : GraphMethod(device), shape_(shape) {}

  HostTensor result() const override {
    const DeviceGuard guard(device());
    HostTensor y = HostTensor::allocate(y_view_.dtype, {y_view_.rows, y_view_.cols});
    copy_to_host(y.mutable_data(), y_.data(), y_.bytes(), stream());
    return y;
  }
  double flops() const override {
    return 2.0 * static_cast<double>(y_view_.rows) * static_cast<double>(shape_.n) *
           static_cast<double>(shape_.k);
  }

 protected:
  void place(const Activations& activations) {
    const HostTensor& x = activations.x;
    const int64_t m = x.shape()[0];
    x_ = DeviceMemory(device(), x.size_bytes());
    y_ = DeviceMemory(device(), static_cast<size_t>(m * shape_.n) * dtype_bytes(activations.out));
    copy_to_device(x_.data(), x.data(), x.size_bytes(), stream());
    synchronize(stream());
    x_view_ = {x_.data(), x.dtype(), m, shape_.k, shape_.k};
    y_view_ = {y_.data(), activations.out, m, shape_.n, shape_.n};
  }
  double activation_bytes() const { return static_cast<double>(x_.bytes() + y_.bytes()); }

  MatrixShape shape_;
  DeviceMemory x_, y_;
  TensorView x_view_, y_view_;
};

}  // namespace anyfp8::cli
