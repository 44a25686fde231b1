#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

#include "anyfp8/base/tensor.h"
#include "anyfp8/base/verdict.h"
#include "anyfp8/device/device.h"
#include "anyfp8/scheme/fp8_weight.h"
#include "anyfp8/scheme/quant_scheme.h"

namespace anyfp8 {

// What the caller wants where speed and exactness part:
//   kAccuracy   activations stay 16 or 32 bit at every m
//   kSpeed      activations may be quantised where the checkpoint asks for it
//   kInvariant  a row of x gives the same bits whatever m it is computed in
enum class Policy : uint8_t { kAccuracy, kSpeed, kInvariant };
ANYFP8_API std::string_view policy_name(Policy policy) noexcept;

// What a caller gets who names none: speed where the checkpoint itself asks for quantised activations, else
// accuracy.
constexpr Policy default_policy(const QuantScheme& scheme) noexcept {
  return scheme.activation ? Policy::kSpeed : Policy::kAccuracy;
}

// One linear layer, y[m, n] = x[m, k] · W[n, k]ᵀ + bias[n], as selection sees it.
struct LinearConfig {
  int64_t n = 0;
  int64_t k = 0;
  QuantScheme scheme;
  DType in = DType::kBF16;   // of x
  DType out = DType::kBF16;  // of y
  bool bias = false;
  Policy policy = Policy::kAccuracy;
  int64_t whole_n = 0;  // of the layer whose outputs these n are a part of, see LinearOptions; 0: n
};

// Token counts m in [begin, end).
struct TokenRange {
  int64_t begin = 0;
  int64_t end = std::numeric_limits<int64_t>::max();
  bool contains(int64_t m) const noexcept { return begin <= m && m < end; }
  bool empty() const noexcept { return begin >= end; }
  bool operator==(const TokenRange&) const = default;
};

// A weight at rest on its device, as a kernel reads it. The Linear that owns the memory outlives the call.
struct PlacedWeight {
  LinearConfig config;
  const Device* device = nullptr;  // where it lies
  Layout layout = Layout::kRowMajor;
  const void* data = nullptr;   // [n, k] in `layout`
  const void* scale = nullptr;  // [grid.rows, grid.cols], scheme.weight.scale_dtype; null without scales. In
                                // kPanel64 panel by panel, see Layout
  Grid grid{0, 0};
  bool finite_codes = false;           // check_weight() was passed: no code is NaN or infinite
  const float* bias = nullptr;         // [n], or null
  const float* input_scale = nullptr;  // one static activation scale, or null
  // The largest scale, one f32: on CUDA devices alone, and null without scales. Device memory like the rest,
  // so that a captured graph sees it change.
  const float* max_scale = nullptr;
  const float* input_scale_ub = nullptr;  // one upper bound of dynamic activation amax, or null
};

// What scratch memory begins at a multiple of (bytes): cuBLASLt refuses less than 256.
constexpr size_t scratch_alignment(DeviceKind kind) { return kind == DeviceKind::kCuda ? 256 : 64; }

// Scratch memory on the kernel's device: at least the kernel's workspace_bytes(m), at scratch_alignment().
struct Scratch {
  void* data = nullptr;
  size_t bytes = 0;
};

// A pattern in Kernel::weight_groups: this extent may be any, 0 included.
inline constexpr int32_t kAnyExtent = -1;

enum class ActivationUse : uint8_t {
  kAsGiven,    // W8A16: x keeps its 16 or 32 bits; also serves schemes that ask for quantised activations
  kQuantized,  // W8A8: x is quantised as scheme.activation says
};

// A kernel is constant data: what it accepts, and a few functions. What is not listed is refused, so a
// kernel that forgets a case loses speed, never correctness. Define one as
// `constinit const Kernel <name>` in namespace anyfp8, in the folder kernels/<name>/, in a file that includes
// kernel_list.h, and list it in kernel_list.inc.
struct Kernel {
  std::string_view name;     // folder, object, ANYFP8_KERNEL value, test filter, bench row
  std::string_view summary;  // one line for `anyfp8 kernels`
  DeviceKind device = DeviceKind::kCpu;
  Layout layout = Layout::kRowMajor;  // of 8-bit weights; wider ones are always row-major
  std::span<const DType> weight_dtypes;
  std::span<const Group>
      weight_groups;                    // extents may be kAnyExtent; not looked at for 16- and 32-bit weights
  std::span<const DType> scale_dtypes;  // kF32, kE8M0; likewise
  std::span<const DType> in_dtypes;
  std::span<const DType> out_dtypes;
  ActivationUse activation = ActivationUse::kAsGiven;
  bool batch_invariant = false;  // needed by Policy::kInvariant

  // The hardware alone.
  Verdict (*supports)(const Device&) = nullptr;
  // What the lists above cannot say: alignment, sizes, combinations. Null: nothing more.
  Verdict (*check)(const LinearConfig&, const Device&) = nullptr;
  // The m it is meant for, with the measurement behind each bound beside it. Any m must work all the same.
  TokenRange (*tokens)(const LinearConfig&, const Device&) = nullptr;
  // Scratch that apply needs for m tokens; never less for a larger m. Null: none.
  size_t (*workspace_bytes)(const LinearConfig&, const Device&, int64_t m) = nullptr;
  // Loads what apply would load at its first use, for one layer whose weight is placed. Null: nothing to
  // load.
  void (*prepare)(const PlacedWeight&) = nullptr;
  // The work: y[m, n] = x[m, k] · Wᵀ + bias. Allocates, synchronises and logs nothing; m may be 0; rows of x
  // and y may be strided. Null: not in this build.
  void (*apply)(const PlacedWeight&, const TensorView& x, const TensorView& y, Scratch, Stream) = nullptr;
};

}  // namespace anyfp8
