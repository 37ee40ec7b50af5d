// A pack of two kernels, and by definitions of the compiler the broken kinds of it.
#include "runtime/abi.h"

#ifndef PACK_MAGIC
#define PACK_MAGIC TVMOPS_PACK_MAGIC
#endif
#ifndef PACK_VERSION
#define PACK_VERSION TVMOPS_ABI_VERSION
#endif
#ifndef PACK_ENTRY
#define PACK_ENTRY TVMOPS_PACK_ENTRY
#endif
#ifndef PACK_LEAF_VALUE
#define PACK_LEAF_VALUE 1
#endif
#if defined(__x86_64__)
#define HOST_ARCH "x86_64"
#define HOST_TARGET "x86-64-v3"
#else
#define HOST_ARCH "aarch64"
#define HOST_TARGET "neoverse-n1"
#endif
#ifndef PACK_ARCH
#define PACK_ARCH HOST_ARCH
#endif

#ifdef PACK_UNRESOLVED
extern "C" void tvmops_nobody_defines_this(void);
#define LEAF reinterpret_cast<tvmops_function>(tvmops_nobody_defines_this)
#else
static int leaf_value(void) { return PACK_LEAF_VALUE; }
#define LEAF reinterpret_cast<tvmops_function>(leaf_value)
#endif

// Larger than some pages, so that truncated copies lose real data.
static const char manifest[1 << 16] = "{\"format\": 1}";

static const tvmops_leaf leaves[] = {{"value", LEAF}};
static const tvmops_value dims[] = {{"M", -1}, {"K", 768}};
static const tvmops_value params[] = {{"mr", 8}};
static const uint8_t plan[] = {0, 1};
static const tvmops_kernel kernels[] = {
    {"first", "matmul", "matmul(float32;M=*,N=*,K=768)", HOST_TARGET, "gemm", dims, 2, params, 1, leaves, 1, plan, 2},
    {"second", "matmul", "matmul(float32;M=*,N=*,K=*)", HOST_TARGET, "gemm", nullptr, 0, nullptr, 0, leaves, 1, plan,
     2},
};
static const tvmops_pack pack = {PACK_MAGIC, PACK_VERSION, 2, PACK_ARCH, manifest, kernels};

extern "C" __attribute__((visibility("default"))) const tvmops_pack* PACK_ENTRY(void) {
#ifdef PACK_NULL
  (void)pack;
  return nullptr;
#else
  return &pack;
#endif
}
