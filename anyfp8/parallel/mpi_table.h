#pragma once

#include <cstddef>

// What this library needs of MPI, as a table of C functions. MPI has no binary interface of its own: each
// implementation has other handles and constants. So the one file that includes mpi.h (mpi_module.cpp) is a
// module, libanyfp8_mpi.so, opened when it is asked for; everything else knows this table alone, and tests
// can make one up.
extern "C" {

struct Anyfp8MpiRequest {
  alignas(8) char handle[16];
};

// Functions that can fail return null, or MPI's words, which live until the next call.
struct Anyfp8MpiTable {
  int version;          // kMpiTableVersion
  const char* library;  // "Open MPI v4.1.4"
  int rank, size;
  // A communicator of our own over all ranks; never freed.
  const char* (*open)(void** comm);
  const char* (*send)(void* comm, const void* data, size_t bytes, int to, int tag, Anyfp8MpiRequest* request);
  const char* (*receive)(void* comm, void* data, size_t bytes, int from, int tag, Anyfp8MpiRequest* request);
  // Whether all are done; also what drives them.
  const char* (*test)(Anyfp8MpiRequest* requests, int count, bool* all_done);
  // Requests that will not be done: taken back where that is possible.
  void (*give_up)(Anyfp8MpiRequest* requests, int count);
  // Every rank, at its end, if all are well; nothing else may be called then.
  void (*finalize)();
};

// The one symbol of the module. Starts MPI where the process has not. Null, with the reason in `why`, when it
// cannot.
const Anyfp8MpiTable* anyfp8_mpi_table(char* why, size_t why_bytes);

}  // extern "C"

namespace anyfp8 {
inline constexpr int kMpiTableVersion = 1;
inline constexpr char kMpiModule[] = "libanyfp8_mpi.so", kMpiSymbol[] = "anyfp8_mpi_table";
}  // namespace anyfp8
