/* The contract between a kernel pack and the extension that loads it. Plain C.
 *
 * A pack is a shared library (or an object linked into the extension) with one entry point, TVMOPS_PACK_ENTRY, that
 * returns a static table. Everything the table points to lives as long as the library. Adding a field or changing the
 * meaning of one bumps TVMOPS_ABI_VERSION; a pack of another version is refused.
 */
#ifndef TVMOPS_RUNTIME_ABI_H_
#define TVMOPS_RUNTIME_ABI_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TVMOPS_PACK_MAGIC 0x6b636170736d7674ull /* "tvmspack", little endian */
#define TVMOPS_ABI_VERSION 1u
#define TVMOPS_PACK_ENTRY tvmops_pack_entry
#define TVMOPS_PACK_ENTRY_NAME "tvmops_pack_entry"

/* A leaf: a C function that starts no thread, allocates nothing and needs no symbol from outside. Its prototype follows
 * from the driver and the part of its name before the first '.', see csrc/drivers. */
typedef void (*tvmops_function)(void);

typedef struct {
  const char* name;
  tvmops_function function;
} tvmops_leaf;

/* A named integer: a knob of the driver, or a dimension of the workload (-1: symbolic). */
typedef struct {
  const char* name;
  int64_t value;
} tvmops_value;

typedef struct {
  const char* name;     /* unique in the pack */
  const char* op;       /* "matmul" */
  const char* workload; /* canonical key, e.g. "linear(float32;M=*,N=3072,K=768)" */
  const char* target;   /* "x86-64-v4" */
  const char* driver;   /* "gemm": which loops to put around the leaves */
  const tvmops_value* dims;
  uint32_t n_dims;
  const tvmops_value* params;
  uint32_t n_params;
  const tvmops_leaf* leaves;
  uint32_t n_leaves;
  /* What to do by size bucket, in the driver's own bucket order; 0 is always "leave it to ATen". */
  const uint8_t* plan;
  uint32_t n_plan;
} tvmops_kernel;

typedef struct {
  uint64_t magic;
  uint32_t abi_version;
  uint32_t n_kernels;
  const char* arch;     /* "x86_64", "aarch64" */
  const char* manifest; /* JSON: see codegen/export/manifest.py */
  const tvmops_kernel* kernels;
} tvmops_pack;

const tvmops_pack* TVMOPS_PACK_ENTRY(void);

/* What a whole kernel (TVM's own calling convention, parallel loops and workspaces of its own) needs of its host. A
 * pack that holds any has a second entry point, TVMOPS_PACK_SERVE, which is called once, before its kernels are. */
typedef struct {
  int (*parallel_launch)(void* task, void* closure, int num_task);
  void* (*alloc_workspace)(int device_type, int device_id, uint64_t bytes, int dtype_code, int dtype_bits);
  int (*free_workspace)(int device_type, int device_id, void* workspace);
  void (*raise)(const char* kind, const char** parts, int32_t count);
} tvmops_services;

#define TVMOPS_PACK_SERVE tvmops_pack_serve
#define TVMOPS_PACK_SERVE_NAME "tvmops_pack_serve"
void TVMOPS_PACK_SERVE(const tvmops_services* services);

/* A kernel on a GPU has one leaf "launch" of the type tvmops_launch_function, and, if it needs memory of its own for a
 * call, one "workspace" of the type tvmops_workspace_function; csrc/cuda says what `buffers`, `sizes` and `params` are,
 * by driver. A launch starts the kernel on `stream` of `device`, waits for nothing, and returns a cudaError_t. */
typedef struct {
  void* const* buffers; /* device pointers */
  const int64_t* sizes;
  const float* params;
  void* workspace; /* 256-byte aligned, of as many bytes as the leaf "workspace" says for the sizes */
  void* stream;    /* a cudaStream_t */
  int32_t device;
} tvmops_launch;
typedef int (*tvmops_launch_function)(const tvmops_launch* launch);
typedef int64_t (*tvmops_workspace_function)(const int64_t* sizes);

/* A pack that holds such kernels has two more entry points: what a device is (returns a cudaError_t), and the text of
 * an error. */
typedef struct {
  int32_t major, minor; /* compute capability */
  int32_t multiprocessors;
  int32_t driver_version, runtime_version; /* as CUDA numbers them: 13000 */
  char name[256];
} tvmops_device;

#define TVMOPS_PACK_DEVICE tvmops_pack_device
#define TVMOPS_PACK_DEVICE_NAME "tvmops_pack_device"
int TVMOPS_PACK_DEVICE(int32_t device, tvmops_device* about);
#define TVMOPS_PACK_ERROR tvmops_pack_error
#define TVMOPS_PACK_ERROR_NAME "tvmops_pack_error"
const char* TVMOPS_PACK_ERROR(int error);

#ifdef __cplusplus
}
#endif
#endif /* TVMOPS_RUNTIME_ABI_H_ */
