#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "anyfp8/c_api_arguments.h"
#include "anyfp8/parallel/launch.h"
#include "anyfp8/parallel/nccl_comm.h"
#include "anyfp8/parallel/parallel_linear.h"

struct anyfp8_comm {
  std::shared_ptr<anyfp8::Comm> value;
};
struct anyfp8_parallel_linear {
  std::shared_ptr<anyfp8::Comm> comm;  // given back after the layer
  anyfp8::ParallelOptions options;
  std::variant<anyfp8::ColumnParallelLinear, anyfp8::RowParallelLinear> value;

  const anyfp8::Linear& linear() const {
    return std::visit([](const auto& layer) -> const anyfp8::Linear& { return layer.linear(); }, value);
  }
  const anyfp8::ColumnParallelLinear* column() const {
    return std::get_if<anyfp8::ColumnParallelLinear>(&value);
  }
  // Of y.
  int64_t y_cols() const {
    return column() != nullptr && options.gather_output ? column()->total_n() : linear().config().n;
  }
};

namespace anyfp8 {
namespace {

Split split_from_c(int32_t split) {
  if (split == ANYFP8_SPLIT_COLUMN) return Split::kColumn;
  if (split == ANYFP8_SPLIT_ROW) return Split::kRow;
  throw fail(ErrorCode::kInvalidArgument, "split = {}; 1 is by columns (n), 2 by rows (k)", split);
}

bool flag(int32_t value, std::string_view name) {
  if (value != 0 && value != 1)
    throw fail(ErrorCode::kInvalidArgument, "parallel.{} = {}; it is 0 or 1", name, value);
  return value == 1;
}

struct ParallelArguments {
  Split split;
  ParallelOptions options;
};

ParallelArguments parallel_from_c(const anyfp8_parallel_options* given, const LinearOptions& linear) {
  constexpr size_t kFirstBytes = 24;  // of the struct as it was first published
  const anyfp8_parallel_options options = read_struct(given, kFirstBytes, "parallel");
  ParallelArguments result{split_from_c(options.split), {.linear = linear}};
  result.options.sequence_parallel = flag(options.sequence_parallel, "sequence_parallel");
  result.options.gather_output = flag(options.gather_output, "gather_output");
  if (options.reduce < 0 || options.reduce > 2) {
    throw fail(ErrorCode::kInvalidArgument,
               "parallel.reduce = {}; 0 is the default, 1 sums of f32, 2 of the type of y", options.reduce);
  }
  if (options.reduce != 0) result.options.reduce_in_f32 = options.reduce == 1;
  if (result.split == Split::kRow && result.options.gather_output) {
    throw fail(ErrorCode::kInvalidArgument,
               "gather_output is of a column split; every rank has all outputs of a row split");
  }
  return result;
}

Comm& comm_of(anyfp8_comm* comm) { return *need(comm, "comm").value; }
const Comm& comm_of(const anyfp8_comm* comm) { return *need(comm, "comm").value; }

std::span<const int64_t> counts_of(const Comm& comm, const int64_t* counts) {
  return {&need(counts, "counts"), static_cast<size_t>(comm.size())};
}

Json comm_json(const Comm& comm) {
  return {{"engine", comm.name()},
          {"rank", comm.rank()},
          {"size", comm.size()},
          {"device",
           comm.device().kind == DeviceKind::kCpu ? "cpu" : fmt::format("cuda:{}", comm.device().index)}};
}

void give_range(IndexRange range, int64_t* begin, int64_t* end) {
  need(begin, "begin") = range.begin;
  need(end, "end") = range.end;
}

}  // namespace
}  // namespace anyfp8

using namespace anyfp8;

int anyfp8_shard_range(int64_t extent, int32_t rank, int32_t size, int64_t* begin, int64_t* end) {
  return guarded([&] { give_range(shard_range(extent, rank, size), begin, end); });
}

int anyfp8_weight_shard(const anyfp8_weight* weight, int32_t split, int32_t rank, int32_t size,
                        anyfp8_weight** shard) {
  return give(shard, "shard", [&] {
    return new anyfp8_weight{anyfp8::shard(need(weight, "weight").value, split_from_c(split), rank, size)};
  });
}

