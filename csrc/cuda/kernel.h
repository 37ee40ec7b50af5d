// A kernel on a GPU, bound: its launch, the memory it wants, and on which devices it turned out not to run.
#ifndef TVMOPS_CUDA_KERNEL_H_
#define TVMOPS_CUDA_KERNEL_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

#include "cuda/device.h"
#include "runtime/registry.h"

namespace tvmops::cuda {

// A C function and the one that says how much memory it works in.
struct Launcher {
  tvmops_launch_function launch = nullptr;
  tvmops_workspace_function workspace = nullptr;  // null: none

  explicit operator bool() const { return launch != nullptr; }
  // The leaves "launch" and "workspace", or "launch.NAME" and "workspace.NAME".
  static Launcher find(const tvmops_kernel& kernel, const std::string& name);
  // The one without a name. Throws runtime::Error if it is missing.
  static Launcher only(const tvmops_kernel& kernel);
  int64_t workspace_bytes(const int64_t* sizes) const { return workspace ? workspace(sizes) : 0; }
};

constexpr int64_t kAlignment = 16;  // bytes: what a thread loads at once

inline bool misaligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kAlignment != 0; }

// Why a kernel will not be tried again, by device; null where it will. Shared by all that bind the kernel.
using Refusals = std::array<std::atomic<const char*>, kMaxDevices>;
Refusals& refusals_of(const tvmops_kernel& kernel);

struct Kernel {
  explicit Kernel(const runtime::Kernel& kernel)
      : source(kernel.table), pack(kernel.pack.get()), refusals(&refusals_of(*kernel.table)) {}

  const tvmops_kernel* source;
  const runtime::Pack* pack;  // lives as long as the registry
  Refusals* refusals;

  // Null where the kernel may be launched.
  const char* refusal(int device) const { return (*refusals)[device].load(std::memory_order_acquire); }
};

// What became of a launch: it ran, or ATen is to serve the call for a reason (that lives on).
struct Outcome {
  const char* refusal = nullptr;
  explicit operator bool() const { return refusal == nullptr; }
};

// Starts the kernel. Where it can't run on this device, that is remembered. Throws runtime::Error, in one sentence, for
// any other error.
Outcome run(const Kernel& kernel, const Launcher& launcher, const tvmops_launch& launch);

}  // namespace tvmops::cuda

#endif  // TVMOPS_CUDA_KERNEL_H_
