// The two entry points of a pack that holds kernels for GPUs, besides its table. Compiled into each such pack, against
// the static CUDA runtime, so that the pack loads where there is neither a GPU nor a driver, and says so when asked.
#include <cuda_runtime.h>

#include <cstring>

#include "abi.h"

#define EXPORTED __attribute__((visibility("default")))

extern "C" EXPORTED int TVMOPS_PACK_DEVICE(int32_t device, tvmops_device* about) {
  std::memset(about, 0, sizeof(*about));
  cudaError_t error = cudaDriverGetVersion(&about->driver_version);
  if (error == cudaSuccess) error = cudaRuntimeGetVersion(&about->runtime_version);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&about->major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&about->minor, cudaDevAttrComputeCapabilityMinor, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&about->multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    cudaDeviceProp properties;
    error = cudaGetDeviceProperties(&properties, device);
    if (error == cudaSuccess) std::strncpy(about->name, properties.name, sizeof(about->name) - 1);
  }
  if (error != cudaSuccess) cudaGetLastError();  // the next call must not find it
  return error;
}

extern "C" EXPORTED const char* TVMOPS_PACK_ERROR(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
