#include <cuda_runtime_api.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <fstream>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "anyfp8/base/log.h"
#include "anyfp8/base/text.h"
#include "anyfp8/device/check_cuda.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/parallel/convert_elements.h"
#include "anyfp8/parallel/nccl_comm.h"
#include "anyfp8/parallel/nccl_library.h"

namespace anyfp8 {
namespace {

using std::chrono::milliseconds;

int nccl_type(DType dtype) {
  switch (dtype) {
    case DType::kF32: return kNcclFloat32;
    case DType::kBF16: return kNcclBfloat16;
    case DType::kF16: return kNcclFloat16;
    default: throw fail(ErrorCode::kInternal, "{} is no type of a Comm", dtype_name(dtype));
  }
}

const std::byte* at(const void* data, int64_t element, DType dtype) {
  return static_cast<const std::byte*>(data) + static_cast<size_t>(element) * dtype_bytes(dtype);
}
std::byte* at(void* data, int64_t element, DType dtype) {
  return static_cast<std::byte*>(data) + static_cast<size_t>(element) * dtype_bytes(dtype);
}

int64_t sum(std::span<const int64_t> counts) {
  int64_t total = 0;
  for (const int64_t count : counts) total += count;
  return total;
}

bool all_equal(std::span<const int64_t> counts) {
  return std::all_of(counts.begin(), counts.end(), [&](int64_t count) { return count == counts[0]; });
}

// The same words for the same GPU, in every process of every machine.
std::string gpu_identity(const Device& device) {
  cudaDeviceProp properties{};
  ANYFP8_CUDA_CHECK(cudaGetDeviceProperties(&properties, device.index));
  // Containers of one machine may have names of their own; it boots once.
  std::string machine;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), machine);
  std::string uuid;
  for (const char byte : properties.uuid.bytes) uuid += fmt::format("{:02x}", static_cast<uint8_t>(byte));
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
  return fmt::format("{} {}\n{} of {}", machine, uuid, device.name, host.data());
}

void refuse_shared_gpus(const Device& device, Watchdog& watchdog) {
  const std::vector<std::string> gpus = watchdog.gather(gpu_identity(device));
  for (size_t rank = 1; rank < gpus.size(); ++rank) {
    const auto first = std::find(gpus.begin(), gpus.end(), gpus[rank]);
    const auto other = static_cast<size_t>(first - gpus.begin());
    if (other == rank) continue;
    throw fail(ErrorCode::kInvalidArgument,
               "ranks {} and {} both have the GPU {}; NCCL needs one for each rank: start no more ranks than "
               "there are GPUs, rank r of a machine with cuda:r",
               other, rank, gpus[rank].substr(gpus[rank].find('\n') + 1));
  }
}

std::string to_hex(const NcclUniqueId& id) {
  std::string text;
  for (const char byte : id.bytes) text += fmt::format("{:02x}", static_cast<uint8_t>(byte));
  return text;
}

NcclUniqueId from_hex(std::string_view text) {
  NcclUniqueId id{};
  if (text.size() != 2 * sizeof id.bytes) {
    throw fail(ErrorCode::kInternal, "rank 0 sent an id of NCCL of {} characters", text.size());
  }
  for (size_t i = 0; i < sizeof id.bytes; ++i) {
    id.bytes[i] = static_cast<char>(std::stoi(std::string(text.substr(2 * i, 2)), nullptr, 16));
  }
  return id;
}

// ncclCommInitRank() waits for the other ranks and cannot be told to stop, so it does so on a thread that is
// left behind when one of them is lost.
NcclHandle meet(const Device& device, const NcclUniqueId& id, Watchdog& watchdog) {
  struct Opening {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    int result = kNcclSuccess;
    std::string words;
    NcclHandle handle = nullptr;
  };
  auto opening = std::make_shared<Opening>();
  std::thread([opening, id, index = device.index, rank = watchdog.rank(), size = watchdog.size()] {
    const NcclLibrary& nccl = nccl_library();
    NcclHandle handle = nullptr;
    static_cast<void>(cudaSetDevice(index));  // an error of it is NCCL's next one
    const int result = nccl.comm_init_rank(&handle, size, id, rank);
    const std::lock_guard lock(opening->mutex);
    opening->result = result;
    opening->handle = handle;
    if (result != kNcclSuccess)
      opening->words = fmt::format("{} {}", nccl.get_error_string(result), nccl.get_last_error(nullptr));
    opening->done = true;
    opening->changed.notify_all();
  }).detach();

  std::unique_lock lock(opening->mutex);
  while (!opening->changed.wait_for(lock, milliseconds(100), [&] { return opening->done; })) watchdog.check();
  if (opening->result == kNcclSuccess) return opening->handle;
  throw fail(ErrorCode::kCuda, "NCCL could not connect rank {} of {} on {}: {}", watchdog.rank(),
             watchdog.size(), device.name, opening->words);
}

