#pragma once

#include <cstdint>

#include "anyfp8/kernels/common/tile_arguments.h"
#include "anyfp8/kernels/common/tile_shapes.h"

// The instructions of the tile kernels, one inline function each. kFamily says what there is: kSm75 has no
// cp.async, fp16 alone and products of 8 k; kSm90 has programmatic dependent launch, clusters and mul.bf16x2.
namespace anyfp8::tile {

inline __device__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes to shared memory, if `wanted`. A predicate and no branch: this is a fifth of a skinny kernel's
// work.
inline __device__ void copy16_async(uint32_t to, const void* from, bool wanted) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\n"
      "@p cp.async.cg.shared.global.L2::128B [%0], [%1], 16;\n}" ::"r"(to),
      "l"(from), "r"(static_cast<int>(wanted)));
}
inline __device__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int kPending>
inline __device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending));
}

inline __device__ uint4 load_stream(const void* from) {  // read once: leaves the L1 cache alone
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

// Brings the 128 bytes around it to the L2 cache: for what is read a few bytes at a time.
inline __device__ uint32_t load_of_line(const uint32_t* from) {
  uint32_t v;
  asm volatile("ld.global.nc.L2::128B.u32 %0, [%1];" : "=r"(v) : "l"(from));
  return v;
}

inline __device__ uint4 load_shared16(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from));
  return v;
}
inline __device__ void store_shared16(uint32_t to, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w));
}

inline __device__ float load_shared4(uint32_t from) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(from));
  return v;
}
inline __device__ void store_shared4(uint32_t to, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(v));
}

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
inline __device__ void load_matrix4(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from));
}

// An 8x8 matrix of 16-bit elements across a warp, transposed.
inline __device__ uint32_t transpose8x8(uint32_t v) {
  uint32_t r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
  return r;
}

// d[16, 8] += a[16, 16] · b[16, 8], fp32 sums. a: lane (g, t) holds rows g, g+8 of k = 2t.. (a0, a1) and of
// k = 2t+8.. (a2, a3).
template <Family kFamily, Half kHalf>
inline __device__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kFamily == Family::kSm75) {
    static_assert(kHalf == Half::kF16, "Turing multiplies fp16 alone");
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%8}, {%0, %1, %2, "
        "%3};\n"
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%6, %7}, {%9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else if constexpr (kHalf == Half::kBF16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Two numbers rounded once, `first` in the lower half.
template <Family kFamily, Half kHalf>
inline __device__ uint32_t pack2(float first, float second) {
  uint32_t r;
  if constexpr (kHalf == Half::kBF16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(second), "f"(first));
  } else if constexpr (kFamily != Family::kSm75) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(second), "f"(first));
  } else {
    asm("{\n.reg .f16 lo, hi;\ncvt.rn.f16.f32 lo, %1;\ncvt.rn.f16.f32 hi, %2;\nmov.b32 %0, {lo, hi};\n}"
        : "=r"(r)
        : "f"(first), "f"(second));
  }
  return r;
}

// Programmatic dependent launch: what comes before the wait overlaps the kernel before this one in its
// stream, and must touch nothing that a kernel writes.
template <Family kFamily>
inline __device__ void wait_for_inputs() {
  if constexpr (kFamily >= Family::kSm90) asm volatile("griddepcontrol.wait;" ::: "memory");
}
template <Family kFamily>
inline __device__ void let_next_kernel_start() {
  if constexpr (kFamily >= Family::kSm90) asm volatile("griddepcontrol.launch_dependents;");
}

// A cluster of blocks, whose shared memory each of them reads.
inline __device__ void synchronise_cluster() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// 16 bytes at the address `from` of this block's shared memory, in that of block `rank`.
inline __device__ float4 load_cluster16(uint32_t from, int rank) {
  float4 v;
  asm volatile(
      "{\n.reg .u32 remote;\nmapa.shared::cluster.u32 remote, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote];\n}"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(from), "r"(rank));
  return v;
}

}  // namespace anyfp8::tile