int anyfp8_weight_shard_merged(const anyfp8_weight* weight, const int64_t* part_rows, size_t count,
                               int32_t rank, int32_t size, anyfp8_weight** shard) {
  return give(shard, "shard", [&] {
    return new anyfp8_weight{
        shard_merged(need(weight, "weight").value, {&need(part_rows, "part_rows"), count}, rank, size)};
  });
}

int anyfp8_weight_shard_qkv(const anyfp8_weight* weight, int64_t heads, int64_t kv_heads, int64_t head_dim,
                            int32_t rank, int32_t size, anyfp8_weight** shard) {
  return give(shard, "shard", [&] {
    return new anyfp8_weight{shard_qkv(need(weight, "weight").value, heads, kv_heads, head_dim, rank, size)};
  });
}

int anyfp8_launched_as(int32_t* rank, int32_t* size, int32_t* local_rank) {
  return guarded([&] {
    const Launch launch = launch_from_environment();
    if (rank != nullptr) *rank = launch.rank;
    if (size != nullptr) *size = launch.size;
    if (local_rank != nullptr) *local_rank = launch.local_rank;
  });
}

int anyfp8_comm_open(const anyfp8_device* device, anyfp8_lost_callback on_lost, void* user,
                     anyfp8_comm** comm) {
  return give(comm, "comm", [&] {
    CommOptions options;
    if (on_lost != nullptr) {
      options.on_lost = [on_lost, user](std::string_view reason) {
        on_lost(std::string(reason).c_str(), user);
      };
    }
    return new anyfp8_comm{open_comm(need(device, "device").value, options)};
  });
}

int anyfp8_comm_adopt_nccl(const anyfp8_device* device, void* nccl_comm, anyfp8_comm** comm) {
  return give(comm, "comm", [&] {
    return new anyfp8_comm{
        adopt_nccl_comm(need(device, "device").value, &need(static_cast<char*>(nccl_comm), "nccl_comm"))};
  });
}

int anyfp8_comm_json(const anyfp8_comm* comm, char** json) {
  return give(json, "json", [&] { return new_json(comm_json(comm_of(comm))); });
}

int anyfp8_comm_rank(const anyfp8_comm* comm, int32_t* rank, int32_t* size) {
  return guarded([&] {
    need(rank, "rank") = comm_of(comm).rank();
    need(size, "size") = comm_of(comm).size();
  });
}

int anyfp8_comm_check(const anyfp8_comm* comm) {
  return guarded([&] { comm_of(comm).check(); });
}

int anyfp8_comm_scratch_bytes(const anyfp8_comm* comm, int64_t count, int32_t from_dtype, int32_t to_dtype,
                              size_t* bytes) {
  return guarded([&] {
    need(bytes, "bytes") = comm_of(comm).scratch_bytes(count, dtype_from_c(from_dtype, "from_dtype"),
                                                       dtype_from_c(to_dtype, "to_dtype"));
  });
}

int anyfp8_comm_all_reduce(anyfp8_comm* comm, const void* from, int32_t from_dtype, void* to,
                           int32_t to_dtype, int64_t count, void* scratch, size_t scratch_bytes,
                           void* stream) {
  return guarded([&] {
    comm_of(comm).all_reduce(from, dtype_from_c(from_dtype, "from_dtype"), to,
                             dtype_from_c(to_dtype, "to_dtype"), count, {scratch, scratch_bytes},
                             Stream{stream});
  });
}

int anyfp8_comm_all_gather(anyfp8_comm* comm, const void* from, void* to, int32_t dtype,
                           const int64_t* counts, void* scratch, size_t scratch_bytes, void* stream) {
  return guarded([&] {
    comm_of(comm).all_gather(from, to, dtype_from_c(dtype, "dtype"), counts_of(comm_of(comm), counts),
                             {scratch, scratch_bytes}, Stream{stream});
  });
}

int anyfp8_comm_reduce_scatter(anyfp8_comm* comm, const void* from, int32_t from_dtype, void* to,
                               int32_t to_dtype, const int64_t* counts, void* scratch, size_t scratch_bytes,
                               void* stream) {
  return guarded([&] {
    comm_of(comm).reduce_scatter(from, dtype_from_c(from_dtype, "from_dtype"), to,
                                 dtype_from_c(to_dtype, "to_dtype"), counts_of(comm_of(comm), counts),
                                 {scratch, scratch_bytes}, Stream{stream});
  });
}

