// One rank of a test: started by mpirun (tests/ranks_test.cpp) or torchrun, parallel_ranks MODE
// [ARGUMENT]. Checks what it computes itself, against the same without other ranks; says the first difference
// and ends with 1. ANYFP8_TEST_DEVICE=cuda: on the GPU of the local rank.
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <thread>
#include <vector>

#include "anyfp8/base/element.h"
#include "anyfp8/base/text.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/checkpoint/checkpoint.h"
#include "anyfp8/checkpoint/config_json.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/model/generate.h"
#include "anyfp8/model/model.h"
#include "anyfp8/parallel/comm.h"
#include "anyfp8/parallel/launch.h"
#include "anyfp8/parallel/parallel_linear.h"

namespace anyfp8 {
namespace {

using Floats = std::vector<float>;

template <typename... Args>
void need(bool condition, fmt::format_string<Args...> text, Args&&... args) {
  if (!condition) throw fail(ErrorCode::kInternal, text, std::forward<Args>(args)...);
}

Device test_device() {
  const char* wish = std::getenv("ANYFP8_TEST_DEVICE");
  if (wish == nullptr || std::string_view(wish) == "cpu") return cpu_device();
  return device_from_name(fmt::format("cuda:{}", launch_from_environment().local_rank));
}

// Elements of a type on a device; NaN until written.
class Buffer {
 public:
  Buffer(const Device& device, DType dtype, int64_t count)
      : device_(device),
        dtype_(dtype),
        count_(count),
        host_(static_cast<size_t>(count) * dtype_bytes(dtype) + 64, 0xFF) {
    if (cuda()) {
      memory_ = DeviceMemory(device, host_.size());
      upload();
    }
  }
  Buffer(const Device& device, DType dtype, const Floats& values)
      : Buffer(device, dtype, static_cast<int64_t>(values.size())) {
    for (size_t i = 0; i < values.size(); ++i)
      store_element(host_.data(), dtype_, static_cast<int64_t>(i), values[i]);
    if (cuda()) upload();
  }
  void* data() { return cuda() ? memory_.data() : host_.data(); }
  TensorView view(int64_t rows, int64_t cols) { return {data(), dtype_, rows, cols, cols}; }
  Floats read() {
    if (cuda()) {
      const DeviceGuard guard(device_);
      copy_to_host(host_.data(), memory_.data(), host_.size(), {});
    }
    Floats values(static_cast<size_t>(count_));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = load_element(host_.data(), dtype_, static_cast<int64_t>(i));
    return values;
  }

