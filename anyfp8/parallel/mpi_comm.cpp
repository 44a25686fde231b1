#include "anyfp8/parallel/mpi_comm.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <numeric>
#include <thread>
#include <utility>

#include "anyfp8/base/element.h"
#include "anyfp8/base/float_mode.h"
#include "anyfp8/base/text.h"
#include "anyfp8/base/threads.h"

namespace anyfp8 {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWordsTag = 1, kDataTag = 2;
// A goodbye can overtake the last message; one that is not there after this time will not come.
constexpr std::chrono::seconds kGrace{2};
constexpr size_t kMostBytes = size_t{1} << 28;  // of one message of a gathering

// acc[i] += the elements of `from`; acc stays in the L1 cache.
void add(float* acc, const void* from, DType dtype, int64_t first, int64_t count) {
  switch (dtype) {
    case DType::kF32:
      for (int64_t i = 0; i < count; ++i) acc[i] += detail::load_at<float>(from, first + i);
      break;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) acc[i] += bf16_to_f32(detail::load_at<uint16_t>(from, first + i));
      break;
    default:
      for (int64_t i = 0; i < count; ++i) acc[i] += f16_to_f32(detail::load_at<uint16_t>(from, first + i));
  }
}

// to[i] = the sum of parts[rank][i] in the order of ranks.
void sum(std::span<const void* const> parts, DType from, void* to, DType to_dtype, int64_t count) {
  constexpr int64_t kBlock = 1024;
#pragma omp parallel for num_threads(num_threads()) if (count * static_cast <int64_t>(parts.size()) > 1 << 18)
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const DefaultFloatMode mode;
    const int64_t size = std::min(kBlock, count - begin);
    float acc[kBlock];
    for (int64_t i = 0; i < size; ++i) acc[i] = load_element(parts[0], from, begin + i);
    for (size_t rank = 1; rank < parts.size(); ++rank) add(acc, parts[rank], from, begin, size);
    for (int64_t i = 0; i < size; ++i) store_element(to, to_dtype, begin + i, acc[i]);
  }
}

const char* offset(const void* data, int64_t elements, size_t element) {
  return static_cast<const char*>(data) + elements * static_cast<int64_t>(element);
}
char* offset(void* data, int64_t elements, size_t element) {
  return static_cast<char*>(data) + elements * static_cast<int64_t>(element);
}

}  // namespace

MpiComm::MpiComm(const Anyfp8MpiTable& table, const Device& device, std::unique_ptr<Watchdog> watchdog)
    : Comm("mpi", device, table.rank, table.size, std::move(watchdog)), mpi_(table) {
  if (const char* error = mpi_.open(&comm_)) throw Error(ErrorCode::kIo, error);
  const auto ranks = static_cast<size_t>(size());
  pieces_.resize(ranks);
  theirs_.resize(ranks);
  counts_.resize(ranks);
  parts_.resize(ranks);
  requests_.resize(4 * ranks);
}

// Only who has nothing left to receive says goodbye: all leave together, but not out of an error.
MpiComm::~MpiComm() {
  try {
    std::fill(pieces_.begin(), pieces_.end(), Piece{});
    if (std::uncaught_exceptions() == 0 && !watchdog()->lost())
      exchange(next_call(Op::kLeave, DType::kU8, DType::kU8, 0));
  } catch (const Error&) {  // said by whom it concerns: the watchdog tells every rank
  }
  close();
}

size_t MpiComm::scratch_bytes(int64_t count, DType, DType) const noexcept {
  return static_cast<size_t>(size() - 1) * static_cast<size_t>(std::min(count, kRound)) * sizeof(float);
}

std::string MpiComm::words(const Call& call) {
  const auto type = [](int32_t dtype) { return dtype_name(static_cast<DType>(dtype)); };
  switch (call.op) {
    case Op::kAllReduce:
      return fmt::format("all_reduce of {} {} to {}", call.count, type(call.from), type(call.to));
    case Op::kReduceScatter:
      return fmt::format("reduce_scatter of {} {} to {}", call.count, type(call.from), type(call.to));
    case Op::kAllGather: return fmt::format("all_gather of {} {}", call.count, type(call.from));
    case Op::kBroadcast: return fmt::format("broadcast of {} bytes of rank {}", call.count, call.root);
    case Op::kTexts: return "a gathering of texts";
    case Op::kLeave: return "leaving";
    default: return "barrier";
  }
}

MpiComm::Call MpiComm::next_call(Op op, DType from, DType to, int64_t count, std::span<const int64_t> counts,
                                 int root) {
  Call call{++calls_, op,    static_cast<int32_t>(from), static_cast<int32_t>(to),
            root,     count, 14695981039346656037u};
  for (const int64_t each : counts)
    call.counts = (call.counts ^ static_cast<uint64_t>(each)) * 1099511628211u;
  return call;
}

