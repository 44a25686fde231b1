#include "anyfp8/parallel/nccl_library.h"

#include <dlfcn.h>

#include "anyfp8/base/text.h"

namespace anyfp8 {
namespace {

constexpr const char* kName = "libnccl.so.2";
// ncclGetLastError() came with 2.13; sums of bf16 with 2.10, collectives in captured graphs with 2.9.
constexpr int kOldest = 21300, kTooNew = 30000;

// From 2.9 on the digits are MMmmpp.
std::string version_text(int code) {
  return fmt::format("{}.{}.{}", code / 10000, code / 100 % 100, code % 100);
}

template <typename Function>
void find(void* library, const char* name, Function& function) {
  void* const address = dlsym(library, name);
  if (address == nullptr) {
    throw fail(ErrorCode::kUnsupported, "the {} of this process has no {}; NCCL 2.13 or later is needed",
               kName, name);
  }
  function = reinterpret_cast<Function>(address);
}

NcclLibrary open_library() {
  void* library = dlopen(kName, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) library = dlopen(kName, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw fail(ErrorCode::kUnsupported,
               "ranks on GPUs need NCCL, and {} cannot be loaded ({}); install the package libnccl2, or `pip "
               "install nvidia-nccl-cu13` and name its folder nvidia/nccl/lib in LD_LIBRARY_PATH",
               kName, dlerror());
  }
  NcclLibrary nccl{};
  find(library, "ncclGetVersion", nccl.get_version);
  int code = 0;
  if (nccl.get_version(&code) != kNcclSuccess) code = 0;
  if (const Verdict known = check_nccl_version(code); !known) {
    throw Error(ErrorCode::kUnsupported, known.reason());
  }
  find(library, "ncclGetErrorString", nccl.get_error_string);
  find(library, "ncclGetLastError", nccl.get_last_error);
  find(library, "ncclGetUniqueId", nccl.get_unique_id);
  find(library, "ncclCommInitRank", nccl.comm_init_rank);
  find(library, "ncclCommDestroy", nccl.comm_destroy);
  find(library, "ncclCommAbort", nccl.comm_abort);
  find(library, "ncclCommGetAsyncError", nccl.comm_get_async_error);
  find(library, "ncclCommCount", nccl.comm_count);
  find(library, "ncclCommUserRank", nccl.comm_user_rank);
  find(library, "ncclCommCuDevice", nccl.comm_cu_device);
  find(library, "ncclAllReduce", nccl.all_reduce);
  find(library, "ncclReduce", nccl.reduce);
  find(library, "ncclReduceScatter", nccl.reduce_scatter);
  find(library, "ncclAllGather", nccl.all_gather);
  find(library, "ncclBroadcast", nccl.broadcast);
  find(library, "ncclGroupStart", nccl.group_start);
  find(library, "ncclGroupEnd", nccl.group_end);
  nccl.version = version_text(code);
  return nccl;
}

}  // namespace

Verdict check_nccl_version(int code) {
  ANYFP8_NEED(code >= kOldest && code < kTooNew,
              "{} is version {} of NCCL; from 2.13 to 2.99 is needed, whose functions are known here", kName,
              version_text(code));
  return Verdict::yes();
}

const NcclLibrary& nccl_library() {
  static const NcclLibrary library = open_library();
  return library;
}

}  // namespace anyfp8