 private:
  bool cuda() const { return device_.kind == DeviceKind::kCuda; }
  void upload() {
    const DeviceGuard guard(device_);
    copy_to_device(memory_.data(), host_.data(), host_.size(), {});
    synchronize({});
  }
  Device device_;
  DType dtype_;
  int64_t count_;
  std::vector<uint8_t> host_;
  DeviceMemory memory_;
};

// What rank `rank` has at `i`, exact in the type.
float value_of(int rank, int64_t i, DType dtype) {
  uint8_t memory[4];
  const auto x = static_cast<float>(std::sin(static_cast<double>(i + 1) * 0.37 * (rank + 1)));
  store_element(memory, dtype, 0, x);
  return load_element(memory, dtype, 0);
}

Floats values_of(int rank, int64_t count, DType dtype) {
  Floats values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = value_of(rank, i, dtype);
  return values;
}

// On CPUs sums are exactly these; NCCL has an order of its own, and rounds sums of 16 bits as it goes.
bool sum_fits(const Comm& comm, float got, int64_t i, DType from, DType to) {
  float sum = value_of(0, i, from), size = std::abs(sum);
  for (int rank = 1; rank < comm.size(); ++rank) {
    sum += value_of(rank, i, from);
    size += std::abs(value_of(rank, i, from));
  }
  uint8_t memory[4];
  store_element(memory, to, 0, sum);
  if (comm.device().kind == DeviceKind::kCpu) return got == load_element(memory, to, 0);
  const double unit = to == DType::kBF16 || from == DType::kBF16 ? 0x1p-8
                      : to == DType::kF32 && from == to          ? 0x1p-24
                                                                 : 0x1p-11;
  const double least = to == DType::kF16 ? 0x1p-24 : 0;  // between two subnormal numbers
  return std::abs(got - sum) <= unit * comm.size() * size + least;
}

void check_collectives(Comm& comm) {
  constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16, kF16 = DType::kF16;
  Workspace workspace(comm.device());
  const auto scratch = [&](int64_t count) {
    workspace.reserve(comm.scratch_bytes(count, DType::kF32, DType::kBF16));
    return workspace.scratch();
  };
  // Below and above what goes at once, and above a round.
  for (const int64_t count : {0, 1, 17, 4096, 4097, 300001}) {
    for (const auto& [from, to] :
         {std::pair{kF32, kF32}, {kF32, kBF16}, {kBF16, kBF16}, {kF16, kF16}, {kF32, kF16}}) {
      if (count > 5000 && from != kF32) continue;  // rounds are the same for every type
      Floats before;
      for (int again = 0; again < 2; ++again) {
        Buffer in(comm.device(), from, values_of(comm.rank(), count, from)), out(comm.device(), to, count);
        const bool in_place = from == to && again == 1;
        comm.all_reduce(in.data(), from, in_place ? in.data() : out.data(), to, count, scratch(count));
        const Floats got = in_place ? in.read() : out.read();
        for (int64_t i = 0; i < count; ++i)
          need(sum_fits(comm, got[static_cast<size_t>(i)], i, from, to),
               "all_reduce of {} {}: element {} is {}", count, dtype_name(from), i,
               got[static_cast<size_t>(i)]);
        need(again == 0 || got == before, "all_reduce of {} {} has other bits the second time", count,
             dtype_name(from));
        before = got;
      }
    }
    // Uneven, and nothing for rank 1.
    std::vector<int64_t> counts;
    for (int rank = 0; rank < comm.size(); ++rank) counts.push_back(rank == 1 ? 0 : count / (rank + 1));
    int64_t total = 0, own_begin = 0;
    for (int rank = 0; rank < comm.size(); ++rank) {
      if (rank == comm.rank()) own_begin = total;
      total += counts[static_cast<size_t>(rank)];
    }
    const int64_t own = counts[static_cast<size_t>(comm.rank())];
    Buffer part(comm.device(), kBF16, values_of(comm.rank(), own, kBF16)), all(comm.device(), kBF16, total);
    comm.all_gather(part.data(), all.data(), kBF16, counts, scratch(total));
    const Floats gathered = all.read();
    size_t at = 0;
    for (int rank = 0; rank < comm.size(); ++rank) {
      for (int64_t i = 0; i < counts[static_cast<size_t>(rank)]; ++i, ++at)
        need(gathered[at] == value_of(rank, i, kBF16), "all_gather: element {} of rank {}", i, rank);
    }
    Buffer terms(comm.device(), kF32, values_of(comm.rank(), total, kF32)), sums(comm.device(), kBF16, own);
    comm.reduce_scatter(terms.data(), kF32, sums.data(), kBF16, counts, scratch(total));
    const Floats scattered = sums.read();
    for (int64_t i = 0; i < own; ++i)
      need(sum_fits(comm, scattered[static_cast<size_t>(i)], own_begin + i, kF32, kBF16),
           "reduce_scatter: element {}", i);
    for (int root = 0; root < comm.size(); ++root) {
      Buffer word(comm.device(), kF32, values_of(comm.rank(), count, kF32));
      comm.broadcast(word.data(), static_cast<size_t>(count) * 4, root);
      need(word.read() == values_of(root, count, kF32), "broadcast of {} from {}", count, root);
    }
  }
  comm.barrier();
  const std::vector<std::string> texts = comm.gather_text(fmt::format("rank {}", comm.rank()));
  for (int rank = 0; rank < comm.size(); ++rank)
    need(texts[static_cast<size_t>(rank)] == fmt::format("rank {}", rank), "gather_text: {}",
         texts[static_cast<size_t>(rank)]);
}

// A weight whose scales all differ, with a bias.
Fp8Weight test_weight(DType dtype, Group group, DType scale_dtype, int64_t n, int64_t k) {
  Fp8Weight w;
  w.scheme.weight = {dtype, group, ScaleSource::kStored, scale_dtype};
  w.data = HostTensor::allocate(dtype, {n, k});
  for (int64_t i = 0; i < n * k; ++i) {
    const auto x = static_cast<float>(std::sin(static_cast<double>(i) * 0.731) * (w.quantized() ? 100 : 1));
    if (!w.quantized())
      store_element(w.data.mutable_data(), dtype, i, x);
    else
      w.data.mutable_data()[i] = std::byte{dtype == DType::kE4M3 ? f32_to_e4m3(x) : f32_to_e5m2(x)};
  }
  w.bias = HostTensor::allocate(DType::kF32, {n});
  for (int64_t i = 0; i < n; ++i)
    store_element(w.bias.mutable_data(), DType::kF32, i, static_cast<float>(i % 7) - 3);
  if (!w.quantized()) return w;
  const Grid grid = scale_grid(group, n, k);
  w.scale = HostTensor::allocate(scale_dtype, {grid.rows, grid.cols});
  for (int64_t i = 0; i < w.scale.size(); ++i) {
    if (scale_dtype == DType::kE8M0)
      w.scale.mutable_data()[i] = std::byte(static_cast<uint8_t>(118 + i % 5));
    else
      store_element(w.scale.mutable_data(), DType::kF32, i, 0.002f * static_cast<float>(1 + i % 11));
  }
  return w;
}

struct LayerCase {
  const Fp8Weight& weight;
  DType io;
  int64_t m;
  Floats x, want;  // of one rank that has it all
  std::string text() const {
    return fmt::format("{} {} of {} at m = {}", scheme_text(weight.scheme), shape_text(weight.data.shape()),
                       dtype_name(io), m);
  }
};

LayerCase layer_case(Comm& comm, const Fp8Weight& weight, DType io, int64_t m, Policy policy) {
  LayerCase c{weight, io, m, values_of(0, m * weight.k(), io), {}};
  const Linear linear = Linear::create(comm.device(), weight, {io, io, policy});
  Workspace workspace(comm.device());
  workspace.reserve(linear.workspace_bytes(m));
  Buffer in(comm.device(), io, c.x), out(comm.device(), io, m * weight.n());
  linear.apply(in.view(m, weight.k()), out.view(m, weight.n()), workspace);
  c.want = out.read();
  return c;
}

// Columns [begin, end) of rows [first, last).
Floats cut(const Floats& matrix, int64_t cols, IndexRange rows, IndexRange part) {
  Floats result;
  for (int64_t r = rows.begin; r < rows.end; ++r)
    result.insert(result.end(), matrix.begin() + r * cols + part.begin, matrix.begin() + r * cols + part.end);
  return result;
}

Floats apply(Comm& comm, const ParallelLinear& layer, const LayerCase& c, const Floats& x, int64_t x_rows,
             int64_t x_cols, int64_t y_rows, int64_t y_cols) {
  Workspace workspace(comm.device());
  workspace.reserve(layer.workspace_bytes(c.m));
  Buffer in(comm.device(), c.io, x), out(comm.device(), c.io, y_rows * y_cols);
  layer.apply(in.view(x_rows, x_cols), out.view(y_rows, y_cols), workspace);
  return out.read();
}

// The same bits on CPUs, and on GPUs with policy invariant. Else kernels of GPUs cut k by how many outputs
// there are, so sums may differ in their order.
bool columns_fit(const ParallelLinear& layer, const Floats& got, const Floats& expected) {
  if (layer.linear().device().kind == DeviceKind::kCpu ||
      layer.linear().config().policy == Policy::kInvariant)
    return got == expected;
  float largest = 0;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!(std::abs(got[i] - expected[i]) <= 0x1p-8f * std::abs(expected[i]) + 1e-5f * largest)) return false;
  }
  return got.size() == expected.size();
}

