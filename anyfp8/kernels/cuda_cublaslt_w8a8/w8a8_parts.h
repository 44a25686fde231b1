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
// rows at multiples of 16 bytes, and with 1x128 scales a multiple of 4 tokens. Copying 24 MiB takes an H200
// some 12 us, about as much as the shortest product.
constexpr int64_t most_staged(int64_t n) {
  constexpr int64_t kStagedBytes = int64_t{24} << 20;
  return std::max<int64_t>(kStagedBytes / (2 * n) / 4 * 4, 4);
}

// Products one after the other, of `rows` tokens each. The last begins early enough to end with x, so a few
// tokens are computed twice, and the later product's y stays; where there is one alone, the tokens beyond x
// are zeros. With a `tail` the last product has that many tokens.
struct Part {
  int64_t begin, rows;
};
struct Parts {
  int64_t count = 1, rows = 0, tail = 0;
  bool staged = false;
  Part at(int64_t part, int64_t m) const {
    if (tail > 0 && part == count - 1) return {m - tail, tail};
    const int64_t end = tail > 0 ? m - m % tail : m;
    return {std::min(part * rows, std::max<int64_t>(end - rows, 0)), rows};
  }
};

// `granule`: a product has a multiple of so many tokens. Where m is none and y too large to be copied, the
// last few are a product of their own: two halves would each go on to another of cuBLASLt's tiles of 128
// tokens (H200, 28672 x 4096, m = 513: 175 us in halves; 512 tokens take 108, few tokens 39).
constexpr Parts parts_of(int64_t m, const Grid& weight, int64_t granule, bool y_aligned) {
  const auto divided_up = [](int64_t a, int64_t by) { return (a + by - 1) / by; };
  Parts parts;
  const bool odd = m % granule != 0;
  parts.staged = !y_aligned || (odd && m <= most_staged(weight.rows));
  parts.tail = odd && !parts.staged ? granule : 0;
  const int64_t most =
      parts.staged ? std::min(most_staged(weight.rows), most_tokens(weight.cols)) : most_tokens(weight.cols);
  const int64_t tokens = parts.tail > 0 ? m - m % granule : m, count = divided_up(tokens, most);
  parts.count = count + (parts.tail > 0 ? 1 : 0);
  parts.rows = divided_up(divided_up(tokens, count), granule) * granule;
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
  const int64_t rows = std::min((m + 3) / 4 * 4, most_tokens(config.k));
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
