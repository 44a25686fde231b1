#pragma once

#include <cstdint>
#include <span>

#include "anyfp8/base/export.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/scheme/fp8_weight.h"

// A weight that is shared out over `size` ranks. Everything here is a pure function: every rank computes the
// same cuts without asking another. No scale changes its value: where a cut goes through a group, the group
// becomes finer and its scale is repeated.
namespace anyfp8 {

// How a layer is split, in the words of Megatron and vLLM.
enum class Split : uint8_t {
  kColumn,  // along n: a rank computes some of the outputs, from all of x
  kRow,     // along k: a rank has some of x, and the outputs are sums over the ranks
};

// What rank `rank` of `size` gets of n or k: contiguous, in the order of the ranks, nobody nothing. Cuts are
// at multiples of 128 where that keeps the largest share within 5 % of the even one, else of 64, 32, ... 1: a
// function of extent and size alone, so that the outputs of a column split are the inputs of the row split
// that follows, whatever the groups of both. Error(kInvalidArgument) for fewer elements than ranks.
ANYFP8_API IndexRange shard_range(int64_t extent, int rank, int size);

// The heads of attention that a rank gets. Whole kv heads with all their q heads where there are as many kv
// heads as ranks; else each kv head is on several ranks (replicated), which share out its q heads. On every
// rank the q heads fall into equal consecutive groups, one for each of its kv heads. Error(kInvalidArgument)
// for more ranks than q heads.
struct HeadShard {
  IndexRange q, kv;
};
ANYFP8_API HeadShard shard_heads(int64_t heads, int64_t kv_heads, int rank, int size);

// A part of a weight: outputs [begin, end) (kColumn) or inputs [begin, end) (kRow). Reads scales, and of the
// codes those of the part alone:
//   kColumn  nothing is copied but scales; the codes stay the mapped file
//   kRow     the part's codes are copied, since its rows do not lie side by side, and the file's pages given
//   back
// The bias goes with the outputs; of a row split the part that begins at 0 has it, so that a sum over all
// parts has it once. Error(kInvalidArgument) for an empty range or one outside of the weight.
ANYFP8_API Fp8Weight slice(const Fp8Weight& weight, Split split, IndexRange range);

// slice() of shard_range().
ANYFP8_API Fp8Weight shard(const Fp8Weight& weight, Split split, int rank, int size);

// The outputs of several ranges, stacked: slices of one weight, merged (scheme/merge.h).
ANYFP8_API Fp8Weight slice_columns(const Fp8Weight& weight, std::span<const IndexRange> ranges);

// kColumn of a weight that is several stacked along n, split part by part: gate/up is `part_rows` = {ffn,
// ffn}. Error(kInvalidArgument) when the parts do not add up to n.
ANYFP8_API Fp8Weight shard_merged(const Fp8Weight& weight, std::span<const int64_t> part_rows, int rank,
                                  int size);

// kColumn of fused q/k/v rows, [(heads + 2 kv_heads) head_dim, k], by shard_heads().
ANYFP8_API Fp8Weight shard_qkv(const Fp8Weight& weight, int64_t heads, int64_t kv_heads, int64_t head_dim,
                               int rank, int size);

}  // namespace anyfp8
