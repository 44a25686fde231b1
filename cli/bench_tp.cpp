#include "cli/bench_tp.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "anyfp8/base/element.h"
#include "anyfp8/device/device_memory.h"
#include "cli/bench_weights.h"
#include "cli/ranks.h"
#include "cli/terminal.h"

namespace anyfp8::cli {
namespace {

// A matrix on a device, filled from the host.
class Matrix {
 public:
  Matrix(const Device& device, DType dtype, int64_t rows, int64_t cols)
      : device_(device), view_{nullptr, dtype, rows, cols, cols} {
    const auto bytes = static_cast<size_t>(rows * cols) * dtype_bytes(dtype);
    if (device.kind == DeviceKind::kCpu) {
      host_ = HostTensor::allocate(dtype, {rows, cols});
      view_.data = host_.mutable_data();
    } else {
      memory_ = DeviceMemory(device, bytes);
      view_.data = memory_.data();
    }
  }
  const TensorView& view() const { return view_; }

  void fill(const HostTensor& from) {
    if (host_.defined()) {
      std::memcpy(host_.mutable_data(), from.data(), from.size_bytes());
      return;
    }
    const DeviceGuard guard(device_);
    copy_to_device(memory_.data(), from.data(), from.size_bytes(), {});
    synchronize(Stream{});
  }
  HostTensor read() const {
    if (host_.defined()) return host_;
    const DeviceGuard guard(device_);
    HostTensor copy = HostTensor::allocate(view_.dtype, {view_.rows, view_.cols});
    copy_to_host(copy.mutable_data(), memory_.data(), copy.size_bytes(), {});
    return copy;
  }

 private:
  Device device_;
  HostTensor host_;
  DeviceMemory memory_;
  TensorView view_;
};

// The two layers of one rank, in copies that no cache holds together, or in one.
class Pair {
 public:
  Pair(Comm& comm, const Fp8Weight& up, const Fp8Weight& down, const ParallelOptions& options,
       bool one_copy = false)
      : comm_(comm) {
    const Fp8Weight up_shard = shard(up, Split::kColumn, comm.rank(), comm.size());
    const Fp8Weight down_shard = shard(down, Split::kRow, comm.rank(), comm.size());
    const std::vector<Fp8Weight> ups = copies_of(up_shard, comm.device()),
                                 downs = copies_of(down_shard, comm.device());
    // Shards may be uneven, and every rank creates as many layers.
    size_t copies = one_copy ? 1 : std::min(ups.size(), downs.size());
    for (const std::string& of_rank : comm.gather_text(std::to_string(copies)))
      copies = std::min<size_t>(copies, std::stoul(of_rank));
    for (size_t copy = 0; copy < copies; ++copy) {
      ups_.push_back(ColumnParallelLinear::create(comm, ups[copy], options));
      downs_.push_back(RowParallelLinear::create(comm, downs[copy], options));
    }
  }

  // x: [m, k], the same on all ranks.
  void place(const HostTensor& x, DType out) {
    const Device& device = comm_.device();
    const int64_t m = x.shape()[0], k = x.shape()[1];
    x_ = std::make_unique<Matrix>(device, x.dtype(), m, k);
    x_->fill(x);
    between_ = std::make_unique<Matrix>(device, out, m, ups_[0].linear().config().n);
    y_ = std::make_unique<Matrix>(device, out, m, k);
    products_ = std::make_unique<Matrix>(device, sums(), m, k);
    workspace_ = std::make_unique<Workspace>(device);
    workspace_->reserve(std::max(ups_[0].workspace_bytes(m), downs_[0].workspace_bytes(m)));
  }
  void apply(size_t turn, Stream stream) const {
    ups_[turn].apply(x_->view(), between_->view(), *workspace_, stream);
    downs_[turn].apply(between_->view(), y_->view(), *workspace_, stream);
  }
  // The products of this rank alone.
  void multiply(size_t turn, Stream stream) const {
    ups_[turn].linear().apply(x_->view(), between_->view(), *workspace_, stream);
    downs_[turn].linear().apply(between_->view(), products_->view(), *workspace_, stream);
  }
  DType sums() const { return downs_[0].linear().config().out; }  // what is summed over the ranks
  size_t copies() const { return ups_.size(); }
  HostTensor result() const { return y_->read(); }
  std::string kernels(int64_t m) const {
    return fmt::format("{}, {}", ups_[0].linear().selection().kernel_for(m).name,
                       downs_[0].linear().selection().kernel_for(m).name);
  }

