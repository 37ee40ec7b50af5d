// What the GPUs of this machine are, as a pack's own CUDA runtime says, and which kernels run on them.
#ifndef TVMOPS_CUDA_DEVICE_H_
#define TVMOPS_CUDA_DEVICE_H_

#include <cstdint>
#include <string>

#include "runtime/registry.h"

namespace tvmops::cuda {

inline constexpr int kMaxDevices = 64;

// What can come of asking for a device or launching a kernel; the numbers are cudaError_t's.
enum Error : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kInvalidConfiguration = 9,
  kInsufficientDriver = 35,
  kInvalidDeviceFunction = 98,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidKernelImage = 200,
  kNoKernelImage = 209,
  kInvalidPtx = 218,
  kNoJitCompiler = 221,
  kUnsupportedPtx = 222,
  kLaunchOutOfResources = 701,
};

// Whether an error says that this kernel can never run on the device, or not with these sizes: both before any of it
// ran, so that ATen may serve the call.
bool never_runs(int error);
bool refuses_sizes(int error);
// Whether a device that can't be had now, because it is in use or out of memory, may be had later in this process.
bool may_pass(int error);

// The device of this index, or null and the error. Asked once; an error is asked again.
const tvmops_device* find_device(const runtime::Pack& pack, int index, int* error);

// Whether the device runs a kernel: one for its architecture that wants no more shared memory than its blocks may have.
bool runs(const tvmops_kernel& kernel, const tvmops_device& device);

// Whether a device that was asked for so far runs the kernel. (Asking for others would start CUDA.)
bool runs_on_known_device(const runtime::Kernel& kernel);

// "no kernel image is available for execution on the device (CUDA error 209)".
std::string error_text(const runtime::Pack& pack, int error);

}  // namespace tvmops::cuda

#endif  // TVMOPS_CUDA_DEVICE_H_
