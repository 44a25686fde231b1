#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "anyfp8/base/export.h"
#include "anyfp8/device/side_stream.h"
#include "anyfp8/linear/linear.h"
#include "anyfp8/parallel/comm.h"
#include "anyfp8/scheme/shard.h"

// A linear layer that lies on several ranks: each has a Linear over its shard (scheme/shard.h) and both
// classes add the communication. The same code for CPU and CUDA devices. create() is called by all ranks,
// which must agree; the Comm outlives the layer. apply() allocates nothing, may be captured in a CUDA graph,
// and takes its memory from the Workspace, of workspace_bytes(largest m).
namespace anyfp8 {

struct ParallelOptions {
  LinearOptions linear = {};  // of x and y of the parallel layer
  // Sequence parallel: between a row- and a column-parallel layer a rank has some of the tokens, those of
  // token_range(). ColumnParallelLinear gathers them, RowParallelLinear scatters their sums.
  bool sequence_parallel = false;
  // ColumnParallelLinear: y is [m, n] of all ranks, on all ranks, and not this rank's columns.
  bool gather_output = false;
  // RowParallelLinear: ranks' products are summed as f32 and rounded once; else each is rounded to the type
  // of y first, which is half of the bytes to send where that has 16 bits. Absent: f32 on CPUs; the type of y
  // on CUDA devices, whose fast kernels write no f32.
  std::optional<bool> reduce_in_f32 = {};
  // RowParallelLinear on a GPU: so many parts of m, the sums of one travel while the next is multiplied. 0:
  // as many as pay (overlap_plan.h).
  int64_t overlap_parts = 0;
};

// The tokens of m that a rank has in the sequence parallel form; none where there are fewer than ranks.
ANYFP8_API IndexRange token_range(int64_t m, int rank, int size) noexcept;

// What both have in common, for a row of layers that a caller walks through.
class ANYFP8_API ParallelLinear {
 public:
  virtual ~ParallelLinear() = default;
  // Enough for every m up to max_m, on every rank.
  virtual size_t workspace_bytes(int64_t max_m) const = 0;
  void apply(const TensorView& x, const TensorView& y, Workspace& workspace, Stream stream = {}) const {
    apply(x, y, workspace.scratch(), stream);
  }
  // The same with scratch memory of the caller's, as Linear::apply() takes it.
  virtual void apply(const TensorView& x, const TensorView& y, Scratch scratch, Stream stream = {}) const = 0;
  const Linear& linear() const noexcept { return linear_; }  // over this rank's shard

 protected:
  ParallelLinear(Comm& comm, Linear linear, const ParallelOptions& options);
  ParallelLinear(ParallelLinear&&) noexcept = default;
  ParallelLinear& operator=(ParallelLinear&&) noexcept = default;

  Comm* comm_;
  Linear linear_;
  ParallelOptions options_;
  mutable std::vector<int64_t> counts_;  // by rank, of the call under way
};

// y = x · Wᵀ + bias, each rank some of the outputs. A column of y has the bits that it has unsharded: on CPUs
// always, on CUDA devices with Policy::kInvariant (other policies cut k by how many outputs a rank has).
// Where outputs are on several ranks (kv heads), options.linear.whole_n must say how many there are.
class ANYFP8_API ColumnParallelLinear final : public ParallelLinear {
 public:
  // `shard`: this rank's rows of the weight, from shard(), shard_merged() or shard_qkv().
  static ColumnParallelLinear create(Comm& comm, Fp8Weight shard, const ParallelOptions& options = {},
                                     const SelectOptions& select = SelectOptions::from_environment(),
                                     Stream stream = {});
  // x [m, k], of sequence_parallel [this rank's tokens of m, k]; y [m, n_of_this_rank], of gather_output [m,
  // n]. m is y.rows.
  using ParallelLinear::apply;
  void apply(const TensorView& x, const TensorView& y, Scratch scratch, Stream stream = {}) const override;
  size_t workspace_bytes(int64_t max_m) const override;
  int64_t total_n() const noexcept { return total_n_; }  // of all ranks

 private:
  ColumnParallelLinear(Comm& comm, Linear linear, const ParallelOptions& options,
                       std::vector<int64_t> rank_n);
  std::vector<int64_t> rank_n_;  // outputs of each rank
  int64_t total_n_;
};

// y = x · Wᵀ + bias, each rank some of the inputs; sums in the order of the ranks.
class ANYFP8_API RowParallelLinear final : public ParallelLinear {
 public:
  // `shard`: this rank's columns of the weight, from shard() or slice(); one rank's has the bias.
  static RowParallelLinear create(Comm& comm, Fp8Weight shard, const ParallelOptions& options = {},
                                  const SelectOptions& select = SelectOptions::from_environment(),
                                  Stream stream = {});
  // x [m, k_of_this_rank]; y [m, n] without gaps between its rows, of sequence_parallel [this rank's tokens
  // of m, n]. m is x.rows.
  using ParallelLinear::apply;
  void apply(const TensorView& x, const TensorView& y, Scratch scratch, Stream stream = {}) const override;
  size_t workspace_bytes(int64_t max_m) const override;

 private:
  RowParallelLinear(Comm& comm, Linear linear, const ParallelOptions& options, int64_t largest_k);
  int64_t overlap_parts(int64_t m) const;
  void apply_in_parts(const TensorView& x, const TensorView& y, int64_t parts, Scratch scratch,
                      Stream stream) const;
  int64_t largest_k_;               // over the ranks
  std::optional<SideStream> side_;  // of several ranks on GPUs
};

}  // namespace anyfp8
