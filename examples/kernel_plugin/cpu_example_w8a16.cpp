// A complete kernel in a shared object: plain C++ for fp32 activations and row-major e4m3 weights with fp32
// scales of any group. Slow on purpose; what to look at is what a kernel has to say about itself.
#include <cstddef>
#include <cstdint>
#include <string>

#include "anyfp8/base/float8.h"
#include "anyfp8/kernels/plugin.h"

namespace {

using namespace anyfp8;

// Step 1: what it accepts, as data. What is not listed here is refused before the code below is reached.
constexpr DType kWeightTypes[] = {DType::kE4M3};
constexpr Group kGroups[] = {{kAnyExtent, kAnyExtent}};
constexpr DType kFloat[] = {DType::kF32};

// Step 2: the hardware it runs on. Only the argument counts: it may describe a machine that is not this one.
Verdict supports(const Device&) { return Verdict::yes(); }

// Step 3: what the lists cannot say, in a sentence with the values. int32 column indices below:
Verdict check(const LinearConfig& config, const Device&) {
  if (config.k > INT32_MAX) return Verdict::no("k = " + std::to_string(config.k) + " does not fit 31 bits");
  return Verdict::yes();
}

// Step 4: the token counts it is meant for. All of them; a real kernel has its measured crossover here.
TokenRange tokens(const LinearConfig&, const Device&) { return {}; }

// Step 5: the work. y[m, n] = x[m, k] · (data[n, k] * scale)ᵀ + bias[n]
void apply(const PlacedWeight& weight, const TensorView& x, const TensorView& y, Scratch, Stream) {
  const Group group = weight.config.scheme.weight.group;  // an extent of 0 is the whole of it
  const auto* data = static_cast<const uint8_t*>(weight.data);
  const auto* scales = static_cast<const float*>(weight.scale);
  const int64_t n = weight.config.n;
  const auto k = static_cast<int32_t>(weight.config.k);
  const int32_t group_cols = group.cols == 0 ? k : group.cols;

  for (int64_t token = 0; token < x.rows; ++token) {
    const float* x_row = static_cast<const float*>(x.data) + token * x.row_stride;
    float* y_row = static_cast<float*>(y.data) + token * y.row_stride;
    for (int64_t row = 0; row < n; ++row) {
      const uint8_t* codes = data + row * k;
      const float* row_scales = scales + (group.rows == 0 ? 0 : row / group.rows) * weight.grid.cols;
      float sum = 0;
      for (int32_t col = 0; col < k; ++col) {
        sum += x_row[col] * (e4m3_to_f32(codes[col]) * row_scales[col / group_cols]);
      }
      y_row[row] = sum + (weight.bias == nullptr ? 0.0f : weight.bias[row]);
    }
  }
}

// Step 6: the table. The name is what ANYFP8_KERNEL and ANYFP8_DISABLE take.
constinit const Kernel kKernel{
    .name = "cpu_example_w8a16",
    .summary = "example plugin: plain C++, fp32 activations",
    .device = DeviceKind::kCpu,
    .layout = Layout::kRowMajor,
    .weight_dtypes = kWeightTypes,
    .weight_groups = kGroups,
    .scale_dtypes = kFloat,
    .in_dtypes = kFloat,
    .out_dtypes = kFloat,
    .activation = ActivationUse::kAsGiven,
    .batch_invariant = true,  // a row of x is summed in the same order whatever m is
    .supports = supports,
    .check = check,
    .tokens = tokens,
    .apply = apply,
};

// Step 7: its place in the list of preference.
constinit const KernelPlugin kPlugin{.kernel = &kKernel, .before = "cpu_reference"};

}  // namespace

extern "C" ANYFP8_API const anyfp8::KernelPlugin* anyfp8_kernel_plugin() { return &kPlugin; }