// Leaves a communicator, by ncclCommDestroy() or ncclCommAbort(), on a thread that nobody has to wait for:
// NCCL stays in there until the last captured graph with calls on it is destroyed, which may be never.
std::future<void> leave(int (*how)(NcclHandle), NcclHandle handle, int device) {
  std::packaged_task<void()> task([how, handle, device] {
    // What is left of the work, or of an error, is of no use to anybody any more.
    if (cudaSetDevice(device) == cudaSuccess) static_cast<void>(how(handle));
  });
  std::future<void> left = task.get_future();
  std::thread(std::move(task)).detach();
  return left;
}

class NcclComm final : public Comm {
 public:
  // Owns `handle` unless there is no watchdog: then it is somebody else's.
  NcclComm(const Device& device, int rank, int size, std::unique_ptr<Watchdog> watchdog, NcclHandle handle)
      : Comm("nccl", device, rank, size, std::move(watchdog)), handle_(handle), barrier_(device, 64) {
    const DeviceGuard guard(device);
    fill_on_device(barrier_.data(), 0, barrier_.bytes(), {});
    synchronize(Stream{});
    if (this->watchdog() == nullptr) return;
    watcher_ = std::thread([this] { watch(); });
  }

  ~NcclComm() override {
    if (!watcher_.joinable()) return;
    {
      const std::lock_guard lock(watch_mutex_);
      stopping_ = true;
    }
    stop_.notify_all();
    watcher_.join();
    const bool in_order = close();
    if (!left_.valid())
      left_ = leave(in_order ? nccl_.comm_destroy : nccl_.comm_abort, handle_, device().index);
    if (left_.wait_for(std::chrono::seconds(5)) == std::future_status::ready) return;
    log_message(
        LogLevel::kWarning,
        fmt::format("a captured graph still has calls on the communicator of rank {}, whose memory stays "
                    "until it is destroyed; graphs are to be destroyed before their Comm",
                    rank()));
  }

  size_t scratch_bytes(int64_t count, DType from, DType to) const noexcept override {
    return from == to ? 0 : static_cast<size_t>(count) * sizeof(float);
  }

 protected:
  void do_all_reduce(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count,
                     Scratch scratch, Stream stream) override {
    const Call call(*this, "all_reduce of {} {}", count, dtype_name(from_dtype));
    if (from_dtype == to_dtype) return sum_to_all(from, to, to_dtype, count, stream);
    // In f32, and rounded once.
    void* const sums = to_dtype == DType::kF32 ? to : scratch.data;
    if (from_dtype != DType::kF32) {
      convert_elements(from, from_dtype, sums, DType::kF32, count, stream);
      from = sums;
    }
    sum_to_all(from, sums, DType::kF32, count, stream);
    if (sums != to) convert_elements(sums, DType::kF32, to, to_dtype, count, stream);
  }

  void do_all_gather(const void* from, void* to, DType dtype, std::span<const int64_t> counts, Scratch,
                     Stream stream) override {
    const Call call(*this, "all_gather of {} {}", sum(counts), dtype_name(dtype));
    const int type = nccl_type(dtype);
    if (all_equal(counts)) {
      return must(nccl_.all_gather(from, to, static_cast<size_t>(counts[0]), type, handle_, stream.handle),
                  "all_gather");
    }
    in_group("all_gather", counts, [&](int root, int64_t offset, size_t count) {
      return nccl_.broadcast(from, at(to, offset, dtype), count, type, root, handle_, stream.handle);
    });
  }

  void do_reduce_scatter(const void* from, DType from_dtype, void* to, DType to_dtype,
                         std::span<const int64_t> counts, Scratch scratch, Stream stream) override {
    const int64_t total = sum(counts), own = counts[static_cast<size_t>(rank())];
    const Call call(*this, "reduce_scatter of {} {}", total, dtype_name(from_dtype));
    if (from_dtype == to_dtype) return sum_to_each(from, to, to_dtype, counts, stream);
    void* sums = scratch.data;
    if (from_dtype != DType::kF32) {
      convert_elements(from, from_dtype, scratch.data, DType::kF32, total, stream);
      from = scratch.data;
      sums = at(scratch.data, sum(counts.first(static_cast<size_t>(rank()))), DType::kF32);
    }
    sum_to_each(from, sums, DType::kF32, counts, stream);
    convert_elements(sums, DType::kF32, to, to_dtype, own, stream);
  }