void check_column(Comm& comm, const ColumnParallelLinear& layer, const ParallelOptions& options,
                  const LayerCase& c) {
  const int64_t n = c.weight.n(), k = c.weight.k();
  const IndexRange own = shard_range(n, comm.rank(), comm.size());
  const IndexRange rows =
      options.sequence_parallel ? token_range(c.m, comm.rank(), comm.size()) : IndexRange{0, c.m};
  const IndexRange cols = options.gather_output ? IndexRange{0, n} : own;
  const Floats got =
      apply(comm, layer, c, cut(c.x, k, rows, {0, k}), rows.end - rows.begin, k, c.m, cols.end - cols.begin);
  need(columns_fit(layer, got, cut(c.want, n, {0, c.m}, cols)),
       "column-parallel {}{}{} has not the bits of one rank", c.text(),
       options.sequence_parallel ? ", sequence parallel" : "", options.gather_output ? ", gathered" : "");
}

// Sums of k terms in fp32 may differ by their order; 16-bit results by a rounding each, 16-bit terms by one
// for each rank.
void check_row(Comm& comm, const RowParallelLinear& layer, const ParallelOptions& options,
               const LayerCase& c) {
  const int64_t n = c.weight.n(), k = c.weight.k();
  const IndexRange own = shard_range(k, comm.rank(), comm.size());
  const IndexRange rows =
      options.sequence_parallel ? token_range(c.m, comm.rank(), comm.size()) : IndexRange{0, c.m};
  const Floats got =
      apply(comm, layer, c, cut(c.x, k, {0, c.m}, own), c.m, own.end - own.begin, rows.end - rows.begin, n);
  const HostTensor w = dequantize(c.weight, 0, n);
  const double out = c.io == DType::kF32 ? 0 : 0x1p-8;
  for (size_t i = 0; i < got.size(); ++i) {
    const int64_t row = rows.begin + static_cast<int64_t>(i) / n, col = static_cast<int64_t>(i) % n;
    double size = 3;  // the largest bias
    for (int64_t j = 0; j < k; ++j)
      size +=
          std::abs(static_cast<double>(c.x[static_cast<size_t>(row * k + j)]) * w.as<float>()[col * k + j]);
    const double want = c.want[static_cast<size_t>(row * n + col)];
    const double bound = 4 * std::sqrt(static_cast<double>(k)) * 0x1p-24 * size + 2 * out * std::abs(want) +
                         (*options.reduce_in_f32 ? 0 : (comm.size() + 1) * out * size);
    need(std::abs(got[i] - want) <= bound, "row-parallel {}{}{}: [{}, {}] is {}, one rank has {}, bound {}",
         c.text(), options.sequence_parallel ? ", sequence parallel" : "",
         *options.reduce_in_f32 ? "" : ", reduced in 16 bits", row, col, got[i], want, bound);
  }
}

