#include "anyfp8/parallel/comm.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

#include "anyfp8/base/element.h"
#include "anyfp8/base/text.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/parallel/launch.h"
#include "anyfp8/parallel/mpi_comm.h"
#include "anyfp8/parallel/nccl_comm.h"
#include "anyfp8/parallel/watchdog.h"

namespace anyfp8 {
namespace {

void check_types(const char* call, std::initializer_list<DType> types) {
  for (const DType type : types) {
    if (is_float16_or_32(type)) continue;
    throw fail(ErrorCode::kInvalidArgument, "{} of {}; f32, bf16 and f16 can be sent", call,
               dtype_name(type));
  }
}

void check_counts(const char* call, std::span<const int64_t> counts, int size) {
  if (counts.size() == static_cast<size_t>(size) &&
      std::all_of(counts.begin(), counts.end(), [](int64_t count) { return count >= 0; }))
    return;
  throw fail(ErrorCode::kInvalidArgument, "{} with counts [{}]; {} ranks need one of 0 or more each", call,
             fmt::join(counts, ", "), size);
}

void check_scratch(const char* call, Scratch scratch, size_t needed) {
  if (scratch.bytes >= needed && (needed == 0 || scratch.data != nullptr)) return;
  throw fail(ErrorCode::kInvalidArgument,
             "{} needs {} bytes of scratch memory, this has {}; see scratch_bytes()", call, needed,
             scratch.data == nullptr ? 0 : scratch.bytes);
}

int64_t sum(std::span<const int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// One rank: everything is there already.
class SelfComm final : public Comm {
 public:
  explicit SelfComm(const Device& device) : Comm("self", device, 0, 1, nullptr) {}
  size_t scratch_bytes(int64_t, DType, DType) const noexcept override { return 0; }

 protected:
  void do_all_reduce(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count, Scratch,
                     Stream stream) override {
    if (from == to) return;
    if (device().kind == DeviceKind::kCpu) {
      for (int64_t i = 0; i < count; ++i) store_element(to, to_dtype, i, load_element(from, from_dtype, i));
      return;
    }
    if (from_dtype != to_dtype) {
      throw fail(ErrorCode::kUnsupported, "one rank on {} does not convert {} to {}", device().name,
                 dtype_name(from_dtype), dtype_name(to_dtype));
    }
    const size_t bytes = static_cast<size_t>(count) * dtype_bytes(to_dtype);
    copy_rows_on_device(to, bytes, from, bytes, bytes, 1, stream);
  }
  void do_all_gather(const void* from, void* to, DType dtype, std::span<const int64_t> counts,
                     Scratch scratch, Stream stream) override {
    do_all_reduce(from, dtype, to, dtype, counts[0], scratch, stream);
  }
  void do_reduce_scatter(const void* from, DType from_dtype, void* to, DType to_dtype,
                         std::span<const int64_t> counts, Scratch scratch, Stream stream) override {
    do_all_reduce(from, from_dtype, to, to_dtype, counts[0], scratch, stream);
  }
  void do_broadcast(void*, size_t, int, Stream) override {}
  void do_barrier(Stream) override {}
};

WatchdogOptions watchdog_options(const Launch& launch, const CommOptions& options) {
  WatchdogOptions result{.rank = launch.rank, .size = launch.size};
  result.on_lost = options.on_lost;
  if (const char* value = std::getenv("ANYFP8_COMM_TIMEOUT")) {
    char* end = nullptr;
    const double seconds = std::strtod(value, &end);
    if (*value == '\0' || *end != '\0' || !(seconds >= 0 && seconds <= 1e6)) {
      throw fail(ErrorCode::kInvalidArgument, "ANYFP8_COMM_TIMEOUT is '{}'; seconds are needed, 0 for ever",
                 value);
    }
    result.timeout_seconds = seconds;
  }
  return result;
}

// torchrun keeps MASTER_PORT for itself, so the ranks meet on the next one.
std::unique_ptr<Watchdog> meet_by_address(const Launch& launch, WatchdogOptions options) {
  options.addresses = {launch.master_address};
  if (launch.master_port < 1 || launch.master_port > 65534) {
    throw fail(ErrorCode::kInvalidArgument,
               "MASTER_PORT is {}; the ranks meet on the port after it, so 1 to 65534", launch.master_port);
  }
  options.port = launch.master_port + 1;
  const char* job = std::getenv("TORCHELASTIC_RUN_ID");
  options.token = job == nullptr ? "" : job;
  options.meet_seconds = 300;  // importing torch takes ranks a minute on cold disks
  return Watchdog::start(std::move(options));
}

}  // namespace

Comm::Comm(std::string_view name, Device device, int rank, int size, std::unique_ptr<Watchdog> watchdog)
    : name_(name), device_(std::move(device)), rank_(rank), size_(size), watchdog_(std::move(watchdog)) {}

Comm::~Comm() { close(); }

bool Comm::close() noexcept { return watchdog_ == nullptr || Watchdog::leave(std::move(watchdog_)); }

void Comm::all_reduce(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count,
                      Scratch scratch, Stream stream) {
  check_types("all_reduce", {from_dtype, to_dtype});
  check_counts("all_reduce", {&count, 1}, 1);
  check_scratch("all_reduce", scratch, scratch_bytes(count, from_dtype, to_dtype));
  do_all_reduce(from, from_dtype, to, to_dtype, count, scratch, stream);
}

void Comm::all_gather(const void* from, void* to, DType dtype, std::span<const int64_t> counts,
                      Scratch scratch, Stream stream) {
  check_types("all_gather", {dtype});
  check_counts("all_gather", counts, size_);
  check_scratch("all_gather", scratch, scratch_bytes(sum(counts), dtype, dtype));
  do_all_gather(from, to, dtype, counts, scratch, stream);
}

void Comm::reduce_scatter(const void* from, DType from_dtype, void* to, DType to_dtype,
                          std::span<const int64_t> counts, Scratch scratch, Stream stream) {
  check_types("reduce_scatter", {from_dtype, to_dtype});
  check_counts("reduce_scatter", counts, size_);
  check_scratch("reduce_scatter", scratch, scratch_bytes(sum(counts), from_dtype, to_dtype));
  do_reduce_scatter(from, from_dtype, to, to_dtype, counts, scratch, stream);
}

void Comm::broadcast(void* data, size_t bytes, int root, Stream stream) {
  if (root < 0 || root >= size_) {
    throw fail(ErrorCode::kInvalidArgument, "broadcast from rank {}; there are ranks 0 to {}", root,
               size_ - 1);
  }
  do_broadcast(data, bytes, root, stream);
}

void Comm::barrier(Stream stream) { do_barrier(stream); }

std::vector<std::string> Comm::gather_text(std::string_view text) {
  if (size_ == 1) return {std::string(text)};
  return do_gather_text(text);
}

std::vector<std::string> Comm::do_gather_text(std::string_view text) { return watchdog_->gather(text); }

void Comm::agree(std::string_view what, std::string_view value) {
  const std::vector<std::string> values = gather_text(value);
  const auto other =
      std::find_if(values.begin(), values.end(), [&](const auto& v) { return v != values[0]; });
  if (other == values.end()) return;
  throw fail(ErrorCode::kInvalidArgument, "the ranks have not the same {}: rank 0 has {}, rank {} has {}",
             what, values[0], other - values.begin(), *other);
}

void Comm::check() const { do_check(); }
void Comm::do_check() const {
  if (watchdog_ != nullptr) watchdog_->check();
}

void Comm::abandon(std::string_view reason) noexcept {
  if (watchdog_ != nullptr) watchdog_->fail(reason);
}

std::unique_ptr<Comm> self_comm(const Device& device) { return std::make_unique<SelfComm>(device); }

std::unique_ptr<Comm> open_comm(const Device& device, const CommOptions& options) {
  const Launch launch = launch_from_environment();
  if (launch.size == 1) return self_comm(device);
  WatchdogOptions watching = watchdog_options(launch, options);
  const bool cuda = device.kind == DeviceKind::kCuda;
  if (cuda && !launch.master_address.empty())
    return open_nccl_comm(device, meet_by_address(launch, std::move(watching)));
  if (launch.by == Launch::By::kTorchrun) {
    throw fail(ErrorCode::kUnsupported,
               "torchrun started {} ranks, and ranks on CPUs talk through MPI: start them with mpirun -n {}",
               launch.size, launch.size);
  }
  const Anyfp8MpiTable& mpi = mpi_table(launch);
  std::unique_ptr<Watchdog> watchdog = meet_by_mpi(mpi, std::move(watching));
  if (cuda) return open_nccl_comm(device, std::move(watchdog));
  return std::make_unique<MpiComm>(mpi, device, std::move(watchdog));
}

}  // namespace anyfp8