int anyfp8_comm_broadcast(anyfp8_comm* comm, void* data, size_t bytes, int32_t root, void* stream) {
  return guarded([&] { comm_of(comm).broadcast(data, bytes, root, Stream{stream}); });
}

int anyfp8_comm_barrier(anyfp8_comm* comm, void* stream) {
  return guarded([&] { comm_of(comm).barrier(Stream{stream}); });
}

void anyfp8_comm_free(anyfp8_comm* comm) { delete comm; }

int anyfp8_token_range(int64_t m, int32_t rank, int32_t size, int64_t* begin, int64_t* end) {
  return guarded([&] {
    if (m < 0 || size < 1 || rank < 0 || rank >= size) {
      throw fail(ErrorCode::kInvalidArgument, "m = {}, rank {} of {}: m is 0 or more, and ranks are 0 to {}",
                 m, rank, size, size - 1);
    }
    give_range(token_range(m, rank, size), begin, end);
  });
}

int anyfp8_parallel_linear_create(anyfp8_comm* comm, const anyfp8_weight* shard,
                                  const anyfp8_parallel_options* parallel,
                                  const anyfp8_linear_options* options, void* stream,
                                  anyfp8_parallel_linear** linear) {
  return give(linear, "linear", [&] {
    Comm& ranks = comm_of(comm);
    const CreateOptions create = options_from_c(options);
    const auto [split, form] = parallel_from_c(parallel, create.linear);
    const Fp8Weight& weight = need(shard, "shard").value;
    if (split == Split::kColumn) {
      return new anyfp8_parallel_linear{
          comm->value, form,
          ColumnParallelLinear::create(ranks, weight, form, create.select, Stream{stream})};
    }
    return new anyfp8_parallel_linear{
        comm->value, form, RowParallelLinear::create(ranks, weight, form, create.select, Stream{stream})};
  });
}

int anyfp8_parallel_linear_apply(const anyfp8_parallel_linear* linear, const void* x, int64_t x_row_stride,
                                 void* y, int64_t y_row_stride, int64_t m, void* scratch,
                                 size_t scratch_bytes, void* stream) {
  return guarded([&] {
    const anyfp8_parallel_linear& layer = need(linear, "linear");
    const LinearConfig& config = layer.linear().config();
    const Comm& comm = *layer.comm;
    const IndexRange own = token_range(m, comm.rank(), comm.size());
    const int64_t tokens = layer.options.sequence_parallel ? own.end - own.begin : m;
    const bool column = layer.column() != nullptr;
    // The view of x is of memory that apply() only reads.
    const TensorView x_view{const_cast<void*>(x), config.in, column ? tokens : m, config.k, x_row_stride};
    // Not config.out, which is f32 where a row split is summed in it.
    const TensorView y_view{y, layer.options.linear.out, column ? m : tokens, layer.y_cols(), y_row_stride};
    std::visit(
        [&](const auto& each) {
          each.apply(x_view, y_view, Scratch{scratch, scratch_bytes}, Stream{stream});
        },
        layer.value);
  });
}

int anyfp8_parallel_linear_workspace_bytes(const anyfp8_parallel_linear* linear, int64_t max_m,
                                           size_t* bytes) {
  return guarded([&] {
    need(bytes, "bytes") = std::visit([&](const auto& layer) { return layer.workspace_bytes(max_m); },
                                      need(linear, "linear").value);
  });
}

int anyfp8_parallel_linear_shape(const anyfp8_parallel_linear* linear, int64_t* x_cols, int64_t* y_cols) {
  return guarded([&] {
    need(x_cols, "x_cols") = need(linear, "linear").linear().config().k;
    need(y_cols, "y_cols") = linear->y_cols();
  });
}

int anyfp8_parallel_linear_explain(const anyfp8_parallel_linear* linear, char** text) {
  return give(text, "text", [&] { return new_text(need(linear, "linear").linear().selection().explain()); });
}

int anyfp8_parallel_linear_resident_bytes(const anyfp8_parallel_linear* linear, size_t* bytes) {
  return guarded([&] { need(bytes, "bytes") = need(linear, "linear").linear().resident_bytes(); });
}

void anyfp8_parallel_linear_free(anyfp8_parallel_linear* linear) { delete linear; }
