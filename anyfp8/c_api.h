#ifndef ANYFP8_C_API_H_
#define ANYFP8_C_API_H_

#include <stddef.h>
#include <stdint.h>

#include "anyfp8/base/export.h"

// The C ABI of anyfp8: the stable boundary, for C and for every language that can call it.
//
//   open a checkpoint ─ load a weight ─ [merge] ─ create a linear layer ─ apply it
//
// Rules that hold for every function:
// - Functions that can fail return ANYFP8_OK (0) or an error code, and then anyfp8_last_error() is a sentence
//   that says what was found, what was needed and what to do. No C++ exception comes through.
// - Results are the last arguments. When a call fails, a handle or text result is set to NULL.
// - Handles are opaque. Each has a _free function, which takes NULL and does nothing then. A handle made from
//   another one keeps what it needs alive: a checkpoint may be freed before the weights loaded from it.
// - Text results (UTF-8, JSON where the name says so) belong to the caller: anyfp8_string_free(). A later
//   version may add members to a JSON object; it never renames or removes one.
// - Strings passed in are UTF-8, end in NUL, and are copied. Null pointers are refused in words, except where
//   the text says "or NULL".
// - A handle may be used from several threads at once as long as all of them call functions that take it as
//   const. _free, and functions that take it without const, need it alone.
// - Letters: y[m, n] = x[m, k] · W[n, k]ᵀ + bias[n]; m tokens, n outputs, k inputs. Matrices are row-major.

