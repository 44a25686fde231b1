// One rank of two on GPUs: started as torchrun starts it (tests/gpu_ranks_test.sh). The column- and the
// row-parallel layer of an MLP in one captured graph, replayed with other tokens, against the same layers one
// after the other and against one GPU alone; its sums in parts that travel beside the products, and
// scattered. Says the first difference and ends with 1. With an argument rank 1 dies instead, between
// replays.
#include <cuda_runtime_api.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <vector>

#include "anyfp8/base/element.h"
#include "anyfp8/base/text.h"
#include "anyfp8/device/check_cuda.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/parallel/launch.h"
#include "anyfp8/parallel/parallel_linear.h"
#include "anyfp8/scheme/quantize.h"

namespace anyfp8 {
namespace {

constexpr DType kType = DType::kBF16;
using Values = std::vector<float>;

// Memory on the rank's GPU, of bf16.
class Matrix {
 public:
  Matrix(const Device& device, int64_t rows, int64_t cols)
      : device_(device), rows_(rows), cols_(cols), memory_(device, static_cast<size_t>(rows * cols) * 2) {}
  TensorView view() const { return {memory_.data(), kType, rows_, cols_, cols_}; }
  void fill(const Values& values) const {
    std::vector<uint16_t> bits(values.size());
    for (size_t i = 0; i < values.size(); ++i)
      store_element(bits.data(), kType, static_cast<int64_t>(i), values[i]);
    const DeviceGuard guard(device_);
    copy_to_device(memory_.data(), bits.data(), bits.size() * 2, {});
    synchronize({});
  }
  Values read() const {
    const DeviceGuard guard(device_);
    std::vector<uint16_t> bits(static_cast<size_t>(rows_ * cols_));
    copy_to_host(bits.data(), memory_.data(), bits.size() * 2, {});
    Values values(bits.size());
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = load_element(bits.data(), kType, static_cast<int64_t>(i));
    return values;
  }

 private:
  Device device_;
  int64_t rows_, cols_;
  DeviceMemory memory_;
};

Values tokens(int64_t m, int64_t k, double step) {
  Values values(static_cast<size_t>(m * k));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(std::sin(static_cast<double>(i) * step));
  return values;
}

Fp8Weight weight(int64_t n, int64_t k, double step) {
  HostTensor values = HostTensor::allocate(DType::kF32, {n, k});
  for (int64_t i = 0; i < n * k; ++i)
    store_element(values.mutable_data(), DType::kF32, i,
                  static_cast<float>(std::sin(static_cast<double>(i) * step) * 0.05));
  return quantize(values, QuantizeScheme::kBlock);
}

double difference(const Values& a, const Values& b) {
  double off = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    off += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return off == 0 ? 0 : std::sqrt(off / norm);
}

void need(bool condition, const std::string& text) {
  if (!condition) throw Error(ErrorCode::kInternal, text);
}

class Mlp {
 public:
  Mlp(Comm& comm, const Fp8Weight& up, const Fp8Weight& down, const ParallelOptions& options, int64_t m)
      : comm_(comm),
        up_(ColumnParallelLinear::create(comm, shard(up, Split::kColumn, comm.rank(), comm.size()), options)),
        down_(RowParallelLinear::create(comm, shard(down, Split::kRow, comm.rank(), comm.size()), options)),
        workspace_(comm.device()),
        between_(comm.device(), m, up_.linear().config().n) {
    workspace_.reserve(std::max(up_.workspace_bytes(m), down_.workspace_bytes(m)));
  }
  void queue(const Matrix& x, const Matrix& y, Stream stream) {
    up_.apply(x.view(), between_.view(), workspace_, stream);
    down_.apply(between_.view(), y.view(), workspace_, stream);
  }

