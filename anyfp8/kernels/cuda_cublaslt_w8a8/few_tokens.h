#pragma once

#include <cstdint>

#include "anyfp8/kernels/kernel.h"

namespace anyfp8::w8a8 {

// The tokens that cuBLASLt would not take: 128x128 scales of w, 1x128 of x.
struct FewTokens {
  int tokens = 0;                  // 1 to kMostFew
  const uint8_t* codes = nullptr;  // [tokens, shuffled_pitch(k)] k64_shuffled, of activation.dtype
  const float* scales = nullptr;   // [ceil(k / 128), tokens]
  uint16_t* y = nullptr;           // [tokens, n], of any alignment
  int64_t y_stride = 0;
  const void* bias = nullptr;  // [n] of y's type, or null
};

// Loads the kernel of the layer on the current device.
void prepare_few_tokens(const LinearConfig& config);

// Queues y = x · Wᵀ + bias of them: as cuBLASLt does it, products of FP8 tensor cores, whose sums of 128 k
// are added in fp32. The weight is read once, about the time of a W8A16 kernel for as few tokens.
void multiply_few_tokens(const PlacedWeight& weight, const FewTokens& few, Stream stream);

}  // namespace anyfp8::w8a8
