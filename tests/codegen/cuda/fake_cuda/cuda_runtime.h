// What a launcher calls of the CUDA runtime, which here writes down what it was asked.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

typedef int cudaError_t;
typedef void* cudaStream_t;
enum { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorInsufficientDriver = 35 };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum { cudaEnableDefault = 0 };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a, unsigned b, unsigned c) : x(a), y(b), z(c) {}
};

namespace fake {
inline std::string log;       // of calls, a line each
inline int device = 0;        // the current one
inline int launch_error = 0;  // that launches return
inline bool has_encode = true;
inline void* buffers[4];

template <class... T>
void say(const char* format, T... values) {
  char line[256];
  std::snprintf(line, sizeof(line), format, values...);
  log += line;
}
}  // namespace fake

inline int cudaGetDevice(int* device) {
  *device = fake::device;
  return cudaSuccess;
}

inline int cudaSetDevice(int device) {
  fake::say("device %d\n", device);
  fake::device = device;
  return cudaSuccess;
}

inline int cudaGetLastError() {
  fake::say("cleared\n");
  return cudaSuccess;
}

inline int cudaFuncSetAttribute(const void*, int attribute, int value) {
  fake::say("attribute %d = %d\n", attribute, value);
  return cudaSuccess;
}

inline int cudaLaunchKernel(const void*, dim3 grid, dim3 block, void**, int64_t shared, cudaStream_t stream) {
  fake::say("launch %u %u %u of %u %u %u, %d bytes, stream %d\n", grid.x, grid.y, grid.z, block.x, block.y, block.z,
            (int)shared, (int)(intptr_t)stream);
  return fake::launch_error;
}

enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };

struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    dim3 clusterDim{1, 1, 1};
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim{1, 1, 1}, blockDim{1, 1, 1};
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

inline int cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  const dim3& cluster = config->attrs[0].val.clusterDim;
  fake::say("clusters of %u %u %u: ", cluster.x, cluster.y, cluster.z);
  return cudaLaunchKernel(function, config->gridDim, config->blockDim, arguments, (int64_t)config->dynamicSmemBytes,
                          config->stream);
}

inline int encode_tiled(void*, int type, unsigned rank, void* address, const uint64_t* extents, const uint64_t* strides,
                        const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int promotion,
                        int fill) {
  fake::say("map of type %d, rank %u, at %d:", type, rank, (int)(intptr_t)address);
  for (unsigned i = 0; i < rank; ++i) fake::say(" %d", (int)extents[i]);
  fake::say(", strides");
  for (unsigned i = 0; i + 1 < rank; ++i) fake::say(" %d", (int)strides[i]);
  fake::say(", box %u %u, steps %u %u, modes %d %d %d %d\n", box[0], box[1], steps[0], steps[1], interleave, swizzle,
            promotion, fill);
  return 0;
}

inline int cudaGetDriverEntryPointByVersion(const char* name, void** found, unsigned version, int,
                                            cudaDriverEntryPointQueryResult* status) {
  fake::say("entry %s %u\n", name, version);
  *found = fake::has_encode ? (void*)encode_tiled : nullptr;
  *status = fake::has_encode ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

extern "C" inline __attribute__((used)) const char* fake_log() { return fake::log.c_str(); }
extern "C" inline __attribute__((used)) int fake_device() { return fake::device; }
extern "C" inline __attribute__((used)) void fake_reset(int launch_error, int has_encode) {
  fake::log.clear();
  fake::launch_error = launch_error;
  fake::has_encode = has_encode;
}
