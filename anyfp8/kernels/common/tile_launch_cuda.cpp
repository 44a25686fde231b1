#include "anyfp8/kernels/common/tile_launch.h"

#include <algorithm>
#include <atomic>

#include "anyfp8/device/check_cuda.h"
#include "anyfp8/kernels/common/fused_launch.h"
#include "anyfp8/kernels/common/k64_shuffle.h"

namespace anyfp8::tile {
namespace {

const void* kernel_of(Family family, const Operands& o, ShapeId shape) {
  const bool bf16 = o.half == Half::kBF16;
  switch (family) {
    case Family::kSm75: return bf16 ? nullptr : kernel_sm75_f16(o.code, o.scaling, shape);
    case Family::kSm80: return (bf16 ? kernel_sm80_bf16 : kernel_sm80_f16)(o.code, o.scaling, shape);
    default: return (bf16 ? kernel_sm90_bf16 : kernel_sm90_f16)(o.code, o.scaling, shape);
  }
}

const void* ready(Family family, const Operands& o, ShapeId shape) {
  static std::atomic<uint64_t> devices[3][2][2][kScalings][kShapeCount];
  return ready_kernel(kernel_of(family, o, shape), shared_bytes(kShapes[shape], family),
                      devices[static_cast<int>(family)][static_cast<int>(o.half)][static_cast<int>(o.code)]
                             [static_cast<int>(o.scaling)][shape]);
}

// Queues the work of `plan` on the current device.
void launch(const Plan& plan, Family family, const Operands& operands, TileArguments arguments,
            Stream stream) {
  const auto shares = [](int64_t all, int64_t blocks) {
    return Shares{static_cast<int>(all / blocks), static_cast<int>(all % blocks)};
  };
  const int64_t unit = std::max(1, 128 / kShapes[plan.shape].depth());
  arguments.tiles = shares(plan.tiles, plan.blocks);
  arguments.units = shares((plan.steps + unit - 1) / unit, plan.splits);
  arguments.token_tiles = static_cast<int>(plan.token_tiles);
  arguments.steps = static_cast<int>(plan.steps);
  arguments.splits = plan.splits;

  const bool hopper = family >= Family::kSm90;  // or newer; before it parts meet in scratch memory
  launch_fused({.kernel = ready(family, operands, plan.shape),
                .blocks = plan.blocks,
                .threads = kShapes[plan.shape].threads(),
                .shared_bytes = shared_bytes(kShapes[plan.shape], family),
                .cluster = hopper ? plan.splits : 1,
                .overlaps = hopper},
               &arguments, stream);
}

}  // namespace

void prepare(const Card& card, const LinearConfig& config) {
  const Operands operands = operands_of(config);
  for (int id = 0; id < kShapeCount; ++id) {
    const auto shape = static_cast<ShapeId>(id);
    if (has_shape(card.family, operands, shape)) ready(card.family, operands, shape);
  }
}

void apply(const Card& card, const PlacedWeight& weight, const TensorView& x, const TensorView& y,
           Scratch scratch, Stream stream) {
  const LinearConfig& c = weight.config;
  const QuantKey& key = c.scheme.weight;
  const Operands operands = operands_of(c);
  Problem problem{c.n, c.k, x.rows, operands, c.policy == Policy::kInvariant, c.whole_n};

  TileArguments arguments{};
  arguments.weight = static_cast<const uint8_t*>(weight.data);
  arguments.pitch = shuffled_pitch(c.k);
  arguments.x_stride = x.row_stride;
  arguments.y_stride = y.row_stride;
  arguments.scale = weight.scale;
  arguments.bias = weight.bias;
  arguments.n = static_cast<int>(c.n);
  arguments.k = static_cast<int>(c.k);
  arguments.group_rows = key.group.rows;
  arguments.scale_columns = static_cast<int>(weight.grid.cols);
  arguments.max_scale = weight.max_scale;
  arguments.scale_e8m0 = key.scale_dtype == DType::kE8M0;
  arguments.scale_fours =
      arguments.scale_columns % 4 == 0 && reinterpret_cast<uintptr_t>(weight.scale) % 4 == 0;
  arguments.x_aligned = begins_at_multiples_of(16, x);
  arguments.y_pairs = begins_at_multiples_of(4, y);
  arguments.y_fours = begins_at_multiples_of(8, y);

  constexpr int64_t kMostAtOnce = int64_t{1} << 24;  // tokens are counted in 32 bits
  const int64_t at_once = std::min(tokens_at_once(make_plan(problem, card), card), kMostAtOnce);
  for (int64_t first = 0; first < x.rows; first += at_once) {
    problem.m = std::min(at_once, x.rows - first);
    const Plan plan = make_plan(problem, card);
    arguments.m = static_cast<int>(problem.m);
    arguments.x = static_cast<const uint16_t*>(x.data) + first * x.row_stride;
    arguments.y = static_cast<uint16_t*>(y.data) + first * y.row_stride;
    arguments.arrived = static_cast<uint32_t*>(scratch.data);
    arguments.partials = reinterpret_cast<float*>(static_cast<char*>(scratch.data) + plan.counter_bytes);
    if (plan.counter_bytes > 0) {
      ANYFP8_CUDA_CHECK(
          cudaMemsetAsync(scratch.data, 0, plan.counter_bytes, static_cast<cudaStream_t>(stream.handle)));
    }
    launch(plan, card.family, operands, arguments, stream);
  }
}

}  // namespace anyfp8::tile
