#pragma once

#include <cuda.h>

#include "anyfp8/kernels/common/mma_instructions.cuh"

// Hopper's own instructions (sm_90a).
//
// wgmma: a warpgroup multiplies 64 rows in registers by tokens in shared memory, while its threads go on. A
// function for each number of tokens, since the sums are operands one by one.
namespace anyfp8::wgmma {

using tile::Half;

// Before the first wgmma that reads registers which other instructions wrote.
inline __device__ void begin_wgmma() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
inline __device__ void commit_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
inline __device__ void wait_wgmma() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// What other instructions wrote to shared memory is seen by wgmma, TMA and copies to other blocks.
inline __device__ void publish_to_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Operand b: tokens of 128 bytes (64 k), 8 of them in 1024 bytes, 16-byte units swizzled by the token.
inline __device__ uint64_t token_descriptor(uint32_t shared) {
  return static_cast<uint64_t>(shared >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

#define ANYFP8_SUMS4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define ANYFP8_SUMS16(i) ANYFP8_SUMS4(i), ANYFP8_SUMS4(i + 1), ANYFP8_SUMS4(i + 2), ANYFP8_SUMS4(i + 3)
#define ANYFP8_SUMS64(i) ANYFP8_SUMS16(i), ANYFP8_SUMS16(i + 4), ANYFP8_SUMS16(i + 8), ANYFP8_SUMS16(i + 12)

// d[TOKENS / 8][4] = a · b, plus d if `add`. REGISTERS: the places of the sums, "%0, %1, ..."; A, B and ADD
// those of the operands after them; then the sums themselves.
#define ANYFP8_WGMMA_OF(TYPE, TOKENS, REGISTERS, A, B, ADD, ...)                                             \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " ADD ", 0;\nwgmma.mma_async.sync.aligned.m64n" #TOKENS \
               "k16.f32." TYPE "." TYPE " {" REGISTERS "}, {" A "}, " B ", add, 1, 1, 0;\n}"                 \
               : __VA_ARGS__                                                                                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))
#define ANYFP8_WGMMA(TOKENS, ...)                                                                  \
  template <Half kHalf>                                                                            \
  inline __device__ void multiply_add(float(&d)[TOKENS / 8][4], const uint32_t(&a)[4], uint64_t b, \
                                      int add) {                                                   \
    if constexpr (kHalf == Half::kBF16) {                                                          \
      ANYFP8_WGMMA_OF("bf16", TOKENS, __VA_ARGS__);                                                \
    } else {                                                                                       \
      ANYFP8_WGMMA_OF("f16", TOKENS, __VA_ARGS__);                                                 \
    }                                                                                              \
  }

ANYFP8_WGMMA(16, "%0, %1, %2, %3, %4, %5, %6, %7", "%8, %9, %10, %11", "%12", "%13", ANYFP8_SUMS4(0),
             ANYFP8_SUMS4(1))
ANYFP8_WGMMA(32, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "%16, %17, %18, %19",
             "%20", "%21", ANYFP8_SUMS16(0))
ANYFP8_WGMMA(64,
             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
             "%32, %33, %34, %35", "%36", "%37", ANYFP8_SUMS16(0), ANYFP8_SUMS16(4))
ANYFP8_WGMMA(96,
             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
             "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47",
             "%48, %49, %50, %51", "%52", "%53", ANYFP8_SUMS16(0), ANYFP8_SUMS16(4), ANYFP8_SUMS16(8))
ANYFP8_WGMMA(128,
             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
             "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
             "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63",
             "%64, %65, %66, %67", "%68", "%69", ANYFP8_SUMS64(0))

#undef ANYFP8_WGMMA
#undef ANYFP8_WGMMA_OF
#undef ANYFP8_SUMS64
#undef ANYFP8_SUMS16
#undef ANYFP8_SUMS4

// Of the barriers 0 to 15 of a block: so many threads, those that wait and those that do not.
inline __device__ void wait_at(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
inline __device__ void arrive_at_if(bool arrives, int barrier, int threads) {
  asm volatile("{\n.reg .pred arrives;\nsetp.ne.b32 arrives, %0, 0;\n@arrives bar.arrive %1, %2;\n}" ::"r"(
                   static_cast<int>(arrives)),
               "r"(barrier), "r"(threads)
               : "memory");
}

// mbarriers: a phase ends when all who are counted have arrived and all bytes that were announced are there.
inline __device__ void init_barrier(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
inline __device__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
inline __device__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Without a branch: in the largest tile ptxas put behind one what wgmma reads from uniform registers into
// others, and copied it for each wgmma, 32 times a stage (H200: 4 to 6 % of the time).
inline __device__ void arrive_if(bool arrives, uint32_t barrier) {
  asm volatile(
      "{\n.reg .pred arrives;\nsetp.ne.b32 arrives, %1, 0;\n"
      "@arrives mbarrier.arrive.shared::cta.b64 _, [%0];\n}" ::"r"(barrier),
      "r"(static_cast<int>(arrives))
      : "memory");
}
inline __device__ void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
inline __device__ void wait_phase(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra AGAIN;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// TMA: a box of a matrix to shared memory; `column` in elements. Its bytes arrive at the barrier.
inline __device__ void copy_box(uint32_t to, const CUtensorMap& from, int column, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], "
      "[%4];" ::"r"(to),
      "l"(&from), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// A cluster. Behind both of these the barriers that its blocks initialised and published are known to each
// other. The arrival orders nothing else: the form that does flushes the block's writes to all of the card,
// which takes a microsecond.
inline __device__ void arrive_in_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
inline __device__ void wait_for_cluster() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }
inline __device__ int cluster_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
inline __device__ int cluster_index() {
  int index;
  asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(index));
  return index;
}
// This address of shared memory in another block.
inline __device__ uint32_t address_in(uint32_t address, int rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
// Likewise: with .release.cluster this would flush. What it follows are reads, whose values are there.
inline __device__ void arrive_in(uint32_t barrier, int rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(address_in(barrier, rank)) : "memory");
}
// Bytes to the shared memory of another block, arriving at its barrier.
inline __device__ void copy_to_block(int rank, uint32_t to, uint32_t from, int bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          address_in(to, rank)),
      "r"(from), "r"(bytes), "r"(address_in(barrier, rank))
      : "memory");
}
// Registers go from the producer to the consumers.
template <int kRegisters>
inline __device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
inline __device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace anyfp8::wgmma