  void do_broadcast(void* data, size_t bytes, int root, Stream stream) override {
    const Call call(*this, "broadcast of {} bytes from rank {}", bytes, root);
    must(nccl_.broadcast(data, data, bytes, kNcclUint8, root, handle_, stream.handle), "broadcast");
  }

  void do_barrier(Stream stream) override {
    const Call call(*this, "barrier");
    must(
        nccl_.all_reduce(barrier_.data(), barrier_.data(), 1, kNcclFloat32, kNcclSum, handle_, stream.handle),
        "barrier");
  }

  // Of a communicator that came without a watchdog: over itself.
  std::vector<std::string> do_gather_text(std::string_view text) override {
    if (watchdog() != nullptr) return Comm::do_gather_text(text);
    const auto ranks = static_cast<size_t>(size());
    const int64_t own = static_cast<int64_t>(text.size());
    std::vector<int64_t> lengths(ranks);
    gather_bytes(&own, lengths.data(), sizeof own);
    const auto longest = static_cast<size_t>(*std::max_element(lengths.begin(), lengths.end()));
    std::string padded(text), all(longest * ranks, '\0');
    padded.resize(longest);
    gather_bytes(padded.data(), all.data(), longest);
    std::vector<std::string> texts;
    for (size_t rank = 0; rank < ranks; ++rank)
      texts.push_back(all.substr(rank * longest, static_cast<size_t>(lengths[rank])));
    return texts;
  }

  void do_check() const override {
    if (watchdog() != nullptr) return Comm::do_check();
    int result = kNcclSuccess;
    if (nccl_.comm_get_async_error(handle_, &result) != kNcclSuccess) result = kNcclSuccess;
    if (failed(result)) throw fail(ErrorCode::kIo, "{}", words("communicator", result));
  }

 private:
  // One call on the communicator: nobody aborts it meanwhile, and the other ranks know what it is.
  class Call {
   public:
    template <typename... Values>
    Call(NcclComm& comm, fmt::format_string<Values...> format, Values&&... values)
        : lock_(comm.calls_), guard_(comm.device()) {
      Watchdog* const watchdog = comm.watchdog();
      if (watchdog == nullptr) return;
      watchdog->check();
      std::array<char, 96> text;
      const auto end = fmt::format_to_n(text.data(), text.size(), format, std::forward<Values>(values)...);
      watchdog->announce({text.data(), std::min(end.size, text.size())});
    }

   private:
    std::unique_lock<std::timed_mutex> lock_;
    DeviceGuard guard_;
  };

  static bool failed(int result) { return result != kNcclSuccess && result != kNcclInProgress; }

  std::string words(std::string_view what, int result) const {
    return fmt::format("rank {} on {}: NCCL's {} failed: {} {}", rank(), device().name, what,
                       nccl_.get_error_string(result), nccl_.get_last_error(handle_));
  }

  void must(int result, std::string_view what) {
    if (!failed(result)) return;
    const std::string text = words(what, result);
    if (watchdog() != nullptr) {
      watchdog()->check();  // who was lost says more than what that did to NCCL
      watchdog()->fail(text);
    }
    throw Error(ErrorCode::kIo, text);
  }

  void sum_to_all(const void* from, void* to, DType dtype, int64_t count, Stream stream) {
    must(nccl_.all_reduce(from, to, static_cast<size_t>(count), nccl_type(dtype), kNcclSum, handle_,
                          stream.handle),
         "all_reduce");
  }

  void sum_to_each(const void* from, void* to, DType dtype, std::span<const int64_t> counts, Stream stream) {
    const int type = nccl_type(dtype);
    if (all_equal(counts)) {
      return must(nccl_.reduce_scatter(from, to, static_cast<size_t>(counts[0]), type, kNcclSum, handle_,
                                       stream.handle),
                  "reduce_scatter");
    }
    in_group("reduce_scatter", counts, [&](int root, int64_t offset, size_t count) {
      return nccl_.reduce(at(from, offset, dtype), to, count, type, kNcclSum, root, handle_, stream.handle);
    });
  }