#ifdef __cplusplus
extern "C" {
#endif

#define ANYFP8_ABI_VERSION 1

// The ABI version of the loaded library. A program built with another ANYFP8_ABI_VERSION must not go on:
// the number changes only when a function or struct below changes its meaning.
ANYFP8_API int anyfp8_abi_version(void);

// "0.1.0"; lives for the whole process.
ANYFP8_API const char* anyfp8_version(void);

enum {
  ANYFP8_OK = 0,
  ANYFP8_INVALID_ARGUMENT = 1,  // the caller's values do not fit together
  ANYFP8_NOT_FOUND = 2,         // a file, tensor or kernel of that name does not exist
  ANYFP8_INVALID_FILE = 3,      // a file breaks the rules of its format
  ANYFP8_UNSUPPORTED = 4,       // understood, and not something this library or build can do
  ANYFP8_IO = 5,                // the operating system refused
  ANYFP8_CUDA_ERROR = 6,
  ANYFP8_INTERNAL = 7,  // a bug in anyfp8
  ANYFP8_OUT_OF_MEMORY = 8,
};

// The message of this thread's last failed call; "" when none failed. A successful call leaves it as it is.
// Valid until this thread's next failing call.
ANYFP8_API const char* anyfp8_last_error(void);

// Frees a text result; NULL is fine.
ANYFP8_API void anyfp8_string_free(char* text);

// Element types. 0 is never one: in an options struct it means the default, for a bias "none".
// E4M3 is the OCP "fn" form (largest value 448); E8M0 is a power of two, 2^(code - 127).
enum {
  ANYFP8_F64 = 1,
  ANYFP8_F32 = 2,
  ANYFP8_F16 = 3,
  ANYFP8_BF16 = 4,
  ANYFP8_E4M3 = 5,
  ANYFP8_E5M2 = 6,
  ANYFP8_E8M0 = 7,
};

typedef struct anyfp8_device anyfp8_device;
typedef struct anyfp8_checkpoint anyfp8_checkpoint;
typedef struct anyfp8_weight anyfp8_weight;
typedef struct anyfp8_linear anyfp8_linear;
typedef struct anyfp8_workspace anyfp8_workspace;
typedef struct anyfp8_comm anyfp8_comm;
typedef struct anyfp8_parallel_linear anyfp8_parallel_linear;

// ---- The process

// Threads that CPU kernels use, 1 to 1024. Default: ANYFP8_THREADS, else the CPUs of this process.
ANYFP8_API int anyfp8_set_num_threads(int count);

// Where the library's messages go (level 0 debug, 1 info, 2 warning): called from any thread, one call at a
// time; it must not call back into anyfp8. NULL restores the default, warnings on stderr. `user` is handed
// through.
typedef void (*anyfp8_log_callback)(int level, const char* message, void* user);
ANYFP8_API int anyfp8_set_log_callback(anyfp8_log_callback callback, void* user);

// Loads a kernel plugin (a shared object, see anyfp8/kernels/plugin.h); it stays for the life of the process.
ANYFP8_API int anyfp8_load_plugin(const char* path);

// The list of kernels, most preferred first: [{"name", "summary", "device", "built"}].
ANYFP8_API int anyfp8_kernels_json(char** json);

// ---- Devices

// Devices this process can run a kernel on: the CPU, then CUDA devices in a CUDA build.
ANYFP8_API int anyfp8_device_count(int* count);

// "cpu" (this one), "cuda:0" (present), or hardware to plan for that need not be there: "cpu:avx2", "sm_86".
ANYFP8_API int anyfp8_device_open(const char* name, anyfp8_device** device);

// Device `index` of anyfp8_device_count().
ANYFP8_API int anyfp8_device_at(int index, anyfp8_device** device);

// {"kind": "cpu", "index", "name", "isa", "cores", "memory_bytes", "mem_gb_per_s"}, or {"kind": "cuda",
// "index", "name", "compute_capability": "8.6", "sm_count", "smem_per_block", "l2_bytes", ...}; 0 stands for
// not known.
ANYFP8_API int anyfp8_device_json(const anyfp8_device* device, char** json);
ANYFP8_API void anyfp8_device_free(anyfp8_device* device);

// ---- Checkpoints

// Opens and checks a Hugging Face model directory or one .safetensors file. Reads headers, no tensor.
ANYFP8_API int anyfp8_checkpoint_open(const char* path, anyfp8_checkpoint** checkpoint);
ANYFP8_API void anyfp8_checkpoint_free(anyfp8_checkpoint* checkpoint);

// Every tensor, by name: [{"name", "dtype": "F8_E4M3", "shape": [n, k], "bytes", "shard"}].
ANYFP8_API int anyfp8_checkpoint_tensors_json(const anyfp8_checkpoint* checkpoint, char** json);

// The bytes of one tensor where they are mapped, not copied: read-only, valid until the checkpoint and every
// weight loaded from it are freed. Its dtype and shape are in anyfp8_checkpoint_tensors_json().
ANYFP8_API int anyfp8_checkpoint_tensor(const anyfp8_checkpoint* checkpoint, const char* name,
                                        const void** data, size_t* bytes);

// The name of the FP8 dialect ("hf_fp8", "compressed_tensors", ...); "" for a checkpoint without
// quantisation.
ANYFP8_API int anyfp8_checkpoint_format(const anyfp8_checkpoint* checkpoint, char** name);

// ---- Weights

// Shape and scheme of one layer. Set struct_size to sizeof(anyfp8_layer) and everything else to zero first; a
// later version may add members at the end, for which zero keeps its meaning.
typedef struct anyfp8_layer {
  size_t struct_size;
  int64_t n, k;
  int32_t weight_dtype;  // ANYFP8_E4M3, _E5M2; or _BF16, _F16, _F32 for a layer that is not quantised
  // One scale covers group_rows x group_cols elements of W[n, k]; 0 stands for the whole extent, so
  // {0, 0} is per tensor, {1, 0} per output row, {128, 128} block, {1, 32} MX.
  int32_t group_rows, group_cols;
  int32_t scale_dtype;  // 0: ANYFP8_F32; or ANYFP8_E8M0
  int32_t bias_dtype;   // 0: no bias; ANYFP8_F32, _F16 or _BF16
  // How the checkpoint wants activations quantised (e4m3): 0 not at all, 1 with a stored scale per tensor,
  // 2 at run time, one scale per activation_rows x activation_cols elements of x[m, k], as above.
  int32_t activation;
  int32_t activation_rows, activation_cols;
  int32_t reserved;  // zero
  // What the first version did not have. Of activations quantised at run time: no larger amax is taken
  // (fbgemm); 0: no such bound.
  float input_scale_ub;
  int32_t reserved_2;  // zero
} anyfp8_layer;

// What is in the checkpoint, from headers and scales, read as its dialect says:
// {"format": "hf_fp8" or null, "summary": text or null, "quantized_parameters", "tensor_bytes",
//  "layers": [{"module", then as of anyfp8_weight_json()}]: every 2-D `<module>.weight`, embeddings included,
//  "anomalies": [{"tensor", "text"}]: odd, and no obstacle,
//  "errors": [{"tensor", "text"}]: what anyfp8_weight_load() refuses}
ANYFP8_API int anyfp8_checkpoint_inspect_json(const anyfp8_checkpoint* checkpoint, char** json);

// Loads `<module>.weight` with its scale and bias, from any dialect. Nothing but scales of another dtype is
// copied. module: "model.layers.0.mlp.up_proj".
ANYFP8_API int anyfp8_weight_load(const anyfp8_checkpoint* checkpoint, const char* module,
                                  anyfp8_weight** weight);

// A weight over the caller's host memory. Nothing is copied here: all of it must stay, unchanged, until this
// weight, and every linear layer made from it, are freed.
//   data   [n, k] of layer->weight_dtype
//   scale  [ceil(n / group_rows), ceil(k / group_cols)] of layer->scale_dtype; multiplies; NULL exactly when
//          the layer is not quantised
//   bias   [n] of layer->bias_dtype; NULL exactly when that is 0
//   input_scale  the stored activation scale (copied), or NULL
// Shapes, NaN codes and scales are checked here.
ANYFP8_API int anyfp8_weight_borrow(const anyfp8_layer* layer, const void* data, const void* scale,
                                    const void* bias, const float* input_scale, anyfp8_weight** weight);

// Quantises data[n, k] (ANYFP8_BF16, _F16 or _F32, read during the call only) to e4m3 with new scales.
// scheme: "tensor", "channel", "block" (128 x 128) or "mxfp8" (k a multiple of 32). The scales are fp32, or
// e8m0 for mxfp8.
ANYFP8_API int anyfp8_weight_quantize(const void* data, int32_t dtype, int64_t n, int64_t k,
                                      const char* scheme, anyfp8_weight** weight);

// Stacks `count` weights of the same k and dtype along n (q/k/v, gate/up). Every scale is kept exactly; bytes
// are copied.
ANYFP8_API int anyfp8_weight_merge(const anyfp8_weight* const* parts, size_t count, anyfp8_weight** weight);

// Rows n (outputs) and columns k (inputs).
ANYFP8_API int anyfp8_weight_shape(const anyfp8_weight* weight, int64_t* n, int64_t* k);

// {"n", "k", "scheme": a text, "weight": {"dtype", "group": [rows, cols], "scale_dtype" or null},
//  "activation": {"dtype", "group", "source": "stored" | "dynamic"} or null, "bias": its dtype or null,
//  "input_scale": number or null, "input_scale_ub": number or null, "resident_bytes"}
ANYFP8_API int anyfp8_weight_json(const anyfp8_weight* weight, char** json);

// The bytes of the weight, [n, k], and of its scales (NULL and 0 without): read-only, valid as long as the
// weight.
ANYFP8_API int anyfp8_weight_data(const anyfp8_weight* weight, const void** data, size_t* bytes);
ANYFP8_API int anyfp8_weight_scale(const anyfp8_weight* weight, const void** scale, size_t* bytes);

// The bias, [n] of the dtype that anyfp8_weight_json() says; NULL and 0 without.
ANYFP8_API int anyfp8_weight_bias(const anyfp8_weight* weight, const void** bias, size_t* bytes);

// Rows [row_begin, row_end) as data * scale into rows[row_end - row_begin, k]; row_count is the number of
// floats `rows` has room for, and must be at least that many.
ANYFP8_API int anyfp8_weight_dequantize(const anyfp8_weight* weight, int64_t row_begin, int64_t row_end,
                                        float* rows, size_t row_count);
ANYFP8_API void anyfp8_weight_free(anyfp8_weight* weight);

// ---- Linear layers

enum {
  ANYFP8_POLICY_DEFAULT = 0,    // speed where the checkpoint asks for quantised activations, else accuracy
  ANYFP8_POLICY_ACCURACY = 1,   // activations stay 16 or 32 bit
  ANYFP8_POLICY_SPEED = 2,      // activations may be quantised where the checkpoint asks for it
  ANYFP8_POLICY_INVARIANT = 3,  // a row of x gives the same bits whatever m it is computed in
};

// Set struct_size to sizeof(anyfp8_linear_options) and everything else to zero, then what should differ.
typedef struct anyfp8_linear_options {
  size_t struct_size;
  int32_t in_dtype, out_dtype;  // of x and y: 0 is ANYFP8_BF16; or ANYFP8_F16, ANYFP8_F32 (CPU)
  int32_t policy;               // ANYFP8_POLICY_*
  int32_t ignore_build;         // 1, of a plan alone: as if every kernel were in this build
  const char* force;            // this kernel or an error; NULL: ANYFP8_KERNEL, else choose
  const char* const* disable;   // kernels taken out; NULL: ANYFP8_DISABLE
  size_t disable_count;
  // A file of `anyfp8 tune`, or an error; "": the built-in choices. NULL: the file that ANYFP8_TUNE_CACHE
  // names ("off": none), else $XDG_CACHE_HOME/anyfp8/tune.json or ~/.cache/anyfp8/tune.json, where there is
  // one; what cannot be used of that one is left, with a warning.
  const char* tune_cache;
} anyfp8_linear_options;

// The plan for a layer without its weight, also for hardware that is absent; options may be NULL. As a
// text of several lines, or as {"ranges": [{"begin", "end": m or null, "kernel", "tuned"}], "layout",
// "rejected": [{"kernel", "reason", "able"}], "unused_tuning": [text]}: the kernel for begin <= m < end, how
// they want 8-bit weights ("row_major", "panel64", "k64_shuffled"), why not the others, and what of the tuned
// table cannot be had. ANYFP8_UNSUPPORTED, with each kernel's reason, when nothing can run it.
ANYFP8_API int anyfp8_select_text(const anyfp8_device* device, const anyfp8_layer* layer,
                                  const anyfp8_linear_options* options, char** text);
ANYFP8_API int anyfp8_select_json(const anyfp8_device* device, const anyfp8_layer* layer,
                                  const anyfp8_linear_options* options, char** json);

// Chooses the kernels and places the weight; options may be NULL. Refuses here all that could fail later.
// `stream` is a cudaStream_t, NULL for the default stream and on the CPU. On the CPU 8-bit weights are
// packed into the layout of their kernels; wider ones, and those of a kernel that reads row-major, are used
// where they are, and kept alive. Free the weight handle afterwards, or an 8-bit weight stays in memory
// twice. On a CUDA device everything is copied, and there when this returns; the weight may be freed.
ANYFP8_API int anyfp8_linear_create(const anyfp8_device* device, const anyfp8_weight* weight,
                                    const anyfp8_linear_options* options, void* stream,
                                    anyfp8_linear** linear);
ANYFP8_API void anyfp8_linear_free(anyfp8_linear* linear);

// y[m, n] = x[m, k] · Wᵀ + bias, for any m >= 0. x and y lie on the layer's device and do not overlap; row r
// of x begins x_row_stride * r elements after x (likewise y), with x_row_stride >= k and y_row_stride >= n.
// Neither allocates nor synchronises. The workspace must have anyfp8_linear_workspace_bytes(m); two calls at
// the same time need two. On a CUDA device the work is queued on `stream` and may be captured in a graph.
ANYFP8_API int anyfp8_linear_apply(const anyfp8_linear* linear, const void* x, int64_t x_row_stride, void* y,
                                   int64_t y_row_stride, int64_t m, anyfp8_workspace* workspace,
                                   void* stream);

// The same with scratch memory of the caller's instead of a workspace, for callers whose allocator knows
// streams: at least anyfp8_linear_workspace_bytes(m) on the layer's device at a multiple of 256 bytes
// (64 on CPUs), of this call's until its work is done; NULL where that is 0.
ANYFP8_API int anyfp8_linear_apply_with(const anyfp8_linear* linear, const void* x, int64_t x_row_stride,
                                        void* y, int64_t y_row_stride, int64_t m, void* scratch,
                                        size_t scratch_bytes, void* stream);

// Workspace that suffices for every m up to max_m.
ANYFP8_API int anyfp8_linear_workspace_bytes(const anyfp8_linear* linear, int64_t max_m, size_t* bytes);

// Another weight of the same n, k, scheme and bias, in place, so that captured graphs see it; the caller
// makes sure that no apply runs, on a CUDA device on another stream than this one. Done when it returns.
ANYFP8_API int anyfp8_linear_update_weights(anyfp8_linear* linear, const anyfp8_weight* weight, void* stream);

// As anyfp8_weight_dequantize(), from the placed weight into host memory.
ANYFP8_API int anyfp8_linear_dequantize(const anyfp8_linear* linear, int64_t row_begin, int64_t row_end,
                                        float* rows, size_t row_count);

// The weight that the layer was made from, in host memory and bit for bit as anyfp8_weight_data() and the
// others show it; the bias may have become ANYFP8_F32. For saving, and for placing it elsewhere.
ANYFP8_API int anyfp8_linear_weight(const anyfp8_linear* linear, anyfp8_weight** weight);

// The layer's plan, as of anyfp8_select_text() and anyfp8_select_json().
ANYFP8_API int anyfp8_linear_explain(const anyfp8_linear* linear, char** text);
ANYFP8_API int anyfp8_linear_plan_json(const anyfp8_linear* linear, char** json);

// Bytes of weight, scales and bias as placed.
ANYFP8_API int anyfp8_linear_resident_bytes(const anyfp8_linear* linear, size_t* bytes);

// ---- Workspaces

// Scratch memory that many layers share, one for each stream or thread.
ANYFP8_API int anyfp8_workspace_create(const anyfp8_device* device, anyfp8_workspace** workspace);

// Grows to at least `bytes`; never shrinks. Not while a layer runs with it.
ANYFP8_API int anyfp8_workspace_reserve(anyfp8_workspace* workspace, size_t bytes);
ANYFP8_API int anyfp8_workspace_bytes(const anyfp8_workspace* workspace, size_t* bytes);
ANYFP8_API void anyfp8_workspace_free(anyfp8_workspace* workspace);

// ---- Weights shared out over ranks

// How a layer is split over the ranks of a Comm.
enum {
  ANYFP8_SPLIT_COLUMN = 1,  // along n: a rank computes some of the outputs, from all of x
  ANYFP8_SPLIT_ROW = 2,     // along k: a rank has some of x, and the outputs are sums over the ranks
};

// What rank `rank` of `size` gets of n or k: [begin, end), in the order of ranks, nobody nothing. A function
// of the extent and the size alone, so the outputs of a column split are the inputs of the row split after
// it.
ANYFP8_API int anyfp8_shard_range(int64_t extent, int32_t rank, int32_t size, int64_t* begin, int64_t* end);

// A rank's part of a weight; the scales keep their values, and groups that are cut become finer. Columns are
// not copied. The bias goes with the outputs; of a row split rank 0 has it, so that the sum has it once.
ANYFP8_API int anyfp8_weight_shard(const anyfp8_weight* weight, int32_t split, int32_t rank, int32_t size,
                                   anyfp8_weight** shard);

// ANYFP8_SPLIT_COLUMN of a weight that is `count` stacked along n (gate/up), split part by part; part_rows
// are their outputs, which add up to n.
ANYFP8_API int anyfp8_weight_shard_merged(const anyfp8_weight* weight, const int64_t* part_rows, size_t count,
                                          int32_t rank, int32_t size, anyfp8_weight** shard);

// ANYFP8_SPLIT_COLUMN of fused q/k/v, [(heads + 2 kv_heads) head_dim, k]: whole kv heads with all their q
// heads, and where there are fewer kv heads than ranks, each on several of them.
ANYFP8_API int anyfp8_weight_shard_qkv(const anyfp8_weight* weight, int64_t heads, int64_t kv_heads,
                                       int64_t head_dim, int32_t rank, int32_t size, anyfp8_weight** shard);

// ---- Ranks

// Called once when a rank is lost, from a thread of the library's; it may end the process.
typedef void (*anyfp8_lost_callback)(const char* reason, void* user);

// What the launcher says before there is a Comm: local_rank is this rank's place on its machine, the GPU to
// take. Any of the three may be NULL. Started alone, or with ANYFP8_LAUNCH=none: 0 of 1, at place 0.
ANYFP8_API int anyfp8_launched_as(int32_t* rank, int32_t* size, int32_t* local_rank);

// The ranks that this process was launched with (mpirun, srun or torchrun; started alone it is one), on
// `device`: MPI on a CPU, NCCL on GPUs, where each rank has its own. All ranks call it, and all functions
// that take the Comm, in the same order. A rank that dies or does something else makes the calls of all
// others fail with ANYFP8_IO and its number; work that waits for it on a GPU ends, with worthless results.
// on_lost may be NULL; `user` is handed through.
ANYFP8_API int anyfp8_comm_open(const anyfp8_device* device, anyfp8_lost_callback on_lost, void* user,
                                anyfp8_comm** comm);

// A Comm on an ncclComm_t of somebody else's, of torch.distributed for one, made with the libnccl.so.2 of
// this process. It must outlive the Comm and its layers; its owner watches over it.
ANYFP8_API int anyfp8_comm_adopt_nccl(const anyfp8_device* device, void* nccl_comm, anyfp8_comm** comm);

// {"engine": "mpi" | "nccl" | "self", "rank", "size", "device"}
ANYFP8_API int anyfp8_comm_json(const anyfp8_comm* comm, char** json);
ANYFP8_API int anyfp8_comm_rank(const anyfp8_comm* comm, int32_t* rank, int32_t* size);

// ANYFP8_IO once a rank is lost: to be asked after waiting for a GPU's stream.
ANYFP8_API int anyfp8_comm_check(const anyfp8_comm* comm);

// Scratch that suffices for calls on up to `count` elements (of all ranks) of these types.
ANYFP8_API int anyfp8_comm_scratch_bytes(const anyfp8_comm* comm, int64_t count, int32_t from_dtype,
                                         int32_t to_dtype, size_t* bytes);

// Collectives on contiguous memory of the Comm's device. On a CPU done when they return, on a GPU queued on
// `stream`, also into a graph that is being captured. `scratch` may be NULL where its size is 0.
//   all_reduce      to[i] = the sum over the ranks of from[i]; `to` may be `from` where the types are one
//   all_gather      every rank's counts[rank] elements one after the other, on all ranks
//   reduce_scatter  the sum over the ranks of from[sum of counts], of which rank r gets its counts[r]
//   elements broadcast       bytes of rank `root` barrier         nobody comes out before all came in (on a
//   GPU: no stream)
// Types are ANYFP8_F32, _BF16 or _F16; counts has an entry for each rank.
ANYFP8_API int anyfp8_comm_all_reduce(anyfp8_comm* comm, const void* from, int32_t from_dtype, void* to,
                                      int32_t to_dtype, int64_t count, void* scratch, size_t scratch_bytes,
                                      void* stream);
ANYFP8_API int anyfp8_comm_all_gather(anyfp8_comm* comm, const void* from, void* to, int32_t dtype,
                                      const int64_t* counts, void* scratch, size_t scratch_bytes,
                                      void* stream);
ANYFP8_API int anyfp8_comm_reduce_scatter(anyfp8_comm* comm, const void* from, int32_t from_dtype, void* to,
                                          int32_t to_dtype, const int64_t* counts, void* scratch,
                                          size_t scratch_bytes, void* stream);
ANYFP8_API int anyfp8_comm_broadcast(anyfp8_comm* comm, void* data, size_t bytes, int32_t root, void* stream);
ANYFP8_API int anyfp8_comm_barrier(anyfp8_comm* comm, void* stream);

// With the last of the layers made with it gone too, says goodbye and waits for the other ranks to do so.
ANYFP8_API void anyfp8_comm_free(anyfp8_comm* comm);

// ---- Layers that lie on several ranks

// Set struct_size to sizeof(anyfp8_parallel_options) and everything else to zero, then what should differ.
typedef struct anyfp8_parallel_options {
  size_t struct_size;
  int32_t split;  // ANYFP8_SPLIT_*; never 0
  // 1: between a row split and a column split a rank has some of the tokens (anyfp8_token_range()), which the
  // column split gathers and the row split scatters.
  int32_t sequence_parallel;
  int32_t gather_output;  // 1, of a column split: y has all outputs, on every rank
  // Of a row split. 1: products are summed as f32 and rounded once; 2: each is rounded to y's type first; 0:
  // as f32 on CPUs, in y's type on GPUs, whose fast kernels write no f32.
  int32_t reduce;
} anyfp8_parallel_options;

// The tokens of m that a rank has in the sequence parallel form.
ANYFP8_API int anyfp8_token_range(int64_t m, int32_t rank, int32_t size, int64_t* begin, int64_t* end);

// As anyfp8_linear_create(), of this rank's shard of the weight, on the Comm's device; all ranks call it.
// ANYFP8_INVALID_ARGUMENT on every rank when the shards are not of one layer.
ANYFP8_API int anyfp8_parallel_linear_create(anyfp8_comm* comm, const anyfp8_weight* shard,
                                             const anyfp8_parallel_options* parallel,
                                             const anyfp8_linear_options* options, void* stream,
                                             anyfp8_parallel_linear** linear);

// All ranks call it with the same m, the number of tokens of all ranks together.
//   column  x [m, k], sequence parallel [tokens of this rank, k]; y [m, n of this rank], gathered [m, n]
//   row     x [m, k of this rank]; y [m, n], sequence parallel [tokens of this rank, n]
// Row r of x begins x_row_stride * r elements after x; rows of a row split's y follow each other without
// gaps. scratch: at least anyfp8_parallel_linear_workspace_bytes(m) on the device, at a multiple of 256
// bytes (64 on CPUs), of this call's until its work is done. Neither allocates nor synchronises on a GPU, and
// may be captured in a graph.
ANYFP8_API int anyfp8_parallel_linear_apply(const anyfp8_parallel_linear* linear, const void* x,
                                            int64_t x_row_stride, void* y, int64_t y_row_stride, int64_t m,
                                            void* scratch, size_t scratch_bytes, void* stream);
ANYFP8_API int anyfp8_parallel_linear_workspace_bytes(const anyfp8_parallel_linear* linear, int64_t max_m,
                                                      size_t* bytes);

// The columns of x and y on this rank.
ANYFP8_API int anyfp8_parallel_linear_shape(const anyfp8_parallel_linear* linear, int64_t* x_cols,
                                            int64_t* y_cols);
// The plan of this rank's layer, as of anyfp8_select_text().
ANYFP8_API int anyfp8_parallel_linear_explain(const anyfp8_parallel_linear* linear, char** text);
ANYFP8_API int anyfp8_parallel_linear_resident_bytes(const anyfp8_parallel_linear* linear, size_t* bytes);
ANYFP8_API void anyfp8_parallel_linear_free(anyfp8_parallel_linear* linear);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // ANYFP8_C_API_H_
