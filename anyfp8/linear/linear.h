#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "anyfp8/base/export.h"
#include "anyfp8/base/tensor.h"
#include "anyfp8/device/device.h"
#include "anyfp8/kernels/select.h"
#include "anyfp8/linear/workspace.h"
#include "anyfp8/scheme/fp8_weight.h"

namespace anyfp8 {

// What of a LinearConfig the weight does not say.
struct LinearOptions {
  DType in = DType::kBF16;
  DType out = DType::kBF16;
  std::optional<Policy> policy = {};  // absent: default_policy()
  // The n of a whole layer, where a weight has some of its outputs alone: with Policy::kInvariant they have
  // the bits that the whole layer would give. 0: the weight's own.
  int64_t whole_n = 0;
};

ANYFP8_API LinearConfig linear_config(const Fp8Weight& weight, const LinearOptions& options);

// One linear layer, ready to run: its kernels are chosen, its weight lies where they read it.
// apply() may run from several threads at once, each with its own Workspace; update_weights() may not run
// beside it. On the CPU 8-bit weights are packed once into the layout of their kernels, and the pages of a
// mapped checkpoint are given back on the way; 16- and 32-bit weights, and 8-bit ones of a kernel that reads
// row-major, are not copied: they stay the mapped file. On a CUDA device all of it is copied once, with no
// other device memory used on the way.
class ANYFP8_API Linear {
 public:
  // Refuses here, in words, everything that could fail later: a weight that check_weight() refuses, a
  // layer no kernel can run. `select` defaults to the environment's wishes. On a CUDA device the weight is
  // copied through `stream` and is there when this returns: any stream may use the layer.
  static Linear create(const Device& device, Fp8Weight weight, const LinearOptions& options = {},
                       const SelectOptions& select = SelectOptions::from_environment(), Stream stream = {});

  // y[m, n] = x[m, k] · Wᵀ + bias for x.rows tokens, any m >= 0. x and y are on the layer's device, of the
  // dtypes it was created with, and do not overlap. Work on a CUDA device is queued on `stream`, whichever
  // device is the caller's current one, and may be captured in a graph. With ANYFP8_SYNC=1 in the environment
  // when the layer was created, it waits for that work and an error names the layer.
  // Error(kInvalidArgument) for other shapes, dtypes or a workspace below workspace_bytes(m).
  void apply(const TensorView& x, const TensorView& y, Workspace& workspace, Stream stream = {}) const;

  // The same with scratch memory of the caller's on the layer's device, of workspace_bytes(m)
  // and at scratch_alignment(): for callers with an allocator that knows streams.
  void apply(const TensorView& x, const TensorView& y, Scratch scratch, Stream stream = {}) const;

  // Enough for every m up to max_m.
  size_t workspace_bytes(int64_t max_m) const;

  // Another weight of the same n, k, scheme and bias, into the same storage, so that captured graphs see it;
  // a weight that is not copied on the CPU is referred to from then on. On a CUDA device, done when it
  // returns; applies queued on other streams than `stream` must be done before.
  void update_weights(Fp8Weight weight, Stream stream = {});

  // Rows [row_begin, row_end) of data * scale as f32 [rows, k] in host memory.
  HostTensor dequantize(int64_t row_begin, int64_t row_end) const;

  // The weight this layer was made from, row-major in host memory, bit for bit; the bias may have become f32.
  Fp8Weight weight() const;

  const Device& device() const noexcept;
  const LinearConfig& config() const noexcept;
  const Selection& selection() const noexcept;
  size_t resident_bytes() const noexcept;  // weight, scales and bias as placed

  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;
  ~Linear();

 private:
  struct State;
  explicit Linear(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace anyfp8