 private:
  Comm& comm_;
  std::vector<ColumnParallelLinear> ups_;
  std::vector<RowParallelLinear> downs_;
  std::unique_ptr<Matrix> x_, between_, y_, products_;
  std::unique_ptr<Workspace> workspace_;
};

double difference_of(const HostTensor& a, const HostTensor& b) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double x = load_element(a.data(), a.dtype(), i), y = load_element(b.data(), b.dtype(), i);
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(difference / std::max(norm, 1e-30));
}

class HostTpTimer : public TpTimer {
 public:
  double time(Comm& comm, size_t copies, double seconds, const Queue& queue) override {
    using Clock = std::chrono::steady_clock;
    constexpr int64_t kLeastRounds = 5, kMostRounds = 1000;
    size_t turn = 0;
    const auto timed_call = [&] {
      comm.barrier();
      const auto begin = Clock::now();
      queue(turn++ % copies, {});
      return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
    };
    timed_call();
    const double first_us = largest_of_ranks(comm, timed_call());
    const auto rounds =
        std::clamp(static_cast<int64_t>(seconds * 1e6 / std::max(first_us, 1.0)), kLeastRounds, kMostRounds);
    std::vector<double> us(static_cast<size_t>(rounds));
    for (double& each : us) each = timed_call();
    return median_of_slowest(comm, us);
  }
};

class TpBench {
 public:
  TpBench(const TpArguments& arguments, Comm& comm)
      : arguments_(arguments),
        comm_(comm),
        timer_(comm.device().kind == DeviceKind::kCuda ? cuda_tp_timer(comm.device()) : host_tp_timer()) {}

  void all_reduces() {
    // From one token of a small model to a prompt of a large one.
    constexpr int64_t kFirst = 4096, kLast = int64_t{64} << 20;
    const bool cpu = comm_.device().kind == DeviceKind::kCpu;
    const DType dtype = cpu ? DType::kF32 : arguments_.linear.out;  // what row-parallel layers sum there
    for (int64_t bytes = kFirst; bytes <= (cpu ? kLast / 4 : kLast); bytes *= 4) {
      const int64_t count = bytes / static_cast<int64_t>(dtype_bytes(dtype));
      const double us = all_reduce_us(count, dtype, dtype);
      // What each rank sends, and gets, by the best that is known: 2 (N - 1) / N of the bytes.
      const double moved = 2.0 * (comm_.size() - 1) / comm_.size() * static_cast<double>(bytes);
      row({{"type", "all_reduce"}, {"bytes", bytes}, {"us", us}, {"bus_gb_per_s", moved / us / 1e3}},
          fmt::format("all-reduce of {:>10}  {:>10.1f} us  {:>7.1f} GB/s", bytes_text(bytes), us,
                      moved / us / 1e3));
    }
  }

  void pair(MatrixShape shape, const std::string& scheme) {
    const Fp8Weight up = random_weight(shape, scheme), down = random_weight({shape.k, shape.n}, scheme);
    ParallelOptions options{.linear = arguments_.linear, .reduce_in_f32 = arguments_.reduce_in_f32};
    const std::unique_ptr<Comm> alone = self_comm(comm_.device());
    std::unique_ptr<Pair> whole;
    if (comm_.rank() == 0) whole = std::make_unique<Pair>(*alone, up, down, options);
    Pair shared(comm_, up, down, options);
    std::vector<std::pair<int64_t, std::unique_ptr<Pair>>> in_parts;
    const bool long_enough =
        *std::max_element(arguments_.tokens.begin(), arguments_.tokens.end()) >= kLeastOverlapped;
    if (comm_.size() > 1 && comm_.device().kind == DeviceKind::kCuda && long_enough) {
      for (const int64_t parts : {1, 2, 4}) {
        options.overlap_parts = parts;
        in_parts.emplace_back(parts, std::make_unique<Pair>(comm_, up, down, options, true));
      }
    }
    for (const int64_t m : arguments_.tokens) {
      const HostTensor x = random_activations(m, shape.k, arguments_.linear.in, arguments_.linear.out).x;
      double one_us = 0;
      if (whole) {
        whole->place(x, arguments_.linear.out);
        const auto run = [&](size_t turn, Stream stream) { whole->apply(turn, stream); };
        one_us = timer_->time(*alone, whole->copies(), arguments_.seconds, run);
      }
      one_us = largest_of_ranks(comm_, one_us);  // the others wait here, and take no CPU
      shared.place(x, arguments_.linear.out);
      const double gemm_us = timer_->time(comm_, shared.copies(), arguments_.seconds,
                                          [&](size_t turn, Stream stream) { shared.multiply(turn, stream); });
      const double reduce_us =
          comm_.size() > 1 ? all_reduce_us(m * shape.k, shared.sums(), arguments_.linear.out) : 0;
      const double us = timer_->time(comm_, shared.copies(), arguments_.seconds,
                                     [&](size_t turn, Stream stream) { shared.apply(turn, stream); });
      const double off = whole ? difference_of(shared.result(), whole->result()) : 0;
      for (auto& [parts, pair] : in_parts) {
        if (m < kLeastOverlapped) break;
        pair->place(x, arguments_.linear.out);
        const double part_us =
            timer_->time(comm_, pair->copies(), arguments_.seconds,
                         [&pair = *pair](size_t turn, Stream stream) { pair.apply(turn, stream); });
        row({{"type", "tp_overlap"},
             {"n", shape.n},
             {"k", shape.k},
             {"scheme", scheme},
             {"m", m},
             {"parts", parts},
             {"us", part_us}},
            fmt::format("  in {} parts {:.1f} us", parts, part_us));
      }
      report(shape, scheme, m, one_us, gemm_us, reduce_us, us, off, shared.kernels(m));
    }
  }

