// libanyfp8_mpi.so: the table of mpi_table.h over the MPI it was compiled with. Nothing of anyfp8 is linked
// to it.
#include <mpi.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "anyfp8/parallel/mpi_table.h"

namespace {

char words[MPI_MAX_ERROR_STRING + 64];

const char* said(int code, const char* call) {
  if (code == MPI_SUCCESS) return nullptr;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  std::snprintf(words, sizeof(words), "%s: %s", call, text);
  return words;
}

static_assert(sizeof(MPI_Request) <= sizeof(Anyfp8MpiRequest::handle));
MPI_Request load(const Anyfp8MpiRequest& request) {
  MPI_Request handle;
  std::memcpy(&handle, request.handle, sizeof(MPI_Request));
  return handle;
}
void store(MPI_Request handle, Anyfp8MpiRequest* request) {
  std::memcpy(request->handle, &handle, sizeof(MPI_Request));
}

const char* open(void** comm) {
  auto* own = new MPI_Comm;
  const int code = MPI_Comm_dup(MPI_COMM_WORLD, own);
  if (code == MPI_SUCCESS) MPI_Comm_set_errhandler(*own, MPI_ERRORS_RETURN);
  *comm = own;
  return said(code, "MPI_Comm_dup");
}

const char* send(void* comm, const void* data, size_t bytes, int to, int tag, Anyfp8MpiRequest* request) {
  MPI_Request handle = MPI_REQUEST_NULL;
  const int code =
      MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, to, tag, *static_cast<MPI_Comm*>(comm), &handle);
  store(handle, request);
  return said(code, "MPI_Isend");
}

const char* receive(void* comm, void* data, size_t bytes, int from, int tag, Anyfp8MpiRequest* request) {
  MPI_Request handle = MPI_REQUEST_NULL;
  const int code =
      MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, from, tag, *static_cast<MPI_Comm*>(comm), &handle);
  store(handle, request);
  return said(code, "MPI_Irecv");
}

const char* test(Anyfp8MpiRequest* requests, int count, bool* all_done) {
  *all_done = true;
  for (int i = 0; i < count; ++i) {
    MPI_Request handle = load(requests[i]);
    if (handle == MPI_REQUEST_NULL) continue;
    int done = 0;
    const int code = MPI_Test(&handle, &done, MPI_STATUS_IGNORE);
    store(handle, &requests[i]);
    if (code != MPI_SUCCESS) return said(code, "MPI_Test");
    if (done == 0) *all_done = false;
  }
  return nullptr;
}

void give_up(Anyfp8MpiRequest* requests, int count) {
  for (int i = 0; i < count; ++i) {
    MPI_Request handle = load(requests[i]);
    if (handle == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&handle);
    int done = 0;
    MPI_Test(&handle, &done, MPI_STATUS_IGNORE);
    store(MPI_REQUEST_NULL, &requests[i]);
  }
}

void finalize() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized == 0) MPI_Finalize();
}
void leave_to_the_application() {}

}  // namespace

extern "C" __attribute__((visibility("default"))) const Anyfp8MpiTable* anyfp8_mpi_table(char* why,
                                                                                         size_t why_bytes) {
  int initialized = 0, finalized = 0, given = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (finalized != 0) {
    std::snprintf(why, why_bytes, "MPI was finalized in this process already");
    return nullptr;
  }
  if (initialized == 0) {
    // Open MPI's reading of another process's memory is forbidden in many containers, and prints lines of its
    // own when that process has died; through shared memory it does neither.
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &given);
    if (code != MPI_SUCCESS) {
      std::snprintf(why, why_bytes, "%s", said(code, "MPI_Init_thread"));
      return nullptr;
    }
  }
  static char library[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(library, &length);
  library[std::strcspn(library, ",\n")] = '\0';
  static Anyfp8MpiTable table{anyfp8::kMpiTableVersion,
                              library,
                              0,
                              1,
                              open,
                              send,
                              receive,
                              test,
                              give_up,
                              initialized == 0 ? finalize : leave_to_the_application};
  MPI_Comm_rank(MPI_COMM_WORLD, &table.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &table.size);
  return &table;
}
