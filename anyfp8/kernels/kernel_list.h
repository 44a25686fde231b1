#pragma once

#include <span>
#include <string>

#include "anyfp8/kernels/kernel.h"

namespace anyfp8 {

// Every kernel of the tree. A kernel's file includes this, which gives its table external linkage: one that
// has no line in kernel_list.inc stays local to its file, and the compiler warns that it is unused.
#define ANYFP8_KERNEL(name) extern const Kernel name;
#include "anyfp8/kernels/kernel_list.inc"
#undef ANYFP8_KERNEL

// "cpu_reference, cuda_reference", for the messages that list what exists.
std::string kernel_names(std::span<const Kernel* const> kernels);

}  // namespace anyfp8