  // queue(rank, where its elements begin, how many) for every rank that has some, as one operation.
  template <typename Queue>
  void in_group(std::string_view what, std::span<const int64_t> counts, Queue&& queue) {
    must(nccl_.group_start(), what);
    int result = kNcclSuccess;
    int64_t offset = 0;
    for (size_t rank = 0; rank < counts.size(); ++rank) {
      if (counts[rank] > 0 && !failed(result))
        result = queue(static_cast<int>(rank), offset, static_cast<size_t>(counts[rank]));
      offset += counts[rank];
    }
    const int ended = nccl_.group_end();
    must(failed(result) ? result : ended, what);
  }

  void gather_bytes(const void* from, void* to, size_t bytes) {
    if (bytes == 0) return;
    const DeviceGuard guard(device());
    const DeviceMemory all(device(), bytes * static_cast<size_t>(size()));
    void* const own = static_cast<std::byte*>(all.data()) + bytes * static_cast<size_t>(rank());
    copy_to_device(own, from, bytes, {});
    must(nccl_.all_gather(own, all.data(), bytes, kNcclUint8, handle_, nullptr), "all_gather of a text");
    copy_to_host(to, all.data(), all.bytes(), {});
  }

  // On a thread of its own: a kernel of NCCL that waits for a dead rank ends when the communicator is
  // aborted, and NCCL tells of errors only who asks.
  void watch() {
    static_cast<void>(cudaSetDevice(device().index));
    std::unique_lock lock(watch_mutex_);
    while (!stop_.wait_for(lock, milliseconds(100), [this] { return stopping_; })) {
      int result = kNcclSuccess;
      if (!watchdog()->lost() && nccl_.comm_get_async_error(handle_, &result) == kNcclSuccess &&
          failed(result)) {
        // The end of a rank is an error of NCCL too, and which rank it was, the watchdog knows soon.
        for (int wait = 0; wait < 20 && !watchdog()->lost(); ++wait)
          std::this_thread::sleep_for(milliseconds(100));
        if (!watchdog()->lost()) watchdog()->fail(words("communicator", result));
      }
      if (watchdog()->lost()) return abort();
    }
  }

  void abort() {
    // A call that does not end by itself, as it waits for the lost rank, ends by this.
    const std::unique_lock lock(calls_, std::chrono::seconds(1));
    left_ = leave(nccl_.comm_abort, handle_, device().index);
  }

  const NcclLibrary& nccl_ = nccl_library();
  NcclHandle handle_;
  DeviceMemory barrier_;  // one f32
  std::timed_mutex calls_;
  std::future<void> left_;  // once somebody gave the communicator back; of the watcher, then the destructor
  std::mutex watch_mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread watcher_;
};

}  // namespace

std::unique_ptr<Comm> open_nccl_comm(const Device& device, std::unique_ptr<Watchdog> watchdog) {
  const NcclLibrary& nccl = nccl_library();
  refuse_shared_gpus(device, *watchdog);
  std::string own_id;
  if (watchdog->rank() == 0) {
    NcclUniqueId id{};
    if (const int result = nccl.get_unique_id(&id); result != kNcclSuccess) {
      throw fail(ErrorCode::kCuda, "NCCL has no address for the ranks to meet: {} {}",
                 nccl.get_error_string(result), nccl.get_last_error(nullptr));
    }
    own_id = to_hex(id);
  }
  const NcclUniqueId id = from_hex(watchdog->gather(own_id).front());
  const NcclHandle handle = meet(device, id, *watchdog);
  const int rank = watchdog->rank(), size = watchdog->size();
  auto comm = std::make_unique<NcclComm>(device, rank, size, std::move(watchdog), handle);
  // What cannot work fails here, and connections are made before the first graph is captured.
  comm->barrier();
  const DeviceGuard guard(device);
  synchronize(Stream{});
  comm->check();
  return comm;
}

std::unique_ptr<Comm> adopt_nccl_comm(const Device& device, void* nccl_comm) {
  const NcclLibrary& nccl = nccl_library();
  const auto handle = static_cast<NcclHandle>(nccl_comm);
  int rank = 0, size = 0, index = 0;
  if (handle == nullptr || nccl.comm_user_rank(handle, &rank) != kNcclSuccess ||
      nccl.comm_count(handle, &size) != kNcclSuccess || nccl.comm_cu_device(handle, &index) != kNcclSuccess) {
    throw fail(ErrorCode::kInvalidArgument, "{} is no communicator of the NCCL {} of this process", nccl_comm,
               nccl.version);
  }
  if (device.kind != DeviceKind::kCuda || device.index != index) {
    throw fail(ErrorCode::kInvalidArgument, "the communicator is of cuda:{}, and the Comm is to be on {}",
               index, device.name);
  }
  return std::make_unique<NcclComm>(device, rank, size, nullptr, handle);
}

}  // namespace anyfp8
