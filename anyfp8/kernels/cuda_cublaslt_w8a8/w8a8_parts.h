#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "anyfp8/kernels/common/cublaslt_gemm_cuda.h"
#include "anyfp8/kernels/common/k64_shuffle.h"
#include "anyfp8/kernels/common/mx_scale_tiles.h"
#include "anyfp8/kernels/common/quantize_activation.h"
#include "anyfp8/kernels/cuda_cublaslt_w8a8/mx_slab.h"
#include "anyfp8/kernels/kernel.h"

// How cuda_cublaslt_w8a8 cuts a call into products, and its scratch memory.
namespace anyfp8::w8a8 {

// Tokens of one product: their codes take 128 MiB at most, but for k beyond 65536.
constexpr int64_t most_tokens(int64_t k) {
  constexpr int64_t kCodeBytes = int64_t{128} << 20, kLeast = 2048, kMost = 16384;
  return std::clamp(kCodeBytes / shuffled_pitch(k) / 256 * 256, kLeast, kMost);
}

// So many rows of y may be written to scratch memory first, where cuBLASLt cannot write them to y: it wants
// rows at multiples of 16 bytes. Copying 24 MiB takes an H200 some 12 us, about as much as the shortest
// product.
constexpr int64_t most_staged(int64_t n) {
  constexpr int64_t kStagedBytes = int64_t{24} << 20;
  return std::max<int64_t>(kStagedBytes / (2 * n) / 4 * 4, 4);
}

// The last tokens of a call that few_tokens.h multiplies, up to 8: those that cuBLASLt does not take, which
// with 1x128 scales wants whole fours. It has tiles of 128 tokens alone there, so where m is little more than
// some of these, all of the rest. H200, us of the products, what follows 512 tokens: 4 by cuBLASLt too, 8
// here (about)
//
//   4096 x 4096    15 -> 27, 21      28672 x 4096   102 -> 126, 133     4096 x 14336   47 -> 95, 62
//
// and at 132 and 260 no more than here, so from 512 on.
inline constexpr int64_t kMostFew = 8, kTile = 128;
constexpr bool begins_a_tile(int64_t m) { return m >= 512 && m % kTile <= kMostFew; }
constexpr int64_t few_of(int64_t m, int64_t granule) {
  return m <= kMostFew && m % granule != 0 ? m : granule > 1 && begins_a_tile(m) ? m % kTile : m % granule;
}

// Whether one product has up to 3 tokens more than there are, which are zeros, instead: y then goes through
// scratch memory, where few_tokens.h would read the weights again. H200: copying y took 0.5 us for each MiB,
// reading 117 MB of weights 29 us, and 129 tokens of 28672 x 4096 72 us where 132 take 58.
constexpr bool pads(int64_t m, const Grid& weight, int64_t granule, bool y_aligned) {
  const bool cheaper = 4 * m < weight.cols || !y_aligned;
  const bool one_product = m <= std::min(most_staged(weight.rows), most_tokens(weight.cols));
  return m % granule != 0 && m > kMostFew && !begins_a_tile(m) && one_product && cheaper;
}

// Products one after the other, of `rows` tokens each; then `few` by few_tokens.h. The last begins early
// enough to end with the others, so some tokens are computed twice, and the later product's y stays. Only a
// staged product may have rows beyond y.
struct Part {
  int64_t begin, rows;
};
struct Parts {
  int64_t count = 1, rows = 0, few = 0;
  bool staged = false;
  Part at(int64_t part, int64_t m) const {
    return {std::min(part * rows, std::max<int64_t>(m - few - rows, 0)), rows};
  }
};

// `granule`: a product has a multiple of so many tokens.
constexpr Parts parts_of(int64_t m, const Grid& weight, int64_t granule, bool y_aligned) {
  const auto divided_up = [](int64_t a, int64_t by) { return (a + by - 1) / by; };
  Parts parts;
  const bool padded = pads(m, weight, granule, y_aligned);
  parts.staged = padded || !y_aligned;
  parts.few = padded ? 0 : few_of(m, granule);
  const int64_t tokens = m - parts.few;
  if (tokens == 0) return parts;
  const int64_t most =
      parts.staged ? std::min(most_staged(weight.rows), most_tokens(weight.cols)) : most_tokens(weight.cols);
  parts.count = divided_up(tokens, most);
  parts.rows = divided_up(divided_up(tokens, parts.count), granule) * granule;
  return parts;
}

// 1x128 scales alone want whole fours of tokens.
constexpr int64_t granule_of(const LinearConfig& config) {
  return config.scheme.weight.group == kBlock128 ? 4 : 1;
}

// Weight scales by 128x128 begin their rows at multiples of 4, cuBLASLt's rule; they are copied where they do
// not.
constexpr int64_t scale_pitch(int64_t k) { return (k + 511) / 512 * 4; }
constexpr bool copies_weight_scale(const LinearConfig& config) {
  return config.scheme.weight.group == kBlock128 && scale_pitch(config.k) != (config.k + 127) / 128;
}

constexpr bool is_mx(const LinearConfig& config) { return config.scheme.weight.group == kMx32; }

// Of the scales of `rows` tokens, or outputs, by `group`.
constexpr int64_t scale_bytes(Group group, int64_t rows, int64_t k) {
  if (group == kMx32) return mx_scale_bytes(rows, shuffled_pitch(k) / 32);
  return rows * (group.cols == 0 ? 1 : (k + 127) / 128) * 4;
}

// Where things begin in scratch memory; never less for more tokens, of which `m` is the number.
struct Scratchpad {
  size_t codes, scales, maxima, bias, weight_scale, slab, y, bytes;
};
constexpr Scratchpad scratchpad(const LinearConfig& config, int64_t m) {
  const int64_t rows = (std::min(m, most_tokens(config.k) + kMostFew) + 3) / 4 * 4;
  const int64_t slab = is_mx(config) ? mx_slab_rows(config.n, config.k) : 0;
  size_t end = kCublasBytes;
  const auto take = [&](int64_t bytes) {
    const size_t begin = end;
    end += (static_cast<size_t>(bytes) + 255) / 256 * 256;
    return begin;
  };
  Scratchpad s{};
  s.codes = take(rows * shuffled_pitch(config.k));
  s.scales = take(scale_bytes(config.scheme.activation->group, rows, config.k));
  s.maxima = take(kMaxima * 4);
  s.bias = take(config.bias ? config.n * 2 : 0);
  s.weight_scale = take(is_mx(config)                 ? scale_bytes(kMx32, slab, config.k)
                        : copies_weight_scale(config) ? (config.n + 127) / 128 * scale_pitch(config.k) * 4
                                                      : 0);
  s.slab = take(slab * shuffled_pitch(config.k));
  s.y = take(std::min(rows, most_staged(config.n)) * config.n * 2);
  s.bytes = end;
  return s;
}

}  // namespace anyfp8::w8a8
