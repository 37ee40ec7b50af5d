#include "cuda/device.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "runtime/gpu_target.h"

namespace tvmops::cuda {

namespace {

using Ask = decltype(runtime::GpuEntries::device);

std::mutex devices_mutex;

// By who was asked; never freed, as who asks keeps a pointer.
std::map<std::pair<Ask, int>, std::unique_ptr<tvmops_device>>& devices() {
  static auto* const all = new std::map<std::pair<Ask, int>, std::unique_ptr<tvmops_device>>;
  return *all;
}

// Of one block, in bytes. Source: CUDA C++ Programming Guide, "Compute Capabilities".
int64_t shared_limit(const tvmops_device& device) {
  const int capability = 10 * device.major + device.minor;
  if (capability == 80 || capability == 87) return 163 << 10;
  if (capability == 86 || capability == 89 || capability >= 120) return 99 << 10;
  return capability >= 90 ? 227 << 10 : 64 << 10;
}

}  // namespace

bool never_runs(int error) {
  switch (error) {
    case kInsufficientDriver:
    case kInvalidDeviceFunction:
    case kInvalidKernelImage:
    case kNoKernelImage:
    case kInvalidPtx:
    case kNoJitCompiler:
    case kUnsupportedPtx:
    case kLaunchOutOfResources:
      return true;
    default:
      return false;
  }
}

bool refuses_sizes(int error) { return error == kInvalidValue || error == kInvalidConfiguration; }

bool may_pass(int error) {
  return error != kSuccess && error != kInsufficientDriver && error != kNoDevice && error != kInvalidDevice;
}

const tvmops_device* find_device(const runtime::Pack& pack, int index, int* error) {
  const std::lock_guard<std::mutex> lock(devices_mutex);
  const auto place = std::make_pair(pack.gpu.device, index);
  const auto found = devices().find(place);
  *error = kSuccess;
  if (found != devices().end()) return found->second.get();
  auto device = std::make_unique<tvmops_device>();
  *error = pack.gpu.device(index, device.get());
  if (*error != kSuccess) return nullptr;
  return devices().emplace(place, std::move(device)).first->second.get();
}

bool runs(const tvmops_kernel& kernel, const tvmops_device& device) {
  const auto wanted = runtime::gpu_target(kernel.target);
  const int64_t* shared = runtime::find_param(kernel, "shared_bytes");
  return wanted && wanted->runs_on(device.major, device.minor) && (!shared || *shared <= shared_limit(device));
}

bool runs_on_known_device(const runtime::Kernel& kernel) {
  const std::lock_guard<std::mutex> lock(devices_mutex);
  return std::any_of(devices().begin(), devices().end(), [&](const auto& known) {
    return known.first.first == kernel.pack->gpu.device && runs(*kernel.table, *known.second);
  });
}

std::string error_text(const runtime::Pack& pack, int error) {
  const char* text = pack.gpu.error(error);
  return std::string(text ? text : "unknown error") + " (CUDA error " + std::to_string(error) + ")";
}

}  // namespace tvmops::cuda
