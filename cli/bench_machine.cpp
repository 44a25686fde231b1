#include "cli/bench_machine.h"

#include <atomic>

#include "anyfp8/base/text.h"
#include "anyfp8/base/threads.h"
#include "anyfp8/kernels/common/target_region.h"
#include "cli/bench_cuda.h"
#include "cli/bench_weights.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace anyfp8::cli {
namespace {

// What one thread does. Both give a number that has to be used, or the compiler would drop the loop.
struct Loops {
  uint64_t (*read_part)(const std::byte* from, size_t bytes);  // 64-byte aligned; leaves up to 4 KiB out
  float (*multiply_part)(int64_t steps);
  size_t flops_per_step;
};

// A thread reads two streams and prefetches nothing: the fastest of 1 to 8 streams with and without prefetch
// (Zen 4, 2 threads, 33 GB/s; with prefetch 25 to 30).
constexpr int kSums = 8;
constexpr int kAccumulators = 12;  // two a cycle at a latency of 6; with 2 operands they fit 16 registers

namespace portable {
using Words = uint64_t __attribute__((vector_size(16)));
using Floats = float __attribute__((vector_size(16)));
constexpr size_t kProducts = 1;  // of a lane and instruction
// Of the sum, not of the constants: their product would be taken out of the loop.
Floats multiply_add(Floats a, Floats b, Floats c) { return c * a + b; }
#include "cli/bench_machine_loops.inc"
}  // namespace portable

}  // namespace
}  // namespace anyfp8::cli

#if defined(__x86_64__)
ANYFP8_TARGET_BEGIN("avx2,fma")
namespace anyfp8::cli {
namespace {
namespace avx2 {
using Words = uint64_t __attribute__((vector_size(32)));
using Floats = __m256;
constexpr size_t kProducts = 1;
Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
#include "cli/bench_machine_loops.inc"
}  // namespace avx2
}  // namespace
}  // namespace anyfp8::cli
ANYFP8_TARGET_END

ANYFP8_TARGET_BEGIN("avx512f")
namespace anyfp8::cli {
namespace {
namespace avx512 {
using Words = uint64_t __attribute__((vector_size(64)));
using Floats = __m512;
constexpr size_t kProducts = 1;
Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
#include "cli/bench_machine_loops.inc"
}  // namespace avx512
}  // namespace
}  // namespace anyfp8::cli
ANYFP8_TARGET_END

ANYFP8_TARGET_BEGIN("avx512f,avx512bw,avx512bf16")
namespace anyfp8::cli {
namespace {
namespace avx512_bf16 {
using Words = uint64_t __attribute__((vector_size(64)));
using Floats = __m512;
constexpr size_t kProducts = 2;
Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
#include "cli/bench_machine_loops.inc"
}  // namespace avx512_bf16
}  // namespace
}  // namespace anyfp8::cli
ANYFP8_TARGET_END
#endif

namespace anyfp8::cli {
namespace {

std::atomic<uint64_t> used_words{0};
std::atomic<float> used_float{0};

Loops widest_loops([[maybe_unused]] const CpuIsa& isa) {
#if defined(__x86_64__)
  if (isa.avx512) return avx512::kLoops;
  if (isa.avx2) return avx2::kLoops;
#endif
  return portable::kLoops;
}

class ReadMethod : public BenchMethod {
 public:
  ReadMethod(const CpuIsa& isa, size_t bytes) : loops_(widest_loops(isa)), bytes_(bytes) {
    kind = Kind::kRead;
    name = "read";
    for (size_t i = 0; i < copies_for(bytes); ++i)
      copies_.push_back(allocate_spread(DType::kU8, {static_cast<int64_t>(bytes)}));
  }
  Verdict prepare(const Activations&) override { return Verdict::yes(); }
  void run(size_t turn) override {
    const std::byte* from = copies_[turn % copies_.size()].data();
    const int threads = num_threads();
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int part = 0; part < threads; ++part) {
      const IndexRange range = static_split(static_cast<int64_t>(bytes_), 4096, part, threads);
      used_words.store(loops_.read_part(from + range.begin, static_cast<size_t>(range.end - range.begin)),
                       std::memory_order_relaxed);
    }
  }
  double read_bytes() const override { return static_cast<double>(bytes_); }

 private:
  Loops loops_;
  size_t bytes_;
  std::vector<HostTensor> copies_;
};

class PeakMethod : public BenchMethod {
 public:
  PeakMethod(const CpuIsa& isa, [[maybe_unused]] DType activations) : loops_(widest_loops(isa)) {
    kind = Kind::kPeak;
    name = "fp32 multiply-add";
#if defined(__x86_64__)
    if (activations == DType::kBF16 && isa.avx512_bf16) {
      loops_ = avx512_bf16::kLoops;
      name = "vdpbf16ps";
    }
#endif
  }
  Verdict prepare(const Activations&) override { return Verdict::yes(); }
  void run(size_t) override {
    const int threads = num_threads();
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int part = 0; part < threads; ++part)
      used_float.store(loops_.multiply_part(kSteps), std::memory_order_relaxed);
  }
  double flops() const override {
    return static_cast<double>(num_threads()) * kSteps * static_cast<double>(loops_.flops_per_step);
  }

 private:
  static constexpr int64_t kSteps = 200'000;  // about a millisecond: starting the threads is below 1 % of it
  Loops loops_;
};

}  // namespace

std::unique_ptr<BenchMethod> read_method(const Device& device, size_t bytes) {
  if (device.kind == DeviceKind::kCuda) return cuda_read_method(device);
  return std::make_unique<ReadMethod>(device.isa, bytes);
}

Verdict peak_known(const Device& device, DType activations) {
  if (device.kind == DeviceKind::kCuda) {
    ANYFP8_NEED(
        activations != DType::kF32,
        "the peak of a CUDA device is measured in 16 bit, so with activations f32 there is no part of it");
    return Verdict::yes();
  }
  ANYFP8_NEED(
      !device.isa.amx_bf16,
      "the peak of AMX tiles is not measured, so there is no part of it either; ANYFP8_ISA=avx512_bf16 "
      "has the vdpbf16ps peak");
  ANYFP8_NEED(!device.isa.neon_bf16 || activations != DType::kBF16,
              "the peak of NEON's bf16 products is not measured, so there is no part of it either");
  return Verdict::yes();
}

std::unique_ptr<BenchMethod> peak_method(const Device& device, DType activations) {
  if (device.kind == DeviceKind::kCuda) return cuda_peak_method(device, activations);
  return std::make_unique<PeakMethod>(device.isa, activations);
}

}  // namespace anyfp8::cli
