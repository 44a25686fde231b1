#pragma once

#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_consumer.cuh"
#include "anyfp8/kernels/cuda_wgmma_w8a16/wgmma_producer.cuh"

// y = x · Wᵀ on Hopper. Weights are the operand that wgmma takes from registers, so the product is computed
// transposed, and x is the one it reads from shared memory:
//
//   a block's tile: 128 or 256 outputs x 16 to 128 tokens
//
//            tokens ->             stage of the ring, 128 k:
//          +-----------+             weights [rows][128] codes, k64_shuffled, 16-byte units swizzled by TMA
//    rows  | group 0   |             x       [2][tokens][64] 16 bit, swizzled too
//          +-----------+
//          | group 1   |           warpgroups 0 and 1 decode and multiply, a thread of warpgroup 2 asks for
//          +-----------+           stages; full[] and empty[] are the barriers between them.
//
// A warpgroup decodes the codes of one step of 16 k while wgmma multiplies the step before. Where it has to
// wait for all of its products, behind 128 k that have a scale, the tensor cores have those of the other.
//
// The grid is persistent: block b takes tiles b, b + blocks, ..., so that at any time tiles of the same
// outputs are at work together and their weights come from memory once. (Each block walking tiles that lie
// side by side read them once for each token tile: 366 us and not 328 at 28672 x 4096, m = 1024.) Where that
// leaves blocks without work, the blocks of a cluster share the k of each of the last tiles, or of all, and
// send their sums to each other.
namespace anyfp8::wgmma {

template <class S>
__global__ void __launch_bounds__(kThreads, S::kShape.blocks)
    wgmma_w8a16(const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) uint8_t memory[];
  const Ring<S> ring(tile::shared_address(memory));
  const Work work(p);
  if (threadIdx.x >= kConsumers) {
    give_registers<S::kProducerRegisters>();
    Producer<S>(p, ring, work).run();
  } else {
    take_registers<S::kConsumerRegisters>();
    Consumer<S>(p, ring, work).run();
  }
}

}  // namespace anyfp8::wgmma
