// Linear on a CUDA device: graphs, streams, updates, memory. Compiled in CUDA builds; skips without a GPU.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "anyfp8/base/text.h"
#include "anyfp8/device/check_cuda.h"
#include "anyfp8/device/cuda_devices.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/linear/linear.h"
#include "anyfp8/scheme/quantize.h"
#include "tests/gpu_case.h"

namespace anyfp8 {
namespace {

using namespace test;

// k is long enough that kernels share it among blocks, of which some add up no tokens.
constexpr int64_t kN = 384, kK = 2048;
constexpr LinearOptions kHalf{.in = DType::kF16, .out = DType::kF16};  // Turing's too

HostTensor random_weight(int64_t n, int64_t k, unsigned seed, float magnitude) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, magnitude);
  HostTensor weight = HostTensor::allocate(DType::kF32, {n, k});
  auto* values = reinterpret_cast<float*>(weight.mutable_data());
  for (int64_t i = 0; i < n * k; ++i) values[i] = normal(random);
  return weight;
}

Fp8Weight layer_weight(unsigned seed, QuantizeScheme scheme = QuantizeScheme::kBlock,
                       float magnitude = 0.05f) {
  return quantize(random_weight(kN, kK, seed, magnitude), scheme);
}

// A stream that does not wait for the default one.
class OwnStream {
 public:
  OwnStream() { ANYFP8_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~OwnStream() { static_cast<void>(cudaStreamDestroy(stream_)); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  operator Stream() const { return {stream_}; }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// What `work` queues on the stream. An allocation or a wait in it is an error of the capture.
class Graph {
 public:
  Graph(cudaStream_t stream, const std::function<void()>& work) {
    ANYFP8_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      static_cast<void>(cudaStreamEndCapture(stream, &graph));
      static_cast<void>(cudaGetLastError());
      throw;
    }
    ANYFP8_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    ANYFP8_CUDA_CHECK(cudaGraphInstantiate(&exec_, graph, 0));
    ANYFP8_CUDA_CHECK(cudaGraphDestroy(graph));
  }
  ~Graph() { static_cast<void>(cudaGraphExecDestroy(exec_)); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(cudaStream_t stream) const {
    ANYFP8_CUDA_CHECK(cudaGraphLaunch(exec_, stream));
    ANYFP8_CUDA_CHECK(cudaStreamSynchronize(stream));
  }

 private:
  cudaGraphExec_t exec_ = nullptr;
};

// x[m, k] and y[m, n] on the device.
struct Operands {
  Operands(const Device& where, int64_t m, unsigned seed)
      : device(where),
        tokens(m),
        x(where, static_cast<size_t>(m * kK * 2)),
        y(where, static_cast<size_t>(m * kN * 2)) {
    std::mt19937 random(seed);
    const Matrix host = random_matrix(DType::kF16, m, kK, 0, random);
    const DeviceGuard guard(device);
    copy_to_device(x.data(), host.bytes.data(), x.bytes(), {});
    clear();
  }
  void clear() const {
    const DeviceGuard guard(device);
    fill_on_device(y.data(), 0xFF, y.bytes(), {});
    synchronize({});
  }
  std::vector<uint8_t> result() const {
    const DeviceGuard guard(device);
    std::vector<uint8_t> bytes(y.bytes());
    copy_to_host(bytes.data(), y.data(), bytes.size(), {});
    return bytes;
  }
  void apply(const Linear& linear, Workspace& workspace, Stream stream) const {
    linear.apply({x.data(), DType::kF16, tokens, kK, kK}, {y.data(), DType::kF16, tokens, kN, kN}, workspace,
                 stream);
  }

  Device device;
  int64_t tokens;
  DeviceMemory x, y;
};

class GpuLinear : public testing::Test {
 protected:
  void SetUp() override { ANYFP8_NEED_GPU(device_); }

  // The bits of an eager apply on the default stream.
  std::vector<uint8_t> eager(const Linear& linear, const Operands& operands) const {
    Workspace workspace(device_);
    workspace.reserve(linear.workspace_bytes(operands.tokens));
    operands.clear();
    operands.apply(linear, workspace, {});
    synchronize({});
    return operands.result();
  }

  Device device_;
};

TEST_F(GpuLinear, ManyAppliesInOneGraphEqualEagerOnes) {
  const OwnStream stream;
  std::vector<Linear> layers;
  for (const QuantizeScheme scheme :
       {QuantizeScheme::kTensor, QuantizeScheme::kChannel, QuantizeScheme::kBlock, QuantizeScheme::kMxfp8}) {
    layers.push_back(Linear::create(device_, layer_weight(1, scheme), kHalf));
  }
  constexpr int64_t kTokens[] = {1, 4, 17, 64, 300};
  std::vector<Operands> operands;
  std::vector<std::vector<uint8_t>> expected;
  Workspace workspace(device_);
  for (const Linear& layer : layers) {
    for (const int64_t m : kTokens) {
      operands.emplace_back(device_, m, static_cast<unsigned>(m));
      expected.push_back(eager(layer, operands.back()));
      workspace.reserve(layer.workspace_bytes(m));
    }
  }
  const Graph graph(stream, [&] {
    for (size_t i = 0; i < 500; ++i) {
      const size_t which = i % operands.size();
      operands[which].apply(layers[which / std::size(kTokens)], workspace, stream);
    }
  });
  for (int launch = 0; launch < 3; ++launch) {
    for (const Operands& o : operands) o.clear();
    graph.launch(stream);
    for (size_t i = 0; i < operands.size(); ++i) {
      ASSERT_TRUE(operands[i].result() == expected[i]) << "case " << i << ", launch " << launch;
    }
  }
}

// The runtime keeps a failed call's error until someone asks for it; it is not of this library's launches.
TEST_F(GpuLinear, AnErrorThatTheApplicationLeftBehindIsNotItsOwn) {
  const Operands operands(device_, 40, 1);
  for (const Kernel* kernel : all_kernels()) {
    const Fp8Weight weight = layer_weight(1, QuantizeScheme::kChannel);
    if (kernel->apply == nullptr || !can_implement(*kernel, linear_config(weight, kHalf), device_)) continue;
    SCOPED_TRACE(kernel->name);
    ASSERT_EQ(cudaSetDevice(-1), cudaErrorInvalidDevice);
    EXPECT_NO_THROW({
      const Linear linear = Linear::create(device_, weight, kHalf, {.force = std::string(kernel->name)});
      static_cast<void>(eager(linear, operands));
    });
    static_cast<void>(cudaGetLastError());
  }
}

// Also with scales of quite another size, which a kernel may not have taken into the graph as they were.
TEST_F(GpuLinear, ACapturedGraphSeesUpdatedWeights) {
  const OwnStream stream;
  for (const Kernel* kernel : all_kernels()) {
    for (const QuantizeScheme scheme :
         {QuantizeScheme::kChannel, QuantizeScheme::kBlock, QuantizeScheme::kMxfp8}) {
      const Fp8Weight before = layer_weight(1, scheme), after = layer_weight(2, scheme, 40);
      if (kernel->apply == nullptr || !can_implement(*kernel, linear_config(before, kHalf), device_))
        continue;
      SCOPED_TRACE(std::string(kernel->name) + ", " + scheme_text(before.scheme));
      const SelectOptions forced{.force = std::string(kernel->name)};
      Linear linear = Linear::create(device_, before, kHalf, forced, stream);
      const Operands operands(device_, 9, 5);
      const std::vector<uint8_t> first = eager(linear, operands);
      const std::vector<uint8_t> second = eager(Linear::create(device_, after, kHalf, forced), operands);
      ASSERT_TRUE(first != second);
      Workspace workspace(device_);
      workspace.reserve(linear.workspace_bytes(9));
      const Graph graph(stream, [&] { operands.apply(linear, workspace, stream); });
      graph.launch(stream);
      EXPECT_TRUE(operands.result() == first);
      linear.update_weights(after, stream);
      graph.launch(stream);
      EXPECT_TRUE(operands.result() == second);
    }
  }
}

// The schemes of W8A8 checkpoints; seeds differ in every value, the stored scale too.
std::vector<Fp8Weight> quantised_weights(unsigned seed) {
  const auto make = [&](QuantizeScheme scheme, Group activation, ScaleSource source) {
    Fp8Weight weight = layer_weight(seed, scheme, seed == 1 ? 0.05f : 40);
    weight.scheme.activation = QuantKey{.group = activation, .source = source};
    if (source == ScaleSource::kStored) weight.input_scale = 0.01f * static_cast<float>(seed);
    weight.bias = random_weight(1, kN, seed, 1).reshaped({kN});
    return weight;
  };
  return {make(QuantizeScheme::kTensor, kPerTensor, ScaleSource::kStored),
          make(QuantizeScheme::kTensor, kPerTensor, ScaleSource::kDynamic),
          make(QuantizeScheme::kChannel, kPerTensor, ScaleSource::kStored),
          make(QuantizeScheme::kChannel, kPerRow, ScaleSource::kDynamic),
          make(QuantizeScheme::kBlock, kGroup128, ScaleSource::kDynamic)};
}
constexpr LinearOptions kSpeed{.in = DType::kF16, .out = DType::kF16, .policy = Policy::kSpeed};

TEST_F(GpuLinear, QuantisedAppliesInAGraphEqualEagerOnesAndSeeUpdates) {
  const Kernel& kernel = *find_kernel("cuda_cublaslt_w8a8");
  const SelectOptions forced{.force = std::string(kernel.name)};
  const OwnStream stream;
  const std::vector<Fp8Weight> before = quantised_weights(1), after = quantised_weights(2);
  size_t ran = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    if (!can_implement(kernel, linear_config(before[i], kSpeed), device_)) continue;
    SCOPED_TRACE(scheme_text(before[i].scheme));
    ++ran;
    Linear linear = Linear::create(device_, before[i], kSpeed, forced, stream);
    const Linear other = Linear::create(device_, after[i], kSpeed, forced, stream);
    std::vector<Operands> operands;
    std::vector<std::vector<uint8_t>> first, second;
    Workspace workspace(device_);
    for (const int64_t m : {1, 3, 128, 130, 515, 1024}) {
      operands.emplace_back(device_, m, static_cast<unsigned>(m));
      first.push_back(eager(linear, operands.back()));
      second.push_back(eager(other, operands.back()));
      ASSERT_TRUE(first.back() != second.back());
      workspace.reserve(linear.workspace_bytes(m));
    }
    const Graph graph(stream, [&] {
      for (size_t call = 0; call < 504; ++call)
        operands[call % operands.size()].apply(linear, workspace, stream);
    });
    for (const auto* expected : {&first, &second}) {
      for (const Operands& o : operands) o.clear();
      graph.launch(stream);
      for (size_t o = 0; o < operands.size(); ++o)
        ASSERT_TRUE(operands[o].result() == (*expected)[o]) << "m = " << operands[o].tokens;
      linear.update_weights(after[i], stream);
    }
  }
  if (ran == 0) GTEST_SKIP() << device_.name << " runs none of them";
}

TEST_F(GpuLinear, AStaticActivationScaleThatIsMissingIsRefusedAtCreation) {
  const Kernel& kernel = *find_kernel("cuda_cublaslt_w8a8");
  Fp8Weight weight = quantised_weights(1).front();
  weight.input_scale.reset();
  if (!can_implement(kernel, linear_config(weight, kSpeed), device_)) GTEST_SKIP() << "no FP8 tensor cores";
  EXPECT_THROW(Linear::create(device_, weight, kSpeed, {.force = std::string(kernel.name)}), Error);
}

TEST_F(GpuLinear, ApplyAllocatesNothing) {
  const Linear linear = Linear::create(device_, layer_weight(1), kHalf);
  std::vector<Operands> operands;
  for (const int64_t m : {1, 16, 100, 700}) operands.emplace_back(device_, m, 3);
  Workspace workspace(device_);
  workspace.reserve(linear.workspace_bytes(700));
  const auto apply_all = [&] {
    for (const Operands& o : operands) o.apply(linear, workspace, {});
    synchronize({});
  };
  apply_all();  // the driver loads each kernel when it is first used
  size_t before = 0, after = 0, total = 0;
  ANYFP8_CUDA_CHECK(cudaMemGetInfo(&before, &total));
  for (int i = 0; i < 50; ++i) apply_all();
  ANYFP8_CUDA_CHECK(cudaMemGetInfo(&after, &total));
  EXPECT_EQ(after, before) << "other programs on this GPU can be the reason";
}

// All but this much of the device is taken, and the layer is made all the same.
TEST_F(GpuLinear, PlacingTakesLittleMoreThanTheWeight) {
  constexpr int64_t kRows = 16384, kCols = 16384;  // 256 MiB
  constexpr size_t kWeight = size_t{kRows} * kCols, kBeside = size_t{64} << 20;
  Fp8Weight weight;
  weight.scheme.weight.group = kPerTensor;
  weight.data = HostTensor::allocate(DType::kE4M3, {kRows, kCols});
  weight.scale = HostTensor::allocate(DType::kF32, {1, 1});
  const float one = 1;
  std::memcpy(weight.scale.mutable_data(), &one, sizeof(one));
  static_cast<void>(Linear::create(device_, layer_weight(1), kHalf));  // loads the kernel of the shuffle
  size_t free = 0, total = 0;
  ANYFP8_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  ASSERT_GT(free, kWeight + kBeside);
  const DeviceMemory ballast(device_, free - kWeight - kBeside);
  const Linear linear = Linear::create(device_, weight, kHalf);
  EXPECT_EQ(linear.resident_bytes(), kWeight + 2 * sizeof(float));  // its scale, and that as the largest
}

TEST_F(GpuLinear, TheCallersCurrentDeviceDoesNotMatterAndStays) {
  if (cuda_devices().devices.size() < 2) GTEST_SKIP() << "needs two CUDA devices, this machine has one";
  const Device other = device_from_name("cuda:1");
  ANYFP8_CUDA_CHECK(cudaSetDevice(0));
  const Operands here(device_, 9, 5), there(other, 9, 5);
  const std::vector<uint8_t> expected = eager(Linear::create(device_, layer_weight(1), kHalf), here);
  const Linear linear = Linear::create(other, layer_weight(1), kHalf);
  Workspace workspace(other);
  workspace.reserve(linear.workspace_bytes(9));
  there.apply(linear, workspace, {});
  int current = -1;
  ANYFP8_CUDA_CHECK(cudaGetDevice(&current));
  EXPECT_EQ(current, 0);
  if (other.cc == device_.cc) {
    EXPECT_TRUE(there.result() == expected);
  }
}

TEST_F(GpuLinear, RefusesAWorkspaceOfTheCpu) {
  const Linear linear = Linear::create(device_, layer_weight(1), kHalf);
  const Operands operands(device_, 3, 5);
  if (linear.workspace_bytes(3) == 0) GTEST_SKIP() << "the kernel for m = 3 needs no workspace";
  Workspace workspace(cpu_device());
  workspace.reserve(linear.workspace_bytes(3));
  EXPECT_THROW(operands.apply(linear, workspace, {}), Error);
}

// ---- ANYFP8_SYNC, with a kernel that fails

constexpr DType kFloat8[] = {DType::kE4M3};
constexpr DType kF16[] = {DType::kF16};
constexpr DType kF32[] = {DType::kF32};
constexpr Group kBlocks[] = {kBlock128};

void fail_in_apply(const PlacedWeight&, const TensorView&, const TensorView&, Scratch, Stream) {
  throw fail(ErrorCode::kCuda, "an illegal memory access was encountered");
}

constinit const Kernel failing{
    .name = "failing",
    .summary = "fails",
    .device = DeviceKind::kCuda,
    .layout = Layout::kK64Shuffled,
    .weight_dtypes = kFloat8,
    .weight_groups = kBlocks,
    .scale_dtypes = kF32,
    .in_dtypes = kF16,
    .out_dtypes = kF16,
    .supports = [](const Device&) { return Verdict::yes(); },
    .tokens = [](const LinearConfig&, const Device&) { return TokenRange{}; },
    .apply = fail_in_apply,
};

TEST_F(GpuLinear, WithSyncAnErrorNamesItsLayer) {
  const Kernel* const kernels[] = {&failing};
  for (const bool sync : {false, true}) {
    sync ? setenv("ANYFP8_SYNC", "1", 1) : unsetenv("ANYFP8_SYNC");
    const Linear linear = Linear::create(device_, layer_weight(1), kHalf, {.kernels = kernels});
    unsetenv("ANYFP8_SYNC");
    const Operands operands(device_, 3, 5);
    Workspace workspace(device_);
    try {
      operands.apply(linear, workspace, {});
      FAIL() << "no error came through";
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_EQ(text.find("failing of the layer n = 384, k = 2048 at m = 3") != std::string::npos, sync)
          << text;
      EXPECT_NE(text.find("illegal memory access"), std::string::npos) << text;
    }
  }
}

TEST_F(GpuLinear, WithSyncAGraphCanStillBeCaptured) {
  setenv("ANYFP8_SYNC", "1", 1);
  const Linear linear = Linear::create(device_, layer_weight(1), kHalf);
  unsetenv("ANYFP8_SYNC");
  const Operands operands(device_, 4, 5);
  const std::vector<uint8_t> expected = eager(linear, operands);
  Workspace workspace(device_);
  workspace.reserve(linear.workspace_bytes(4));
  const OwnStream stream;
  const Graph graph(stream, [&] { operands.apply(linear, workspace, stream); });
  operands.clear();
  graph.launch(stream);
  EXPECT_TRUE(operands.result() == expected);
}

}  // namespace
}  // namespace anyfp8
