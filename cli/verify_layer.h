#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "anyfp8/linear/linear.h"

namespace anyfp8::cli {

// Token counts: a decode step, an odd batch, a piece of prefill; and one for each range of the selection that
// holds none of these. Of more than 64 tokens the first 64 come again and again.
inline constexpr std::array<int64_t, 3> kVerifiedTokens = {1, 7, 64};

// One element of y against its double reference: x · Wᵀ + bias, for kernels that quantise activations with x
// as the checkpoint asks for it (kernels/common/round_activations.h). Errors are relative to sum|x||w| of the
// element, the natural size of a sum whose terms cancel.
struct Deviation {
  double error = 0, bound = 0;
  int64_t row = 0, token = 0, m = 0;
  // Share of the bound; a NaN is as bad as it gets.
  double share() const {
    return std::isnan(error) ? HUGE_VAL : bound > 0 ? error / bound : error > 0 ? HUGE_VAL : 0;
  }
};

struct KernelCheck {
  const Kernel* kernel;
  Deviation worst;
};

// Signal and noise of y: against the product with x as it is, so that what quantising x costs is in it.
struct Sqnr {
  double signal = 0, noise = 0;
  void add(double exact, double found) {
    signal += exact * exact;
    noise += (found - exact) * (found - exact);
  }
  void add(const Sqnr& other) {
    signal += other.signal;
    noise += other.noise;
  }
  // Infinite where nothing is off.
  double db() const { return noise > 0 ? 10 * std::log10(signal / noise) : HUGE_VAL; }
};

// Of normal deviates, and of the same with one channel in a hundred 64 times as large, as the features of
// large models have them.
enum class ActivationKind { kNormal, kOutliers };
inline constexpr std::array<ActivationKind, 2> kActivationKinds = {ActivationKind::kNormal,
                                                                   ActivationKind::kOutliers};

struct LayerAccuracy {
  std::optional<Sqnr> w8a16, w8a8;
};

struct LayerCheck {
  std::vector<KernelCheck> kernels;       // those that served one of the token counts
  std::array<LayerAccuracy, 2> accuracy;  // by ActivationKind
  // w8a8 is that of the emulation, y of which is rounded once, to its dtype: no kernel of this layer
  // quantises activations. Absent where the checkpoint does not ask for it, or in a way that has no emulation
  // (MX).
  bool emulated = false;
};

// The accuracy is that of up to 256 rows of the weight, the worst deviation that of all.
LayerCheck verify_layer(const Fp8Weight& weight, const Linear& linear);

}  // namespace anyfp8::cli