void MpiComm::lose(std::string_view why) {
  mpi_.give_up(requests_.data(), static_cast<int>(posted_));
  watchdog()->fail(why);
  throw Error(ErrorCode::kIo, std::string(why));
}

void MpiComm::wait(size_t first, size_t count, const Call& call) {
  Clock::time_point gone_since{}, failed_since{};
  const char* error = nullptr;
  for (uint64_t turn = 0;; ++turn) {
    bool done = false;
    if (error == nullptr) error = mpi_.test(&requests_[first], static_cast<int>(count), &done);
    if (done) return;
    if (turn % 64 != 63 && error == nullptr) continue;
    if (watchdog()->lost()) {
      mpi_.give_up(requests_.data(), static_cast<int>(posted_));
      watchdog()->check();
    }
    const Clock::time_point now = Clock::now();
    // The watchdog will know better what MPI has noticed.
    if (error != nullptr && failed_since == Clock::time_point{}) failed_since = now;
    if (error != nullptr && now - failed_since > kGrace)
      lose(fmt::format("{} failed: {}", words(call), error));
    for (int rank = 0; rank < size(); ++rank) {
      if (rank == this->rank() || !watchdog()->gone(rank)) continue;
      if (gone_since == Clock::time_point{}) gone_since = now;
      if (now - gone_since > kGrace)
        lose(fmt::format("rank {} has ended, and rank {} waits for it in call {}, {}", rank, this->rank(),
                         call.number, words(call)));
    }
    std::this_thread::yield();  // there may be more ranks than cores
  }
}

void MpiComm::exchange(const Call& call) {
  const auto check = [&](const char* error) {
    if (error != nullptr) lose(fmt::format("{} failed: {}", words(call), error));
  };
  const size_t own = static_cast<size_t>(rank());
  const size_t ranks = pieces_.size(), words_end = 2 * (ranks - 1);
  posted_ = 0;
  call_ = call;
  for (size_t i = 1; i < ranks; ++i) {  // not all to the same rank first
    const size_t r = (own + i) % ranks;
    const auto other = static_cast<int>(r);
    check(mpi_.receive(comm_, &theirs_[r], sizeof(Call), other, kWordsTag, &requests_[posted_]));
    ++posted_;
    check(mpi_.send(comm_, &call_, sizeof(Call), other, kWordsTag, &requests_[posted_]));
    ++posted_;
  }
  for (size_t i = 1; i < ranks; ++i) {
    const size_t r = (own + i) % ranks;
    const auto other = static_cast<int>(r);
    const Piece& piece = pieces_[r];
    if (piece.receive_bytes > 0) {
      check(mpi_.receive(comm_, piece.receive, piece.receive_bytes, other, kDataTag, &requests_[posted_]));
      ++posted_;
    }
    if (piece.send_bytes > 0) {
      check(mpi_.send(comm_, piece.send, piece.send_bytes, other, kDataTag, &requests_[posted_]));
      ++posted_;
    }
  }
  wait(0, words_end, call);
  for (size_t r = 0; r < ranks; ++r) {
    if (r == own || theirs_[r] == call) continue;
    if (theirs_[r].op == Op::kLeave || call.op == Op::kLeave) {
      const size_t gone = call.op == Op::kLeave ? own : r, waits = call.op == Op::kLeave ? r : own;
      const Call& waiting = waits == own ? call : theirs_[r];
      lose(fmt::format("rank {} has ended, and rank {} waits for it in call {}, {}", gone, waits,
                       waiting.number, words(waiting)));
    }
    const bool first = own < r;
    const Call &low = first ? call : theirs_[r], &high = first ? theirs_[r] : call;
    const std::string_view how =
        low.op == high.op && low.count == high.count ? " with other counts or types" : "";
    lose(fmt::format("the ranks do different things: rank {} is at call {}, {}, rank {} at call {}, {}{}",
                     std::min(own, r), low.number, words(low), std::max(own, r), high.number, words(high),
                     how));
  }
  wait(words_end, posted_ - words_end, call);
}

void MpiComm::sum_pieces(const Call& call, const void* from, DType from_dtype, void* to, DType to_dtype,
                         std::span<const int64_t> counts, Scratch scratch) {
  const size_t element = dtype_bytes(from_dtype), own = static_cast<size_t>(rank());
  const int64_t longest = *std::max_element(counts.begin(), counts.end());
  for (int64_t begin = 0; begin < longest; begin += kRound) {
    const auto size_of = [&](size_t r) { return std::clamp<int64_t>(counts[r] - begin, 0, kRound); };
    int64_t place = 0;
    auto* received = static_cast<char*>(scratch.data);
    for (size_t r = 0; r < counts.size(); place += counts[r++]) {
      const void* theirs = offset(from, place + begin, element);
      if (r == own) {
        parts_[r] = theirs;
        continue;
      }
      const size_t bytes = static_cast<size_t>(size_of(own)) * element;
      pieces_[r] = {theirs, static_cast<size_t>(size_of(r)) * element, received, bytes};
      received += bytes;
    }
    exchange(call);
    for (size_t r = 0; r < counts.size(); ++r) {
      if (r != own) parts_[r] = pieces_[r].receive;
    }
    sum(parts_, from_dtype, offset(to, begin, dtype_bytes(to_dtype)), to_dtype, size_of(own));
  }
}

