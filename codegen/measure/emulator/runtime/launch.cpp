// The CUDA runtime's functions that launchers call, and what Python sets.
#include <cuda_runtime.h>

#include <cstdarg>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>

#include "internal.h"

namespace emulator {
namespace {

struct Device {
  int major = 9, minor = 0, multiprocessors = 132;
  uint32_t shared_bytes = 227u << 10;  // that a block may ask for
};
Device device;
cudaError_t last_error = cudaSuccess, told_error = cudaSuccess;
char told[sizeof failure];  // of told_error
std::mutex launching;       // one kernel runs at a time
int current_device = 0;
std::map<const void*, Kernel>& kernels() {
  static std::map<const void*, Kernel> all;
  return all;
}
std::map<std::string, uint32_t>& shared_bytes() {
  static std::map<std::string, uint32_t> all;
  return all;
}
std::map<std::string, void*>& driver_functions() {
  static std::map<std::string, void*> all;
  return all;
}
std::map<std::string, int> wanted_errors;  // by the function's name, once each
std::map<const void*, uint32_t> dynamic_limits;

constexpr uint32_t kDefaultShared = 48u << 10;

cudaError_t tell(cudaError_t error) {
  std::memcpy(told, failure, sizeof told);
  return told_error = last_error = error;
}

cudaError_t say(cudaError_t error, const char* format, ...) __attribute__((format(printf, 2, 3)));
cudaError_t say(cudaError_t error, const char* format, ...) {
  va_list rest;
  va_start(rest, format);
  std::vsnprintf(failure, sizeof failure, format, rest);
  va_end(rest);
  return tell(error);
}

bool wanted(const char* function, cudaError_t* error) {
  const auto found = wanted_errors.find(function);
  if (found == wanted_errors.end()) return false;
  *error = say(static_cast<cudaError_t>(found->second), "%s fails, as it was told to", function);
  wanted_errors.erase(found);
  return true;
}

// The shape of the clusters: the launch's, or else the one that the kernel declares.
cudaError_t set_clusters(const Kernel& kernel, const char* name, dim3 grid, Index shape, uint64_t threads) {
  const Index& own = kernel.cluster;
  if (own.x) {
    if (shape.x && (shape.x != own.x || shape.y != own.y || shape.z != own.z)) {
      return say(cudaErrorInvalidClusterSize, "%s: clusters of (%u,%u,%u) blocks; it declares (%u,%u,%u)", name,
                 shape.x, shape.y, shape.z, own.x, own.y, own.z);
    }
    shape = own;
  } else if (!shape.x) {
    shape = {1, 1, 1};
  }
  const uint64_t blocks = uint64_t(shape.x) * shape.y * shape.z;
  if (!blocks || blocks > kClusterBlocks || grid.x % shape.x || grid.y % shape.y || grid.z % shape.z) {
    return say(cudaErrorInvalidClusterSize, "%s: a grid of (%u,%u,%u) blocks in clusters of (%u,%u,%u)", name, grid.x,
               grid.y, grid.z, shape.x, shape.y, shape.z);
  }
  if (blocks > 1 && device.major < 9) {
    return say(cudaErrorInvalidClusterSize, "%s: clusters on a device of capability %d.%d", name, device.major,
               device.minor);
  }
  if (blocks > 1 && (threads + 127) / 128 * 128 * blocks > kClusterThreads) {
    return say(cudaErrorNotSupported, "%s: clusters of more than %d threads are not emulated", name, kClusterThreads);
  }
  cluster.shape = shape;
  cluster.blocks = static_cast<int>(blocks);
  return cudaSuccess;
}

// Which blocks of the grid are in the cluster of that number.
void place_blocks(uint32_t number) {
  const Index shape = cluster.shape, across = {cluster.grid.x / shape.x, cluster.grid.y / shape.y, 0};
  const Index at = {number % across.x, number / across.x % across.y, number / across.x / across.y};
  cluster.number = static_cast<int>(number);
  for (uint32_t rank = 0; rank < static_cast<uint32_t>(cluster.blocks); ++rank) {
    cluster.block[rank].index = {at.x * shape.x + rank % shape.x, at.y * shape.y + rank / shape.x % shape.y,
                                 at.z * shape.z + rank / shape.x / shape.y};
  }
}

cudaError_t launch(const Kernel& kernel, dim3 grid, dim3 size, void** arguments, size_t dynamic, Index shape) {
  const char* colon = std::strchr(kernel.name, ':');  // after what tells sources apart
  const char* name = colon ? colon + 1 : kernel.name;
  const uint64_t threads = uint64_t(size.x) * size.y * size.z;
  if (threads == 0 || threads > kThreads || size.z > 64) {
    return say(cudaErrorInvalidConfiguration, "%s: a block of (%u,%u,%u) threads", name, size.x, size.y, size.z);
  }
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return say(cudaErrorInvalidConfiguration, "%s: a grid of (%u,%u,%u) blocks", name, grid.x, grid.y, grid.z);
  }
  if (kernel.most_threads && threads > static_cast<uint64_t>(kernel.most_threads)) {
    return say(cudaErrorInvalidValue, "%s: %u threads; its __launch_bounds__ are %d", name,
               static_cast<unsigned>(threads), kernel.most_threads);
  }
  const auto limit = dynamic_limits.find(kernel.function);
  const uint32_t most = limit == dynamic_limits.end() ? kDefaultShared - kernel.shared_bytes : limit->second;
  if (dynamic > most || dynamic + kernel.shared_bytes > device.shared_bytes) {
    return say(cudaErrorInvalidValue, "%s: %zu bytes of dynamic shared memory; its limit is %u", name, dynamic, most);
  }
  if (cudaError_t error = set_clusters(kernel, name, grid, shape, threads)) return error;
  cluster.size = {size.x, size.y, size.z};
  cluster.grid = {grid.x, grid.y, grid.z};
  cluster.static_bytes = kernel.shared_bytes;
  cluster.dynamic_bytes = static_cast<uint32_t>(dynamic);
  ++cluster.launch;
  seed_random(options.seed);
  for (const uint32_t number : cluster_order(grid.x * grid.y * grid.z / static_cast<uint32_t>(cluster.blocks))) {
    place_blocks(number);
    if (!run_cluster(kernel, arguments)) {
      const std::string said = failure;
      return say(cudaErrorLaunchFailure, "%s: %s", name, said.c_str());
    }
  }
  return cudaSuccess;
}

// `shape`: of clusters; {0, 0, 0}: not said.
cudaError_t launch_clusters(const void* function, dim3 grid, dim3 size, void** arguments, size_t shared, Index shape) {
  cudaError_t error;
  if (wanted("cudaLaunchKernel", &error)) return error;
  const auto found = kernels().find(function);
  if (found == kernels().end()) return say(cudaErrorInvalidDeviceFunction, "this is not a kernel of the library");
  const std::lock_guard<std::mutex> alone(launching);
  return launch(found->second, grid, size, arguments, shared, shape);
}

}  // namespace

