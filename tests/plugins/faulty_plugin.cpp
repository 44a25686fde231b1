// One source, many shared objects: each is built with one FAULT_... and must be refused, but for
// FAULT_NONE_AFTER and FAULT_NONE_FIRST, which load.
#include "anyfp8/kernels/plugin.h"

namespace {

using namespace anyfp8;

constexpr DType kTypes[] = {DType::kE4M3, DType::kF32};

[[maybe_unused]] Verdict supports(const Device&) { return Verdict::no("a test's kernel runs nowhere"); }
[[maybe_unused]] TokenRange tokens(const LinearConfig&, const Device&) { return {}; }
[[maybe_unused]] void apply(const PlacedWeight&, const TensorView&, const TensorView&, Scratch, Stream) {}

const Kernel kKernel {
#if defined(FAULT_NO_NAME)
  .name = "",
#elif defined(FAULT_ODD_NAME)
  .name = "cpu,odd",
#elif defined(FAULT_DUPLICATE)
  .name = "cpu_reference",
#elif defined(FAULT_NONE_AFTER)
  .name = "cpu_after_w8a16",
#elif defined(FAULT_NONE_FIRST)
  .name = "cpu_first_w8a16",
#else
  .name = "cpu_faulty_w8a16",
#endif
  .summary = "a test's kernel",
#ifndef FAULT_NO_DTYPES
  .weight_dtypes = kTypes,
#endif
  .in_dtypes = kTypes, .out_dtypes = kTypes,
#ifndef FAULT_NO_SUPPORTS
  .supports = supports,
#endif
#ifndef FAULT_NO_TOKENS
  .tokens = tokens,
#endif
#ifndef FAULT_NO_APPLY
  .apply = apply,
#endif
};

const KernelPlugin kPlugin {
#ifdef FAULT_ABI
  .abi_version = kPluginAbiVersion + 1,
  .kernel_bytes = 7,  // of a later version: must not be looked at
#endif
#ifdef FAULT_SIZE
      .kernel_bytes = sizeof(Kernel) + 8,
#endif
#ifndef FAULT_NO_KERNEL
  .kernel = &kKernel,
#endif
#if defined(FAULT_NEIGHBOUR)
  .before = "cpu_nowhere",
#elif defined(FAULT_BOTH)
  .before = "cpu_reference", .after = "cpu_reference",
#elif defined(FAULT_NONE_AFTER)
  .after = "cpu_reference",
#endif
};

}  // namespace

#ifdef FAULT_NO_SYMBOL
extern "C" ANYFP8_API const anyfp8::KernelPlugin* another_function() { return &kPlugin; }
#elif defined(FAULT_NULL)
extern "C" ANYFP8_API const anyfp8::KernelPlugin* anyfp8_kernel_plugin() {
  return kPlugin.kernel ? nullptr : &kPlugin;
}
#else
extern "C" ANYFP8_API const anyfp8::KernelPlugin* anyfp8_kernel_plugin() { return &kPlugin; }
#endif