// Of a layer whose k one GPU cuts into more parts than it would for a rank's share of the outputs.
void check_invariant_columns(Comm& comm) {
  constexpr int64_t n = 8192 + 72, k = 3000;
  const ParallelOptions options{.linear = {.policy = Policy::kInvariant}};
  for (const auto& [group, scale] :
       {std::pair{kPerRow, DType::kF32}, {kBlock128, DType::kF32}, {kMx32, DType::kE8M0}}) {
    const Fp8Weight weight = test_weight(DType::kE4M3, group, scale, n, k);
    const auto column =
        ColumnParallelLinear::create(comm, shard(weight, Split::kColumn, comm.rank(), comm.size()), options);
    for (const int64_t m : {1, 18, 200})
      check_column(comm, column, options, layer_case(comm, weight, DType::kBF16, m, Policy::kInvariant));
  }
}

void check_layers(Comm& comm) {
  constexpr int64_t n = 200, k = 333;
  struct Scheme {
    DType dtype;
    Group group;
    DType scale;
  };
  const Scheme schemes[] = {{DType::kE4M3, kPerTensor, DType::kF32}, {DType::kE4M3, kPerRow, DType::kF32},
                            {DType::kE4M3, kBlock128, DType::kF32},  {DType::kE4M3, kGroup128, DType::kF32},
                            {DType::kE4M3, {64, 48}, DType::kF32},   {DType::kE4M3, kMx32, DType::kE8M0},
                            {DType::kE5M2, kPerRow, DType::kF32},    {DType::kE5M2, kMx32, DType::kE8M0},
                            {DType::kBF16, {}, DType::kF32}};
  for (const Scheme& scheme : schemes) {
    const Fp8Weight weight = test_weight(scheme.dtype, scheme.group, scheme.scale, n, k);
    for (const DType io : {DType::kF32, DType::kBF16}) {
      const bool cuda = comm.device().kind == DeviceKind::kCuda;
      if (io == DType::kF32 && cuda) continue;
      std::vector<LayerCase> cases;
      for (const int64_t m : {0, 1, 5, 18})
        cases.push_back(layer_case(comm, weight, io, m, Policy::kAccuracy));
      for (const bool sequence : {false, true}) {
        for (const bool other : {false, true}) {  // gather_output, reduce_in_f32
          const ParallelOptions options{.linear = {io, io},
                                        .sequence_parallel = sequence,
                                        .gather_output = other,
                                        .reduce_in_f32 = other};
          const auto column = ColumnParallelLinear::create(
              comm, shard(weight, Split::kColumn, comm.rank(), comm.size()), options);
          const auto row =
              RowParallelLinear::create(comm, shard(weight, Split::kRow, comm.rank(), comm.size()), options);
          for (const LayerCase& c : cases) check_column(comm, column, options, c);
          for (const LayerCase& c : cases) check_row(comm, row, options, c);
        }
      }
    }
  }
  if (comm.device().kind == DeviceKind::kCuda) check_invariant_columns(comm);
}

// Of this rank, of mapped files and of all else.
size_t mapped_resident_bytes(const std::string& file) {
  std::ifstream maps("/proc/self/smaps");
  size_t bytes = 0;
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    std::string first;
    words >> first;
    if (first.find('-') != std::string::npos && first.back() != ':') inside = line.ends_with(file);
    size_t kb = 0;
    if (inside && first == "Rss:" && words >> kb) bytes += kb << 10;
  }
  return bytes;
}

