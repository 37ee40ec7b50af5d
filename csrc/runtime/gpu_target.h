// GPU architectures as targets: "sm_80" runs on compute capability 8.0 and, of the same major, above; "sm_90a" on 9.0.
#ifndef TVMOPS_RUNTIME_GPU_TARGET_H_
#define TVMOPS_RUNTIME_GPU_TARGET_H_

#include <optional>
#include <string_view>

namespace tvmops::runtime {

struct GpuTarget {
  int major, minor;
  bool exact;  // made for this very capability

  bool runs_on(int device_major, int device_minor) const {
    return device_major == major && (exact ? device_minor == minor : device_minor >= minor);
  }
  // Order of preference among those that run on a device: the higher the better.
  int rank() const { return 2 * (10 * major + minor) + exact; }
};

// Nothing if the name is not one of a GPU architecture.
std::optional<GpuTarget> gpu_target(std::string_view name);

}  // namespace tvmops::runtime

#endif  // TVMOPS_RUNTIME_GPU_TARGET_H_
