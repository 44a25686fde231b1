#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "anyfp8/base/export.h"
#include "anyfp8/device/device.h"
#include "anyfp8/kernels/kernel.h"

namespace anyfp8 {

class Watchdog;

// The ranks that compute together, one process each, and what they do together. Every rank makes the same
// calls in the same order, with the sizes that belong together; one that does not, or dies, ends in an Error
// on every rank.
//
// Data lies on device(): host memory for MPI, memory of the GPU for NCCL. Buffers are contiguous. On a CPU a
// call returns when it is done; on a GPU its work is queued on `stream`, and may be captured in a graph. Sums
// are taken in fp32 in an order that does not change: the same call gives the same bits, on every rank.
// No memory for data is allocated: what a call needs besides is `scratch`, on device(), 64-byte aligned,
// of scratch_bytes().
//
// One call at a time, from one thread at a time. Errors:
//   kInvalidArgument  this rank's arguments are wrong; nothing was sent
//   kIo               a rank was lost or does something else: the text names it. Nothing can be done with
//   this Comm,
//                     and what the call wrote is worthless
class ANYFP8_API Comm {
 public:
  virtual ~Comm();  // says goodbye and waits for the other ranks' goodbye, or until one is lost
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  const Device& device() const noexcept { return device_; }
  std::string_view name() const noexcept { return name_; }  // "mpi", "nccl", "self"

  // Enough for any call from and to these types that moves up to `count` elements in all (the sum of
  // `counts`).
  virtual size_t scratch_bytes(int64_t count, DType from, DType to) const noexcept = 0;

  // to[i] = the sum of every rank's from[i], i < count. Types are f32, bf16 and f16; `to` may be `from` where
  // the types are one. The sum is rounded once, to to_dtype.
  void all_reduce(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count,
                  Scratch scratch, Stream stream = {});

  // Every rank's counts[rank] elements, in the order of ranks, to `to`. `from` may lie where it is to come to
  // in `to`.
  void all_gather(const void* from, void* to, DType dtype, std::span<const int64_t> counts, Scratch scratch,
                  Stream stream = {});

  // The sum over the ranks of from[the sum of counts]; rank r gets its counts[r] elements of that, in `to`.
  void reduce_scatter(const void* from, DType from_dtype, void* to, DType to_dtype,
                      std::span<const int64_t> counts, Scratch scratch, Stream stream = {});

  // Bytes of rank `root` to every rank.
  void broadcast(void* data, size_t bytes, int root, Stream stream = {});

  // No rank comes out before all have come in (on a GPU: no rank's stream).
  void barrier(Stream stream = {});

  // Small texts over the side channel, on any device; for creation, not for the hot path.
  // gather_text: every rank's, by rank. agree: Error(kInvalidArgument), the same on every rank and naming two
  // that differ, unless all have the same `value` of `what`.
  std::vector<std::string> gather_text(std::string_view text);
  void agree(std::string_view what, std::string_view value);

  // Error(kIo) once a rank is lost: for long work that makes no call.
  void check() const;
  // This rank gives up: the others end with its reason.
  void abandon(std::string_view reason) noexcept;

 protected:
  Comm(std::string_view name, Device device, int rank, int size, std::unique_ptr<Watchdog> watchdog);
  // Null for one rank, and for an engine that overrides do_gather_text() and do_check().
  Watchdog* watchdog() const noexcept { return watchdog_.get(); }
  // To be called first by the destructor of an engine: the goodbye. True when every rank went in order, so
  // that an engine may take its own leave of the others.
  bool close() noexcept;

  // The calls, with checked arguments and size > 1. counts has size() entries; `total` is their sum.
  virtual void do_all_reduce(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count,
                             Scratch scratch, Stream stream) = 0;
  virtual void do_all_gather(const void* from, void* to, DType dtype, std::span<const int64_t> counts,
                             Scratch scratch, Stream stream) = 0;
  virtual void do_reduce_scatter(const void* from, DType from_dtype, void* to, DType to_dtype,
                                 std::span<const int64_t> counts, Scratch scratch, Stream stream) = 0;
  virtual void do_broadcast(void* data, size_t bytes, int root, Stream stream) = 0;
  virtual void do_barrier(Stream stream) = 0;
  virtual std::vector<std::string> do_gather_text(std::string_view text);
  virtual void do_check() const;

 private:
  std::string name_;
  Device device_;
  int rank_, size_;
  std::unique_ptr<Watchdog> watchdog_;
};

struct CommOptions {
  // Called once on a thread of the library's when a rank is lost, with the reason; may end the process.
  // Without it the next call, or the one that waits, throws that reason.
  std::function<void(std::string_view reason)> on_lost = {};
};

// The ranks this process was launched with (launch_from_environment()), on `device`:
//   started alone        one rank, every call a copy
//   CPU                  MPI, by the module libanyfp8_mpi.so; launched by mpirun or srun
//   CUDA                 NCCL; launched by torchrun, mpirun or srun, one GPU a rank
// Error(kUnsupported) says what is missing, and what to install. All ranks call it.
// ANYFP8_COMM_TIMEOUT=seconds: how long a rank may not be heard of (default 20; 0 for ever, to debug one).
ANYFP8_API std::unique_ptr<Comm> open_comm(const Device& device, const CommOptions& options = {});

// One rank: for tests and programs that know no other.
ANYFP8_API std::unique_ptr<Comm> self_comm(const Device& device);

}  // namespace anyfp8
