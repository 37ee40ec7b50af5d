// What the operators share: which tensors a kernel can read, the thread pool, autocast.
#ifndef TVMOPS_OPS_COMMON_H_
#define TVMOPS_OPS_COMMON_H_

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include <functional>
#include <string>

#include "drivers/gemm.h"
#include "ops/gemm_choice.h"
#include "runtime/parallel.h"

namespace tvmops::ops {

// ATen's intra-op pool, so that torch.set_num_threads and nesting hold.
extern const runtime::ParallelFor kAtenParallel;

// An uninitialised, contiguous tensor for a result, where the call is served (gpu.h). Of a large one on CPU, huge pages
// are asked for: the memory is new, and its first touch otherwise costs as much as the computation.
at::Tensor new_result(at::IntArrayRef sizes, at::ScalarType dtype);
// The same with sizes, strides and dtype of a dense tensor.
at::Tensor new_strided_result(const at::Tensor& like);
// The same for a tensor that was allocated otherwise and not touched yet.
void advise_huge_pages(const at::Tensor& fresh);

// A dense floating-point CPU tensor (float32, bfloat16, float16) with nothing of Python, functorch, autograd or
// autocast to do on the way: neither a subclass, nor wrapped, nor with a gradient or tangent wanted, in no mode. Its
// operator may be called right away.
bool is_plain(const at::Tensor& tensor);
// The same for int64, as classes and indices are.
bool is_plain_long(const at::Tensor& tensor);
// Whether a mode (autocast, functorch, a Python dispatch mode) wants to see every call.
bool in_dispatch_mode();

// Readable by a kernel, when called under the CPU key.
inline bool is_float32(const at::Tensor& t) {
  return t.scalar_type() == at::kFloat && t.layout() == at::kStrided && t.device().is_cpu();
}

// Whether autograd has something to do that the kernels of tvmops don't: other than real dense floating point, a
// forward-mode tangent, or a transform of torch.func, which knows no autograd function of C++. Such calls belong to
// ATen as a whole; it is recorded for `op`.
bool needs_aten_autograd(const char* op, at::TensorList tensors);
bool wants_gradient(at::TensorList tensors);

// A 2-D tensor as a driver sees it.
inline drivers::MatrixView matrix(const at::Tensor& t) { return {t.const_data_ptr<float>(), t.stride(0), t.stride(1)}; }

// `f` on the arguments cast as autocast wants matrix products to be.
template <c10::DispatchKey key, class Function, class... Args>
at::Tensor autocast(Function f, const Args&... args) {
  constexpr auto device = key == c10::DispatchKey::AutocastCPU ? c10::DeviceType::CPU : c10::DeviceType::CUDA;
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  const auto cast = [](const auto& arg) {
    using T = std::decay_t<decltype(arg)>;
    if constexpr (std::is_same_v<T, at::Tensor> || std::is_same_v<T, std::optional<at::Tensor>>)
      return at::autocast::cached_cast(at::autocast::get_autocast_dtype(device), arg, device);
    else
      return arg;
  };
  return f(cast(args)...);
}

// Whether a Meta kernel may answer: operands of several devices come to it too, if one is meta. Fake tensors have keys
// of the device they stand for.
bool all_meta(std::initializer_list<std::reference_wrapper<const at::Tensor>> tensors);

std::string shape_text(at::ArrayRef<at::IntArrayRef> shapes);

// A call that went to ATen, for tvmops.explain.
void record_aten(const char* op, at::TensorList operands, const char* reason);

constexpr const char* kUnsupported = "a dtype, device, layout, shape or derivative that no kernel covers";

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_COMMON_H_
