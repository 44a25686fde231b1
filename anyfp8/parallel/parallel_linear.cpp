#include "anyfp8/parallel/parallel_linear.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <numeric>
#include <utility>

#include "anyfp8/base/text.h"
#include "anyfp8/device/device_memory.h"
#include "anyfp8/parallel/overlap_plan.h"

namespace anyfp8 {
namespace {

// What cublasLtMatmul() wants of its workspace: what begins so in scratch memory goes on so. With 64 it
// refused layers of 16-bit weights behind a gathered x (CUBLAS_STATUS_INVALID_VALUE).
constexpr size_t kAlignment = scratch_alignment(DeviceKind::kCuda);

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Takes pieces off scratch memory; the rest is for whom it is passed on to.
class ScratchRest {
 public:
  explicit ScratchRest(Scratch scratch) : rest_(scratch) {}
  void* take(size_t bytes) {
    bytes = aligned(bytes);
    if (bytes == 0) return rest_.data;
    if (rest_.data == nullptr || rest_.bytes < bytes) {
      throw fail(
          ErrorCode::kInvalidArgument,
          "a parallel layer needs {} bytes more of workspace; reserve workspace_bytes(largest m) first",
          bytes);
    }
    void* taken = rest_.data;
    rest_ = {static_cast<char*>(rest_.data) + bytes, rest_.bytes - bytes};
    return taken;
  }
  Scratch rest() const { return rest_; }

