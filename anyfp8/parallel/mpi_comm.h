#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "anyfp8/parallel/comm.h"
#include "anyfp8/parallel/launch.h"
#include "anyfp8/parallel/mpi_table.h"
#include "anyfp8/parallel/watchdog.h"

namespace anyfp8 {

// MPI as the module has it, started; found once and kept. It lies beside this library or program, in ../lib
// of it, where ANYFP8_MPI_MODULE says, or where the system looks for libraries. Error(kUnsupported) when it
// is not there (with what to install), cannot be opened, or sees other ranks than the launcher says.
const Anyfp8MpiTable& mpi_table(const Launch& launch);

// The ranks' words on where to meet, then the watchdog on TCP: for every engine that mpirun or srun launches.
// At the process's end MPI is finalized if all who met so left in order.
std::unique_ptr<Watchdog> meet_by_mpi(const Anyfp8MpiTable& mpi, WatchdogOptions options);

// Comm on MPI, by messages between every two ranks: sums are added here, in the order of ranks, and each
// message goes along with what its sender is doing.
class MpiComm final : public Comm {
 public:
  // Elements of one message of a sum; what is longer goes in rounds, so scratch does not grow with it and
  // what was received is still in the L2 cache when it is added.
  static constexpr int64_t kRound = 1 << 16;
  // Up to here every rank gets everything and adds all itself: one exchange instead of two.
  static constexpr int64_t kAtOnce = 1 << 12;

  MpiComm(const Anyfp8MpiTable& table, const Device& device, std::unique_ptr<Watchdog> watchdog);
  ~MpiComm() override;
  size_t scratch_bytes(int64_t count, DType from, DType to) const noexcept override;

 protected:
  void do_all_reduce(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count,
                     Scratch scratch, Stream stream) override;
  void do_all_gather(const void* from, void* to, DType dtype, std::span<const int64_t> counts,
                     Scratch scratch, Stream stream) override;
  void do_reduce_scatter(const void* from, DType from_dtype, void* to, DType to_dtype,
                         std::span<const int64_t> counts, Scratch scratch, Stream stream) override;
  void do_broadcast(void* data, size_t bytes, int root, Stream stream) override;
  void do_barrier(Stream stream) override;
  // By the watchdog, once all ranks do this: who waits there is not seen by who waits for a message.
  std::vector<std::string> do_gather_text(std::string_view text) override;

 private:
  // What a rank is doing, sent along with all it sends. Ranks whose words differ do different things.
  enum class Op : int32_t { kAllReduce, kAllGather, kReduceScatter, kBroadcast, kBarrier, kTexts, kLeave };
  struct Call {
    uint64_t number;  // of this Comm, so that ranks that lag behind by one are told apart
    Op op;
    int32_t from, to;  // DType
    int32_t root;
    int64_t count;    // in all
    uint64_t counts;  // a hash of the list of counts
    bool operator==(const Call&) const = default;
  };
  struct Piece {
    const void* send = nullptr;
    size_t send_bytes = 0;
    void* receive = nullptr;
    size_t receive_bytes = 0;
  };
  static std::string words(const Call& call);

  Call next_call(Op op, DType from, DType to, int64_t count, std::span<const int64_t> counts = {},
                 int root = 0);
  // pieces_[r] to and from every other rank r, with `call`. The one way in which data moves.
  void exchange(const Call& call);
  void wait(size_t first, size_t count, const Call& call);  // of requests_
  // Every rank ends with this, this one with an Error.
  [[noreturn]] void lose(std::string_view why);
  void sum_pieces(const Call& call, const void* from, DType from_dtype, void* to, DType to_dtype,
                  std::span<const int64_t> counts, Scratch scratch);
  void gather_pieces(const Call& call, const void* from, void* to, size_t element,
                     std::span<const int64_t> counts);

  const Anyfp8MpiTable& mpi_;
  void* comm_ = nullptr;
  uint64_t calls_ = 0;
  Call call_{};  // being sent
  // By rank, made once.
  std::vector<Piece> pieces_;
  std::vector<Call> theirs_;
  std::vector<int64_t> counts_;
  std::vector<const void*> parts_;
  std::vector<Anyfp8MpiRequest> requests_;
  size_t posted_ = 0;  // of requests_, by the call under way
};

}  // namespace anyfp8
