#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "anyfp8/base/export.h"
#include "anyfp8/kernels/kernel.h"

namespace anyfp8 {

// Kernels from outside the tree come as a shared object that exports
//   extern "C" const anyfp8::KernelPlugin* anyfp8_kernel_plugin();
// built with a compiler of the same C++ ABI. Loaded plugins stay for the life of the process.
inline constexpr uint32_t kPluginAbiVersion = 2;
inline constexpr const char* kPluginSymbol = "anyfp8_kernel_plugin";

struct KernelPlugin {
  uint32_t abi_version = kPluginAbiVersion;  // must stay the first member for ever
  uint32_t kernel_bytes = sizeof(Kernel);    // a second guard against a differing header
  const Kernel* kernel = nullptr;
  const char* before = nullptr;  // place in the list: before this kernel,
  const char* after = nullptr;   // or after this one; both null: first of all. Not both.
};

// Loads one plugin and puts its kernel into all_kernels(). Error(kNotFound / kIo) when the file or the symbol
// is missing, kUnsupported for another ABI version, kInvalidArgument for a duplicate name, an incomplete
// kernel or an unknown neighbour; a failed load changes nothing. Loading the same file again does nothing.
// ANYFP8_PLUGIN=path[:path] does this at the first use of all_kernels().
ANYFP8_API void load_plugin(const std::filesystem::path& path);

}  // namespace anyfp8
