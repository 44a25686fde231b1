#include "anyfp8/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace anyfp8 {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

// Slow dimensions are stretched, fast ones kept, those between blended by their wavelength.
double llama3_frequency(const RopeConfig& rope, double frequency) {
  const double wavelength = kTwoPi / frequency;
  if (wavelength > rope.original_positions / rope.low_freq_factor) return frequency / rope.factor;
  if (wavelength < rope.original_positions / rope.high_freq_factor) return frequency;
  const double keep = (rope.original_positions / wavelength - rope.low_freq_factor) /
                      (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - keep) * frequency / rope.factor + keep * frequency;
}

// The dimension, as a real number, whose angle makes `rotations` turns over the original context.
double dimension_of(const RopeConfig& rope, int64_t head_dim, double rotations) {
  return static_cast<double>(head_dim) * std::log(rope.original_positions / (rotations * kTwoPi)) /
         (2 * std::log(rope.theta));
}

// Pairs before `low` are kept, pairs after `high` stretched, those between blended.
double yarn_frequency(const RopeConfig& rope, int64_t head_dim, int64_t pair, double frequency) {
  double low = dimension_of(rope, head_dim, rope.beta_fast);
  double high = dimension_of(rope, head_dim, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;  // a step, without a division by zero
  const double stretched = std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
  return stretched * frequency / rope.factor + (1 - stretched) * frequency;
}

}  // namespace

std::vector<float> rope_frequencies(const RopeConfig& rope, int64_t head_dim) {
  std::vector<float> frequencies(static_cast<size_t>(head_dim / 2));
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double plain = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    double frequency = plain;
    switch (rope.type) {
      case RopeType::kDefault: break;
      case RopeType::kLinear: frequency = plain / rope.factor; break;
      case RopeType::kLlama3: frequency = llama3_frequency(rope, plain); break;
      case RopeType::kYarn: frequency = yarn_frequency(rope, head_dim, i, plain); break;
    }
    frequencies[static_cast<size_t>(i)] = static_cast<float>(frequency);
  }
  return frequencies;
}

void fill_rope_table(const RopeConfig& rope, std::span<const float> frequencies, int64_t begin, int64_t count,
                     RopeTable& table) {
  const size_t pairs = frequencies.size();
  table.cos.resize(static_cast<size_t>(count) * pairs);
  table.sin.resize(static_cast<size_t>(count) * pairs);
  const float magnitude = static_cast<float>(rope.attention_factor);
  for (size_t t = 0; t < static_cast<size_t>(count); ++t) {
    for (size_t i = 0; i < pairs; ++i) {
      // The fp32 product is what models were trained with; at far positions it differs from the exact angle.
      const float angle = static_cast<float>(begin + static_cast<int64_t>(t)) * frequencies[i];
      table.cos[t * pairs + i] = magnitude * std::cos(angle);
      table.sin[t * pairs + i] = magnitude * std::sin(angle);
    }
  }
}

}  // namespace anyfp8