void check_memory(Comm& comm, const std::string& path) {
  const Checkpoint checkpoint = Checkpoint::open(path);
  const Model model = Model::load(checkpoint, {.comm = &comm});
  const double share = static_cast<double>(checkpoint.file_bytes()) / comm.size();
  const size_t counted = model.linear_bytes() + model.other_bytes();
  need(static_cast<double>(counted) <= share * 1.07 + 1e6, "{} bytes of weights; the share is {:.0f}",
       counted, share);
  // Packed weights are memory of the process, all else is pages of the file.
  size_t packed = 0;
  for (const Model::LayerInfo& layer : model.linears()) {
    if (is_float8(layer.linear->config().scheme.weight.dtype)) packed += layer.linear->resident_bytes();
  }
  const size_t mapped = mapped_resident_bytes("model.safetensors");
  std::printf("rank %d: share %.0f, weights %zu, packed %zu and %zu of the file mapped\n", comm.rank(), share,
              counted, packed, mapped);
  need(static_cast<double>(packed + mapped) <= share * 1.07 + 1e6,
       "{} bytes packed and {} of the file; the share is {:.0f}", packed, mapped, share);
}

// The first `count` prompts of the model's reference, greedily, id by id.
void check_reference(Comm& comm, const std::string& path, size_t count) {
  Model model = Model::load(Checkpoint::open(path), {.comm = &comm});
  const Checkpoint reference = Checkpoint::open(path + "/reference.safetensors");
  const auto prompts = read_json_file(path + "/reference.json", 1 << 20).at("prompts");
  for (size_t i = 0; i < count; ++i) {
    const HostTensor tensor = reference.tensor(fmt::format("ids.{}", i));
    std::vector<int> ids;
    for (int64_t j = 0; j < tensor.size(); ++j) {
      ids.push_back(tensor.dtype() == DType::kI64
                        ? static_cast<int>(detail::load_at<int64_t>(tensor.data(), j))
                        : detail::load_at<int32_t>(tensor.data(), j));
    }
    std::vector<int> got(ids.begin(), ids.begin() + prompts[i].at("prompt_tokens").get<int>());
    const std::vector<int> prompt = got;
    generate_tokens(model, prompt, {.max_tokens = 96, .ignore_eos = true}, {}, [&](int id) {
      got.push_back(id);
      return true;
    });
    need(got == ids, "prompt {} of {} goes on otherwise than the reference", i, path);
  }
}

// Rank 1 does something else. The others wait for it.
void misbehave(Comm& comm, const std::string& how) {
  Buffer data(comm.device(), DType::kF32, values_of(0, 8192, DType::kF32));
  Workspace workspace(comm.device());
  workspace.reserve(comm.scratch_bytes(8192, DType::kF32, DType::kF32));
  const auto reduce = [&](int64_t count) {
    comm.all_reduce(data.data(), DType::kF32, data.data(), DType::kF32, count, workspace.scratch());
  };
  reduce(100);
  const bool odd = comm.rank() == 1;
  if (odd && how == "leave") return;
  if (odd && how == "stop") std::raise(SIGSTOP);
  if (odd && how == "die") std::raise(SIGKILL);
  if (odd && how == "throw") throw Error(ErrorCode::kInvalidArgument, "it does not like this model");
  if (odd && how == "operation") comm.barrier();
  if (how == "layer") {
    ColumnParallelLinear::create(comm, test_weight(DType::kE4M3, kPerRow, DType::kF32, 8, odd ? 9 : 10));
  }
  reduce(odd && how == "count" ? 4000 : 8000);
  reduce(8000);
  if (comm.device().kind == DeviceKind::kCuda) synchronize({});
  comm.check();
}

int run(const std::string& mode, const std::string& argument) {
  set_num_threads(1);
  std::unique_ptr<Comm> comm;
  try {
    comm = open_comm(test_device());
    if (mode == "collectives") {
      check_collectives(*comm);
    } else if (mode == "layers") {
      check_layers(*comm);
    } else if (mode == "memory") {
      check_memory(*comm, argument);
    } else if (mode == "reference") {
      check_reference(*comm, argument, comm->size() == 4 ? 3 : 1);
    } else {
      misbehave(*comm, mode);
    }
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "rank %d: %s\n", launch_from_environment().rank, error.what());
    if (comm != nullptr) comm->abandon(error.what());
    return 1;
  }
}

}  // namespace
}  // namespace anyfp8

int main(int argc, char** argv) {
  return anyfp8::run(argc > 1 ? argv[1] : "collectives", argc > 2 ? argv[2] : "");
}