// `from` lies at its place in `to`, or is copied there.
void MpiComm::gather_pieces(const Call& call, const void* from, void* to, size_t element,
                            std::span<const int64_t> counts) {
  const size_t own = static_cast<size_t>(rank());
  const int64_t before = std::accumulate(counts.begin(), counts.begin() + rank(), int64_t{0});
  char* mine = offset(to, before, element);
  if (mine != from && counts[own] > 0) std::memmove(mine, from, static_cast<size_t>(counts[own]) * element);
  const int64_t round = static_cast<int64_t>(kMostBytes / element);
  const int64_t longest = *std::max_element(counts.begin(), counts.end());
  for (int64_t begin = 0; begin < longest; begin += round) {
    const auto bytes_of = [&](size_t r) {
      return static_cast<size_t>(std::clamp<int64_t>(counts[r] - begin, 0, round)) * element;
    };
    int64_t place = 0;
    for (size_t r = 0; r < counts.size(); place += counts[r++]) {
      pieces_[r] = {offset(mine, begin, element), bytes_of(own), offset(to, place + begin, element),
                    bytes_of(r)};
    }
    exchange(call);
  }
}

void MpiComm::do_all_reduce(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count,
                            Scratch scratch, Stream) {
  const Call call = next_call(Op::kAllReduce, from_dtype, to_dtype, count);
  if (count <= kAtOnce) {
    const size_t bytes = static_cast<size_t>(count) * dtype_bytes(from_dtype);
    auto* received = static_cast<char*>(scratch.data);
    for (size_t r = 0; r < pieces_.size(); ++r) {
      const bool own = r == static_cast<size_t>(rank());
      if (!own) pieces_[r] = {from, bytes, received, bytes};
      parts_[r] = own ? from : received;
      if (!own) received += bytes;
    }
    exchange(call);
    return sum(parts_, from_dtype, to, to_dtype, count);
  }
  for (int r = 0; r < size(); ++r) {
    const IndexRange part = static_split(count, 16, r, size());
    counts_[static_cast<size_t>(r)] = part.end - part.begin;
  }
  const int64_t before = static_split(count, 16, rank(), size()).begin;
  void* mine = offset(to, before, dtype_bytes(to_dtype));
  // A round writes what it has sent already, and only to this rank's own part; other parts are still to be
  // sent.
  sum_pieces(call, from, from_dtype, mine, to_dtype, counts_, scratch);
  gather_pieces(call, mine, to, dtype_bytes(to_dtype), counts_);
}

void MpiComm::do_all_gather(const void* from, void* to, DType dtype, std::span<const int64_t> counts, Scratch,
                            Stream) {
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  gather_pieces(next_call(Op::kAllGather, dtype, dtype, total, counts), from, to, dtype_bytes(dtype), counts);
}

void MpiComm::do_reduce_scatter(const void* from, DType from_dtype, void* to, DType to_dtype,
                                std::span<const int64_t> counts, Scratch scratch, Stream) {
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  sum_pieces(next_call(Op::kReduceScatter, from_dtype, to_dtype, total, counts), from, from_dtype, to,
             to_dtype, counts, scratch);
}

void MpiComm::do_broadcast(void* data, size_t bytes, int root, Stream) {
  const Call call = next_call(Op::kBroadcast, DType::kU8, DType::kU8, static_cast<int64_t>(bytes), {}, root);
  for (size_t begin = 0; begin < std::max<size_t>(bytes, 1); begin += kMostBytes) {
    const size_t size = std::min(bytes - begin, kMostBytes);
    char* part = static_cast<char*>(data) + begin;
    for (size_t r = 0; r < pieces_.size(); ++r) {
      pieces_[r] = {};
      if (rank() == root) pieces_[r] = {part, size, nullptr, 0};
      if (rank() != root && r == static_cast<size_t>(root)) pieces_[r] = {nullptr, 0, part, size};
    }
    exchange(call);
  }
}

void MpiComm::do_barrier(Stream) {
  std::fill(pieces_.begin(), pieces_.end(), Piece{});
  exchange(next_call(Op::kBarrier, DType::kU8, DType::kU8, 0));
}

std::vector<std::string> MpiComm::do_gather_text(std::string_view text) {
  std::fill(pieces_.begin(), pieces_.end(), Piece{});
  exchange(next_call(Op::kTexts, DType::kU8, DType::kU8, 0));
  return Comm::do_gather_text(text);
}

}  // namespace anyfp8