 private:
  // Sums of fewer tokens travel faster than a part of the product takes to start.
  static constexpr int64_t kLeastOverlapped = 512;

  double all_reduce_us(int64_t count, DType from, DType to) {
    Matrix in(comm_.device(), from, 1, count), out(comm_.device(), to, 1, count);
    in.fill(HostTensor::allocate(from, {1, count}));  // zeros: their sums stay finite
    void* const result = from == to ? in.view().data : out.view().data;
    Workspace scratch(comm_.device());
    scratch.reserve(comm_.scratch_bytes(count, from, to));
    return timer_->time(comm_, 1, arguments_.seconds, [&](size_t, Stream stream) {
      comm_.all_reduce(in.view().data, from, result, to, count, scratch.scratch(), stream);
    });
  }

  void report(MatrixShape shape, const std::string& scheme, int64_t m, double one_us, double gemm_us,
              double reduce_us, double us, double off, const std::string& kernels) {
    const double expected_us = one_us / comm_.size() + reduce_us;
    row({{"type", "tp_pair"},
         {"n", shape.n},
         {"k", shape.k},
         {"m", m},
         {"scheme", scheme},
         {"kernels", kernels},
         {"one_us", one_us},
         {"gemm_us", gemm_us},
         {"all_reduce_us", reduce_us},
         {"us", us},
         {"speedup", one_us / us},
         {"of_expected", us / expected_us},
         {"relative_difference", off}},
        fmt::format("{} -> {} -> {} {} m {:<5} one {:>9.1f} us  {} {:>9.1f} us: {:.2f}x  (products {:.1f}, "
                    "all-reduce {:.1f}, {:.2f} of one/{} + all-reduce; y differs by {:.1e})",
                    shape.k, shape.n, shape.k, scheme, m, one_us, comm_.size(), us, one_us / us, gemm_us,
                    reduce_us, us / expected_us, comm_.size(), off));
  }

  void row(nlohmann::json values, const std::string& text) {
    if (comm_.rank() != 0) return;
    if (!arguments_.json) {
      print_out("{}\n", text);
    } else {
      values.update({{"schema_version", 1},
                     {"device", comm_.device().name},
                     {"engine", comm_.name()},
                     {"ranks", comm_.size()},
                     {"cores", comm_.device().cores},
                     {"activations", dtype_name(arguments_.linear.in)},
                     {"command", arguments_.command}});
      print_json_line(values);
    }
    flush_out();
  }

  const TpArguments& arguments_;
  Comm& comm_;
  std::unique_ptr<TpTimer> timer_;
};

}  // namespace

double largest_of_ranks(Comm& comm, double value) {
  double largest = value;
  for (const std::string& text : comm.gather_text(fmt::format("{}", value)))
    largest = std::max(largest, std::stod(text));
  return largest;
}

double median_of_slowest(Comm& comm, const std::vector<double>& us) {
  std::vector<double> slowest(us.size(), 0);
  for (const std::string& text : comm.gather_text(fmt::format("{}", fmt::join(us, " ")))) {
    const char* next = text.c_str();
    for (double& each : slowest) {
      char* end = nullptr;
      each = std::max(each, std::strtod(next, &end));
      next = end;
    }
  }
  const auto middle = slowest.begin() + static_cast<std::ptrdiff_t>(slowest.size() / 2);
  std::nth_element(slowest.begin(), middle, slowest.end());
  return *middle;
}

std::unique_ptr<TpTimer> host_tp_timer() { return std::make_unique<HostTpTimer>(); }

int run_tp_bench(const TpArguments& arguments) {
  return on_ranks(arguments.device, [&](Comm& comm) {
    if (comm.rank() == 0 && !arguments.json) {
      print_out("{}, {} rank{} ({}), activations {}\n", comm.device().name, comm.size(),
                comm.size() == 1 ? "" : "s", comm.name(), dtype_name(arguments.linear.in));
    }
    TpBench bench(arguments, comm);
    if (comm.size() > 1) bench.all_reduces();
    for (const MatrixShape shape : arguments.shapes) {
      for (const std::string& scheme : arguments.schemes) bench.pair(shape, scheme);
    }
    return 0;
  });
}

}  // namespace anyfp8::cli
