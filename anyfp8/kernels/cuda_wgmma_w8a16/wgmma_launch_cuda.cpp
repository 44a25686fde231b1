#include <cuda.h>
#include <cudaTypedefs.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "anyfp8/base/error.h"
#include "anyfp8/device/check_cuda.h"
#include "anyfp8/kernels/common/fused_launch.h"
#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/kernels/common/tile_plan.h"
#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_arguments.h"
#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_launch.h"

namespace anyfp8::wgmma {
namespace {

// The driver's function, which the runtime finds: nothing links against the driver.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    ANYFP8_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                       cudaEnableDefault, &result));
    if (result != cudaDriverEntryPointSuccess) {
      throw Error(
          ErrorCode::kCuda,
          "the driver has no cuTensorMapEncodeTiled, which cuda_wgmma_w8a16 needs: install one of CUDA "
          "12.0 or newer, or disable the kernel");
    }
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encode;
}

// Boxes of 128 bytes x `box_rows` of a row-major matrix, swizzled as the kernel reads them. Pure arithmetic
// on the host: what it says is passed to the kernel by value. What lies outside of the matrix is read as
// zero.
CUtensorMap boxes_of(CUtensorMapDataType type, int element_bytes, const void* data, int64_t rows,
                     int64_t columns, int64_t row_bytes, int box_rows) {
  CUtensorMap map;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(row_bytes)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(128 / element_bytes), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t every[] = {1, 1};
  const CUresult result = encoder()(&map, type, 2, const_cast<void*>(data), sizes, strides, box, every,
                                    CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                    CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw Error(ErrorCode::kCuda,
                fmt::format("cuTensorMapEncodeTiled refused a matrix of [{}, {}] elements of {} bytes, "
                            "rows {} bytes apart, with CUresult {}",
                            rows, columns, element_bytes, row_bytes, static_cast<int>(result)));
  }
  return map;
}

const void* ready(const Operands& o, ShapeId shape) {
  static std::atomic<uint64_t> devices[2][2][tile::kScalings][kShapeCount];
  const void* kernel = (o.half == Half::kBF16 ? kernel_bf16 : kernel_f16)(o.code, o.scaling, shape);
  return ready_kernel(
      kernel, shared_bytes(kShapes[shape]),
      devices[static_cast<int>(o.half)][static_cast<int>(o.code)][static_cast<int>(o.scaling)][shape]);
}

void launch(const Plan& plan, const Operands& operands, Arguments arguments, Stream stream) {
  const int steps = (arguments.k + 127) / 128;
  arguments.tiles = static_cast<int>(plan.tiles);
  arguments.token_tiles = static_cast<int>(plan.token_tiles);
  arguments.whole_tiles = static_cast<int>(plan.cut.whole_tiles);
  arguments.splits = plan.cut.splits;
  arguments.steps = steps;
  arguments.steps_each = steps / plan.cut.splits;
  arguments.one_more = steps % plan.cut.splits;

  launch_fused({.kernel = ready(operands, plan.shape),
                .blocks = plan.blocks,
                .threads = kThreads,
                .shared_bytes = shared_bytes(kShapes[plan.shape]),
                .cluster = plan.cut.splits,
                .overlaps = true},
               &arguments, stream);
}

}  // namespace

void prepare(const PlacedWeight& weight) {
  const Operands operands = tile::operands_of(weight.config);
  for (int id = 0; id < kShapeCount; ++id) {
    const auto shape = static_cast<ShapeId>(id);
    if (has_shape(operands, shape)) ready(operands, shape);
  }
  encoder();
}

void apply(const PlacedWeight& weight, const TensorView& x, const TensorView& y, Scratch, Stream stream) {
  const LinearConfig& c = weight.config;
  const Operands operands = tile::operands_of(c);
  Problem problem = problem_of(c, x.rows, weight.device->sm_count);

  Arguments arguments{};
  arguments.x_stride = x.row_stride;
  arguments.y_stride = y.row_stride;
  arguments.scale = weight.scale;
  arguments.max_scale = weight.max_scale;
  arguments.bias = weight.bias;
  arguments.n = static_cast<int>(c.n);
  arguments.k = static_cast<int>(c.k);
  arguments.group_rows = c.scheme.weight.group.rows;
  arguments.scale_columns = static_cast<int>(weight.grid.cols);
  constexpr int64_t kMostStride = int64_t{1} << 39;  // of TMA: 2^40 bytes
  arguments.x_by_tma = begins_at_multiples_of(16, x) && x.row_stride < kMostStride;
  arguments.y_pairs = begins_at_multiples_of(4, y);
  arguments.y_fours = begins_at_multiples_of(8, y);
  arguments.scale_e8m0 = c.scheme.weight.scale_dtype == DType::kE8M0;
  arguments.scale_fours =
      arguments.scale_columns % 4 == 0 && reinterpret_cast<uintptr_t>(weight.scale) % 4 == 0;

  constexpr int64_t kMostAtOnce = int64_t{1} << 24;  // tokens are counted in 32 bits
  for (int64_t first = 0; first < x.rows; first += kMostAtOnce) {
    problem.m = std::min(kMostAtOnce, x.rows - first);
    const Plan plan = make_plan(problem);
    const Shape& shape = kShapes[plan.shape];
    arguments.m = static_cast<int>(problem.m);
    arguments.x_data = static_cast<const uint16_t*>(x.data) + first * x.row_stride;
    arguments.y = static_cast<uint16_t*>(y.data) + first * y.row_stride;
    const int64_t pitch = shuffled_pitch(c.k);
    arguments.weight =
        boxes_of(CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, weight.data, c.n, pitch, pitch, shape.rows());
    if (arguments.x_by_tma) {
      const int64_t row_bytes = problem.m > 1 ? x.row_stride * 2 : (c.k + 7) / 8 * 16;
      arguments.x = boxes_of(CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, arguments.x_data, problem.m, c.k, row_bytes,
                             shape.tokens);
    }
    launch(plan, operands, arguments, stream);
  }
}

}  // namespace anyfp8::wgmma
