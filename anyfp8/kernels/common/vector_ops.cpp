#include "anyfp8/kernels/common/vector_ops.h"

#include <cmath>
#include <limits>

#include "anyfp8/kernels/common/target_region.h"

// The loops are written once, over vectors of the compiler, and compiled for each instruction set.
// kVectors: of accumulators for each row of a register tile of 6. 6 x 4 of 32 registers, or 6 x 2 of 16.

namespace anyfp8 {
namespace {
namespace baseline {
constexpr int kLanes = 4, kVectors = 2;
#include "anyfp8/kernels/common/vector_ops.inc"
}  // namespace baseline
}  // namespace
}  // namespace anyfp8

#if defined(__x86_64__)
ANYFP8_TARGET_BEGIN("avx2,fma")
namespace anyfp8 {
namespace {
namespace avx2 {
constexpr int kLanes = 8, kVectors = 2;
#include "anyfp8/kernels/common/vector_ops.inc"
}  // namespace avx2
}  // namespace
}  // namespace anyfp8
ANYFP8_TARGET_END

ANYFP8_TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
namespace anyfp8 {
namespace {
namespace avx512 {
constexpr int kLanes = 16, kVectors = 4;
#include "anyfp8/kernels/common/vector_ops.inc"
}  // namespace avx512
}  // namespace
}  // namespace anyfp8
ANYFP8_TARGET_END
#endif

namespace anyfp8 {

const VectorOps& vector_ops([[maybe_unused]] const CpuIsa& isa) {
#if defined(__x86_64__)
  if (isa.avx512) return avx512::kOps;
  if (isa.avx2) return avx2::kOps;
#endif
  return baseline::kOps;
}

}  // namespace anyfp8