void add_kernel(Kernel kernel) {
  kernel.shared_bytes = shared_bytes()[kernel.name];
  kernels()[kernel.function] = kernel;
}

uint32_t reserve_shared(const char* kernel, uint32_t bytes, uint32_t alignment) {
  uint32_t& used = shared_bytes()[kernel];
  const uint32_t start = (used + alignment - 1) / alignment * alignment;
  used = start + bytes;
  return start;
}

DeviceFacts::DeviceFacts(int major, int minor, int multiprocessors, uint32_t shared) {
  device = {major, minor, multiprocessors, shared};
}

DriverFunction::DriverFunction(const char* name, void* function) { driver_functions()[name] = function; }

}  // namespace emulator

using namespace emulator;

// Launchers are given to the linker with these names; they stay within the library.
extern "C" {

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 size, void** arguments, size_t shared,
                             cudaStream_t) {
  return launch_clusters(function, grid, size, arguments, shared, {});
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  Index shape = {};
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& one = config->attrs[i];
    if (one.id != cudaLaunchAttributeClusterDimension) continue;
    shape = {one.val.clusterDim.x, one.val.clusterDim.y, one.val.clusterDim.z};
    if (!shape.x) return say(cudaErrorInvalidClusterSize, "clusters of (%u,%u,%u) blocks", shape.x, shape.y, shape.z);
  }
  return launch_clusters(function, config->launch_gridDim, config->launch_blockDim, arguments, config->dynamicSmemBytes,
                         shape);
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  cudaError_t error;
  if (wanted("cudaFuncSetAttribute", &error)) return error;
  const auto found = kernels().find(function);
  if (found == kernels().end()) return say(cudaErrorInvalidDeviceFunction, "this is not a kernel of the library");
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<uint32_t>(value) + found->second.shared_bytes > device.shared_bytes) {
    return say(cudaErrorInvalidValue, "%s: a limit of %d bytes of dynamic shared memory; the device has %u a block",
               found->second.name, value, device.shared_bytes);
  }
  dynamic_limits[function] = static_cast<uint32_t>(value);
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int number) {
  cudaError_t error;
  if (wanted("cudaSetDevice", &error)) return error;
  if (number != 0) return say(cudaErrorInvalidDevice, "device %d; there is one", number);
  current_device = number;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* number) {
  cudaError_t error;
  if (wanted("cudaGetDevice", &error)) return error;
  *number = current_device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  cudaError_t error;
  if (wanted("cudaGetDeviceCount", &error)) return error;
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  cudaError_t error;
  if (wanted("cudaDeviceGetAttribute", &error)) return error;
  if (number != 0) return say(cudaErrorInvalidDevice, "device %d; there is one", number);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = device.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = device.minor;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = device.multiprocessors;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(device.shared_bytes);
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = kThreads;
      break;
    case cudaDevAttrWarpSize:
      *value = kLanes;
      break;
    default:
      return say(cudaErrorInvalidValue, "device attribute %d is not known", static_cast<int>(attribute));
  }
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* about, int number) {
  cudaError_t error;
  if (wanted("cudaGetDeviceProperties", &error)) return error;
  if (number != 0) return say(cudaErrorInvalidDevice, "device %d; there is one", number);
  *about = cudaDeviceProp{};
  std::snprintf(about->name, sizeof about->name, "emulated device");
  about->major = device.major;
  about->minor = device.minor;
  about->multiProcessorCount = device.multiprocessors;
  about->sharedMemPerBlockOptin = device.shared_bytes;
  about->sharedMemPerBlock = kDefaultShared;
  about->maxThreadsPerBlock = kThreads;
  about->warpSize = kLanes;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  cudaError_t error;
  if (wanted("cudaMemsetAsync", &error)) return error;
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPoint(const char* name, void** function, unsigned long long,
                                    cudaDriverEntryPointQueryResult* result) {
  cudaError_t error;
  if (wanted("cudaGetDriverEntryPoint", &error)) return error;
  const auto found = driver_functions().find(name);
  *function = found == driver_functions().end() ? nullptr : found->second;
  if (result) *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return *function ? cudaSuccess : say(cudaErrorSymbolNotFound, "the driver has no function %s", name);
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result) {
  return cudaGetDriverEntryPoint(name, function, flags, result);
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define NAME(e) \
  case e:       \
    return #e;
    NAME(cudaSuccess)
    NAME(cudaErrorInvalidValue)
    NAME(cudaErrorMemoryAllocation)
    NAME(cudaErrorInvalidConfiguration)
    NAME(cudaErrorInsufficientDriver)
    NAME(cudaErrorInvalidDeviceFunction)
    NAME(cudaErrorNoDevice)
    NAME(cudaErrorInvalidDevice)
    NAME(cudaErrorSymbolNotFound)
    NAME(cudaErrorIllegalAddress)
    NAME(cudaErrorLaunchOutOfResources)
    NAME(cudaErrorLaunchFailure)
    NAME(cudaErrorNotSupported)
    NAME(cudaErrorInvalidClusterSize)
#undef NAME
    default:
      return "unrecognized error code";
  }
}
// A pack passes this on: what the emulator found, if that was the last error.
const char* cudaGetErrorString(cudaError_t error) {
  return error != cudaSuccess && error == told_error ? told : cudaGetErrorName(error);
}

#define EXPORT __attribute__((visibility("default")))

// What Python calls.
EXPORT void tvmops_emulator_options(int order, uint64_t seed, int late, int races, int uninitialized) {
  options = {order, seed, late, races, uninitialized};
}
EXPORT void tvmops_emulator_device(int major, int minor, int multiprocessors, uint32_t shared) {
  device = {major, minor, multiprocessors, shared};
}
EXPORT void tvmops_emulator_buffers(int count, const uint64_t* begins, const uint64_t* ends, const uint32_t* granules,
                                    const int* writable, const int* numbers) {
  std::vector<Buffer> all;
  for (int i = 0; i < count; ++i) all.push_back({begins[i], ends[i], granules[i], writable[i] != 0, numbers[i]});
  set_buffers(all.data(), count);
}
EXPORT void tvmops_emulator_fail(const char* function, int error) { wanted_errors[function] = error; }
// The sentence of the last failure; reading it clears it.
EXPORT const char* tvmops_emulator_failure() {
  static char text[sizeof failure];
  std::memcpy(text, failure, sizeof failure);
  failure[0] = 0;
  return text;
}
}  // extern "C"
