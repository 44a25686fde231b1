#pragma once

#include "anyfp8/kernels/common/mma_instructions.cuh"

// wgmma of Hopper (sm_90a): a warpgroup multiplies 64 rows in registers by kTokens tokens in shared memory,
// while its threads go on. A function for each number of tokens, since the sums are operands one by one.
namespace anyfp8::tile {

// Before the first wgmma that reads registers which other instructions wrote.
inline __device__ void begin_wgmma() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
inline __device__ void commit_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
inline __device__ void wait_wgmma() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// What other instructions wrote to shared memory is seen by wgmma.
inline __device__ void publish_to_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Operand b: tokens of 128 bytes (64 k), 8 of them in 1024 bytes, 16-byte units swizzled by the token.
inline __device__ uint64_t token_descriptor(uint32_t shared) {
  return static_cast<uint64_t>(shared >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

#define ANYFP8_SUMS4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define ANYFP8_SUMS16(i) ANYFP8_SUMS4(i), ANYFP8_SUMS4(i + 1), ANYFP8_SUMS4(i + 2), ANYFP8_SUMS4(i + 3)
#define ANYFP8_SUMS64(i) ANYFP8_SUMS16(i), ANYFP8_SUMS16(i + 4), ANYFP8_SUMS16(i + 8), ANYFP8_SUMS16(i + 12)

// d[TOKENS / 8][4] += a · b. REGISTERS: the places of the sums, "%0, %1, ..."; A and B those of the operands
// after them; then the sums themselves.
#define ANYFP8_WGMMA_OF(TYPE, TOKENS, REGISTERS, A, B, ...)                                                 \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #TOKENS "k16.f32." TYPE "." TYPE " {" REGISTERS "}, {" A \
               "}, " B ", 1, 1, 1, 0;"                                                                      \
               : __VA_ARGS__                                                                                \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define ANYFP8_WGMMA(TOKENS, ...)                                                             \
  template <Half kHalf>                                                                       \
  inline __device__ void wgmma(float(&d)[TOKENS / 8][4], const uint32_t(&a)[4], uint64_t b) { \
    if constexpr (kHalf == Half::kBF16) {                                                     \
      ANYFP8_WGMMA_OF("bf16", TOKENS, __VA_ARGS__);                                           \
    } else {                                                                                  \
      ANYFP8_WGMMA_OF("f16", TOKENS, __VA_ARGS__);                                            \
    }                                                                                         \
  }

ANYFP8_WGMMA(16, "%0, %1, %2, %3, %4, %5, %6, %7", "%8, %9, %10, %11", "%12", ANYFP8_SUMS4(0),
             ANYFP8_SUMS4(1))
ANYFP8_WGMMA(32, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "%16, %17, %18, %19",
             "%20", ANYFP8_SUMS16(0))
ANYFP8_WGMMA(64,
             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
             "%32, %33, %34, %35", "%36", ANYFP8_SUMS16(0), ANYFP8_SUMS16(4))
ANYFP8_WGMMA(128,
             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
             "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
             "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63",
             "%64, %65, %66, %67", "%68", ANYFP8_SUMS64(0))

#undef ANYFP8_WGMMA
#undef ANYFP8_WGMMA_OF
#undef ANYFP8_SUMS64
#undef ANYFP8_SUMS16
#undef ANYFP8_SUMS4

}  // namespace anyfp8::tile
