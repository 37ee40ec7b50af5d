// Operators on a GPU: the same functions as on a CPU, called within a scope that says whose kernels are to serve.
//
// Nothing here needs CUDA: streams and memory come from torch's generic interfaces, and a kernel pack brings its own
// CUDA runtime. CPU tensors may be redispatched to the CUDA key too; their kernels then get no stream, and device 0.
#ifndef TVMOPS_OPS_GPU_H_
#define TVMOPS_OPS_GPU_H_

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include <optional>
#include <utility>

#include "cuda/gemm.h"

namespace tvmops::ops {

// While it lives, calls of this thread are served by the kernels of a GPU, that of the tensor.
class GpuScope {
 public:
  explicit GpuScope(const at::Tensor& tensor);
  GpuScope(const GpuScope&) = delete;
  GpuScope& operator=(const GpuScope&) = delete;
  ~GpuScope();

 private:
  const c10::Device device_;
  const c10::Device* const before_;
  c10::OptionalDeviceGuard guard_;
};

// The device of the innermost scope, or null: calls are served on the CPU.
const c10::Device* gpu();
// Its number for a pack.
int gpu_index();

// Whether kernels can reach the memory of a tensor.
inline bool is_here(const at::Tensor& t) {
  const c10::Device* device = gpu();
  return device ? t.device() == *device : t.device().is_cpu();
}

// An uninitialised, contiguous tensor on the GPU of the scope.
at::Tensor new_gpu_tensor(at::IntArrayRef sizes, at::ScalarType dtype);

// The place of a launch on torch's current stream, with so much memory for the kernel; it may be let go of once the
// launch has returned, as torch's allocator keeps to the order of the stream.
class GpuPlace {
 public:
  explicit GpuPlace(int64_t workspace_bytes);
  const cuda::Place& operator*() const { return place_; }

 private:
  at::Tensor workspace_;
  cuda::Place place_;
};

namespace detail {

inline const at::Tensor* tensor_in(const at::Tensor& t) { return t.defined() ? &t : nullptr; }
template <class T>
const at::Tensor* tensor_in(const T&) {
  return nullptr;
}

template <auto function, class Signature>
struct OnGpu;

template <auto function, class R, class... Args>
struct OnGpu<function, R (*)(Args...)> {
  static R call(Args... args) {
    const at::Tensor* first = nullptr;
    (void)((first = tensor_in(args)) || ...);
    const GpuScope scope(*first);
    return function(std::forward<Args>(args)...);
  }
};

}  // namespace detail

// The function of the CPU key as one of the CUDA key; it takes a tensor.
template <auto function>
constexpr auto on_gpu = &detail::OnGpu<function, decltype(function)>::call;

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_GPU_H_