 private:
  Scratch rest_;
};

void check_matrix(const TensorView& view, const char* name, int64_t rows, int64_t cols, DType dtype,
                  bool dense) {
  const bool fits = view.rows == rows && view.cols == cols && view.dtype == dtype &&
                    (view.data != nullptr || rows == 0) && (!dense || view.row_stride == cols || rows <= 1);
  if (fits) return;
  throw fail(ErrorCode::kInvalidArgument,
             "{} is {} [{}, {}] with row stride {}; this rank needs {} [{}, {}]{}", name,
             dtype_name(view.dtype), view.rows, view.cols, view.row_stride, dtype_name(dtype), rows, cols,
             dense ? " without gaps between the rows" : "");
}

// What all ranks' layers must have in common, in words.
std::string agreement(const char* kind, int64_t extent, const ParallelOptions& options, bool f32) {
  return fmt::format("{} {} {} to {}{}{}{}", kind, extent, dtype_name(options.linear.in),
                     dtype_name(options.linear.out), options.sequence_parallel ? " sequence parallel" : "",
                     options.gather_output ? " gathered" : "", f32 ? " reduced in f32" : "");
}

// Elements of each rank's tokens.
void share_tokens(int64_t m, int64_t each, std::vector<int64_t>& counts) {
  for (size_t rank = 0; rank < counts.size(); ++rank) {
    const IndexRange own = token_range(m, static_cast<int>(rank), static_cast<int>(counts.size()));
    counts[rank] = (own.end - own.begin) * each;
  }
}

// rows of row_bytes, in memory of `device`.
void copy_rows(const Device& device, void* to, size_t to_pitch, const void* from, size_t row_bytes,
               int64_t rows, Stream stream) {
  if (device.kind == DeviceKind::kCuda) {
    const DeviceGuard guard(device);
    return copy_rows_on_device(to, to_pitch, from, row_bytes, row_bytes, rows, stream);
  }
  for (int64_t row = 0; row < rows; ++row) {
    const auto r = static_cast<size_t>(row);
    std::memcpy(static_cast<char*>(to) + r * to_pitch, static_cast<const char*>(from) + r * row_bytes,
                row_bytes);
  }
}

size_t matrix_bytes(int64_t rows, int64_t cols, DType dtype) {
  return aligned(static_cast<size_t>(rows * cols) * dtype_bytes(dtype));
}

}  // namespace

IndexRange token_range(int64_t m, int rank, int size) noexcept { return static_split(m, 1, rank, size); }

ParallelLinear::ParallelLinear(Comm& comm, Linear linear, const ParallelOptions& options)
    : comm_(&comm),
      linear_(std::move(linear)),
      options_(options),
      counts_(static_cast<size_t>(comm.size())) {}

ColumnParallelLinear::ColumnParallelLinear(Comm& comm, Linear linear, const ParallelOptions& options,
                                           std::vector<int64_t> rank_n)
    : ParallelLinear(comm, std::move(linear), options),
      rank_n_(std::move(rank_n)),
      total_n_(std::accumulate(rank_n_.begin(), rank_n_.end(), int64_t{0})) {}

ColumnParallelLinear ColumnParallelLinear::create(Comm& comm, Fp8Weight shard, const ParallelOptions& options,
                                                  const SelectOptions& select, Stream stream) {
  comm.agree("layer", agreement("column-parallel, k =", shard.k(), options, false));
  std::vector<int64_t> rank_n;
  for (const std::string& text : comm.gather_text(fmt::to_string(shard.n()))) {
    std::from_chars(text.data(), text.data() + text.size(), rank_n.emplace_back());
  }
  LinearOptions own = options.linear;
  if (own.whole_n == 0) own.whole_n = std::accumulate(rank_n.begin(), rank_n.end(), int64_t{0});
  Linear linear = Linear::create(comm.device(), std::move(shard), own, select, stream);
  return ColumnParallelLinear(comm, std::move(linear), options, std::move(rank_n));
}

void ColumnParallelLinear::apply(const TensorView& x, const TensorView& y, Scratch scratch,
                                 Stream stream) const {
  if (comm_->size() == 1) return linear_.apply(x, y, scratch, stream);
  const LinearConfig& config = linear_.config();
  const auto own = static_cast<size_t>(comm_->rank());
  const int64_t m = y.rows;
  ScratchRest rest(scratch);
  TensorView all_x = x;
  if (options_.sequence_parallel) {
    share_tokens(m, config.k, counts_);
    check_matrix(x, "x", counts_[own] / config.k, config.k, config.in, true);
    all_x = {rest.take(matrix_bytes(m, config.k, config.in)), config.in, m, config.k, config.k};
    comm_->all_gather(x.data, all_x.data, config.in, counts_, rest.rest(), stream);
  }
  if (!options_.gather_output) return linear_.apply(all_x, y, rest.rest(), stream);

  check_matrix(y, "y", m, total_n_, config.out, false);
  // Rank by rank [m, n of the rank]; of one token that is y itself.
  const size_t element = dtype_bytes(config.out);
  void* blocks = m <= 1 ? y.data : rest.take(matrix_bytes(m, total_n_, config.out));
  std::transform(rank_n_.begin(), rank_n_.end(), counts_.begin(), [m](int64_t n) { return m * n; });
  const int64_t before = std::accumulate(counts_.begin(), counts_.begin() + comm_->rank(), int64_t{0});
  void* mine = static_cast<char*>(blocks) + static_cast<size_t>(before) * element;
  linear_.apply(all_x, {mine, config.out, m, config.n, config.n}, rest.rest(), stream);
  comm_->all_gather(mine, blocks, config.out, counts_, rest.rest(), stream);
  if (m <= 1) return;
  const auto* from = static_cast<const char*>(blocks);
  auto* to = static_cast<char*>(y.data);
  for (const int64_t n : rank_n_) {
    const size_t row_bytes = static_cast<size_t>(n) * element;
    copy_rows(comm_->device(), to, static_cast<size_t>(y.row_stride) * element, from, row_bytes, m, stream);
    from += row_bytes * static_cast<size_t>(m);
    to += row_bytes;
  }
}

size_t ColumnParallelLinear::workspace_bytes(int64_t max_m) const {
  const size_t own = linear_.workspace_bytes(max_m);
  if (comm_->size() == 1) return own;
  const LinearConfig& config = linear_.config();
  const bool sequence = options_.sequence_parallel, gather = options_.gather_output;
  return (sequence ? matrix_bytes(max_m, config.k, config.in) : 0) +
         (gather ? matrix_bytes(max_m, total_n_, config.out) : 0) +
         std::max({own, sequence ? comm_->scratch_bytes(max_m * config.k, config.in, config.in) : 0,
                   gather ? comm_->scratch_bytes(max_m * total_n_, config.out, config.out) : 0});
}

RowParallelLinear::RowParallelLinear(Comm& comm, Linear linear, const ParallelOptions& options,
                                     int64_t largest_k)
    : ParallelLinear(comm, std::move(linear), options), largest_k_(largest_k) {
  if (comm.size() > 1 && comm.device().kind == DeviceKind::kCuda) side_.emplace(comm.device());
}

RowParallelLinear RowParallelLinear::create(Comm& comm, Fp8Weight shard, const ParallelOptions& options,
                                            const SelectOptions& select, Stream stream) {
  const bool f32 = options.reduce_in_f32.value_or(comm.device().kind == DeviceKind::kCpu);
  comm.agree("layer", agreement("row-parallel, n =", shard.n(), options, f32));
  int64_t largest_k = 0;
  for (const std::string& text : comm.gather_text(fmt::to_string(shard.k()))) {
    int64_t k = 0;
    std::from_chars(text.data(), text.data() + text.size(), k);
    largest_k = std::max(largest_k, k);
  }
  const std::vector<std::string> biased = comm.gather_text(shard.bias.defined() ? "1" : "0");
  if (std::count(biased.begin(), biased.end(), "1") > 1) {
    throw fail(
        ErrorCode::kInvalidArgument,
        "the shards of several ranks have a bias, which would be added as often; shard() leaves it to one");
  }
  LinearOptions linear = options.linear;
  if (f32 && comm.size() > 1) linear.out = DType::kF32;
  Linear own = Linear::create(comm.device(), std::move(shard), linear, select, stream);
  return RowParallelLinear(comm, std::move(own), options, largest_k);
}

int64_t RowParallelLinear::overlap_parts(int64_t m) const {
  // Sums that go to other memory, and those of a CPU, which computes them itself, gain nothing.
  if (!side_ || options_.sequence_parallel || linear_.config().out != options_.linear.out) return 1;
  if (options_.overlap_parts > 0) return std::min(options_.overlap_parts, std::max<int64_t>(m, 1));
  return anyfp8::overlap_parts(m, linear_.config().n, largest_k_, comm_->size(), linear_.config().out,
                               comm_->device());
}

void RowParallelLinear::apply_in_parts(const TensorView& x, const TensorView& y, int64_t parts,
                                       Scratch scratch, Stream stream) const {
  const LinearConfig& config = linear_.config();
  const auto rows_of = [](const TensorView& whole, IndexRange rows) {
    TensorView part = whole;
    part.data = static_cast<char*>(whole.data) +
                static_cast<size_t>(rows.begin * whole.row_stride) * dtype_bytes(whole.dtype);
    part.rows = rows.end - rows.begin;
    return part;
  };
  const DeviceGuard guard(comm_->device());
  for (int64_t part = 0; part < parts; ++part) {
    constexpr int64_t kTokensOfTile = 128;
    const IndexRange rows =
        static_split(x.rows, kTokensOfTile, static_cast<int>(part), static_cast<int>(parts));
    if (rows.begin == rows.end) continue;
    const TensorView products = rows_of(y, rows);
    linear_.apply(rows_of(x, rows), products, scratch, stream);
    side_->wait_for(stream);
    // No scratch: that is what the products of the next part are using.
    comm_->all_reduce(products.data, config.out, products.data, config.out, products.rows * config.n, {},
                      side_->stream());
  }
  side_->let_wait(stream);
}

void RowParallelLinear::apply(const TensorView& x, const TensorView& y, Scratch scratch,
                              Stream stream) const {
  if (comm_->size() == 1) return linear_.apply(x, y, scratch, stream);
  const LinearConfig& config = linear_.config();
  const DType out = options_.linear.out;
  const int64_t m = x.rows;
  share_tokens(m, config.n, counts_);
  const int64_t rows =
      options_.sequence_parallel ? counts_[static_cast<size_t>(comm_->rank())] / config.n : m;
  check_matrix(y, "y", rows, config.n, out, true);
  ScratchRest rest(scratch);
  const bool in_place = !options_.sequence_parallel && config.out == out;
  if (const int64_t parts = overlap_parts(m); parts > 1)
    return apply_in_parts(x, y, parts, rest.rest(), stream);
  void* products = in_place ? y.data : rest.take(matrix_bytes(m, config.n, config.out));
  linear_.apply(x, {products, config.out, m, config.n, config.n}, rest.rest(), stream);
  if (options_.sequence_parallel) {
    comm_->reduce_scatter(products, config.out, y.data, out, counts_, rest.rest(), stream);
  } else {
    comm_->all_reduce(products, config.out, y.data, out, m * config.n, rest.rest(), stream);
  }
}

size_t RowParallelLinear::workspace_bytes(int64_t max_m) const {
  const size_t own = linear_.workspace_bytes(max_m);
  if (comm_->size() == 1) return own;
  const LinearConfig& config = linear_.config();
  const bool in_place = !options_.sequence_parallel && config.out == options_.linear.out;
  return (in_place ? 0 : matrix_bytes(max_m, config.n, config.out)) +
         std::max(own, comm_->scratch_bytes(max_m * config.n, config.out, options_.linear.out));
}

}  // namespace anyfp8