 private:
  Comm& comm_;
  ColumnParallelLinear up_;
  RowParallelLinear down_;
  Workspace workspace_;
  Matrix between_;
};

void check_graph(Comm& comm, int64_t m, const ParallelOptions& options, const std::string& what) {
  constexpr int64_t kHidden = 1024, kFfn = 2816;
  const Device& device = comm.device();
  const Fp8Weight up = weight(kFfn, kHidden, 0.7313), down = weight(kHidden, kFfn, 0.3719);
  const IndexRange own =
      options.sequence_parallel ? token_range(m, comm.rank(), comm.size()) : IndexRange{0, m};
  Mlp mlp(comm, up, down, options, m);
  const std::unique_ptr<Comm> alone = self_comm(device);
  Mlp whole(*alone, up, down, {}, m);
  const Matrix x(device, own.end - own.begin, kHidden), y(device, own.end - own.begin, kHidden);
  const Matrix all_x(device, m, kHidden), all_y(device, m, kHidden);

  const DeviceGuard guard(device);
  cudaStream_t stream = nullptr;
  ANYFP8_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  ANYFP8_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  mlp.queue(x, y, {stream});
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ANYFP8_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  ANYFP8_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
  for (const double step : {0.31, 0.57}) {
    const Values all = tokens(m, kHidden, step);
    all_x.fill(all);
    x.fill(Values(all.begin() + own.begin * kHidden, all.begin() + own.end * kHidden));
    y.fill(Values(static_cast<size_t>((own.end - own.begin) * kHidden), NAN));
    ANYFP8_CUDA_CHECK(cudaGraphLaunch(exec, stream));
    synchronize({stream});
    comm.check();
    const Values replayed = y.read();
    y.fill(Values(replayed.size(), NAN));
    mlp.queue(x, y, {stream});
    synchronize({stream});
    comm.check();
    need(replayed == y.read(), what + ": a replay has other bits than the calls");
    whole.queue(all_x, all_y, {stream});
    synchronize({stream});
    const Values expected = all_y.read();
    const double off = difference(
        replayed, Values(expected.begin() + own.begin * kHidden, expected.begin() + own.end * kHidden));
    // Each rank's sums are rounded to bf16, and their sum once more: half a unit of 2^-8 each, at random.
    need(off < 0x1p-7, fmt::format("{}: {} off from one GPU", what, off));
  }
  ANYFP8_CUDA_CHECK(cudaGraphExecDestroy(exec));
  ANYFP8_CUDA_CHECK(cudaGraphDestroy(graph));
  ANYFP8_CUDA_CHECK(cudaStreamDestroy(stream));
}

// Rank 1 dies between replays: the replay that waits for it ends, and the graph is still there then.
void die_in_graph(Comm& comm) {
  const DeviceGuard guard(comm.device());
  const Matrix data(comm.device(), 64, 8192);
  data.fill(tokens(64, 8192, 0.1));
  cudaStream_t stream = nullptr;
  ANYFP8_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  ANYFP8_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int call = 0; call < 10; ++call)
    comm.all_reduce(data.view().data, kType, data.view().data, kType, int64_t{64} * 8192, {}, {stream});
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ANYFP8_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  ANYFP8_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
  for (int replay = 0; replay < 1000; ++replay) {
    if (replay == 5 && comm.rank() == 1) std::raise(SIGKILL);
    ANYFP8_CUDA_CHECK(cudaGraphLaunch(exec, stream));
    synchronize({stream});
    comm.check();
  }
}

int run(bool die) {
  const Launch launch = launch_from_environment();
  std::unique_ptr<Comm> comm;
  try {
    comm = open_comm(device_from_name(fmt::format("cuda:{}", launch.local_rank)));
    if (die) die_in_graph(*comm);
    for (const int64_t m : {1, 7, 64, 300}) {
      for (const int64_t parts : {1, 2, 4}) {
        check_graph(*comm, m, {.overlap_parts = parts}, fmt::format("m = {} in {} parts", m, parts));
      }
      check_graph(*comm, m, {.sequence_parallel = true}, fmt::format("m = {}, sequence parallel", m));
    }
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "rank %d: %s\n", launch.rank, error.what());
    if (comm != nullptr) comm->abandon(error.what());
    return 1;
  }
}

}  // namespace
}  // namespace anyfp8

int main(int argc, char**) { return anyfp8::run(argc > 1); }
