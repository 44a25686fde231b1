#pragma once

#include <cstddef>
#include <string>

#include "anyfp8/base/verdict.h"

// The dozen functions of NCCL that a Comm takes, declared here and found at run time: a program starts where
// NCCL is missing, needs neither its headers nor its library to be built, and inside of torch it is torch's
// own NCCL that is taken, so that communicators can be shared. All of it is NCCL's stable C ABI since 2.13;
// the version is checked when it is opened.
namespace anyfp8 {

struct NcclUniqueId {
  char bytes[128];
};
using NcclHandle = struct ncclComm*;

// ncclResult_t
inline constexpr int kNcclSuccess = 0, kNcclInProgress = 7;
// ncclDataType_t and ncclRedOp_t
inline constexpr int kNcclUint8 = 1, kNcclFloat16 = 6, kNcclFloat32 = 7, kNcclBfloat16 = 9;
inline constexpr int kNcclSum = 0;

// Results are ncclResult_t; streams are cudaStream_t; counts are elements. As nccl.h says them.
struct NcclLibrary {
  int (*get_version)(int* version);
  const char* (*get_error_string)(int result);
  const char* (*get_last_error)(NcclHandle comm);
  int (*get_unique_id)(NcclUniqueId* id);
  int (*comm_init_rank)(NcclHandle* comm, int size, NcclUniqueId id, int rank);
  int (*comm_destroy)(NcclHandle comm);
  int (*comm_abort)(NcclHandle comm);
  int (*comm_get_async_error)(NcclHandle comm, int* result);
  int (*comm_count)(NcclHandle comm, int* size);
  int (*comm_user_rank)(NcclHandle comm, int* rank);
  int (*comm_cu_device)(NcclHandle comm, int* device);
  int (*all_reduce)(const void* from, void* to, size_t count, int type, int op, NcclHandle comm,
                    void* stream);
  int (*reduce)(const void* from, void* to, size_t count, int type, int op, int root, NcclHandle comm,
                void* stream);
  int (*reduce_scatter)(const void* from, void* to, size_t count_each, int type, int op, NcclHandle comm,
                        void* stream);
  int (*all_gather)(const void* from, void* to, size_t count_each, int type, NcclHandle comm, void* stream);
  int (*broadcast)(const void* from, void* to, size_t count, int type, int root, NcclHandle comm,
                   void* stream);
  int (*group_start)();
  int (*group_end)();

  std::string version;  // "2.28.9"
};

// The process's NCCL, opened at the first call and kept: the libnccl.so.2 that is loaded already (torch's),
// else the one that the dynamic linker finds. Error(kUnsupported) says what was looked for and what to
// install.
const NcclLibrary& nccl_library();

// Whether `code`, as ncclGetVersion() gives it (22809), is a version with the functions above as declared.
Verdict check_nccl_version(int code);

}  // namespace anyfp8
