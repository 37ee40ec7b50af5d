#include "ops/common.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <sys/mman.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "ops/gpu.h"

namespace tvmops::ops {

const runtime::ParallelFor kAtenParallel = {
    [](int64_t count, runtime::RangeBody body, void* context) {
      at::parallel_for(0, count, 1, [=](int64_t begin, int64_t end) { body(context, begin, end); });
    },
    [] { return at::in_parallel_region() ? 1 : at::get_num_threads(); },
};

namespace {

bool has_tangent(const at::Tensor& t) {
  const auto* meta = t.unsafeGetTensorImpl()->autograd_meta();
  return meta && meta->fw_grad(0, t).defined();
}

bool is_dense_cpu(const c10::TensorImpl* impl) {
  // What a dense CPU tensor carries, in inference mode or not. (Subtracting key sets would leave the backend's bit.)
  constexpr c10::DispatchKeySet usual({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
                                       c10::DispatchKey::AutocastCPU, c10::DispatchKey::ADInplaceOrView});
  return (impl->key_set() | usual) == usual && !impl->has_symbolic_sizes_strides();
}

}  // namespace

bool in_dispatch_mode() {
  const auto tls = c10::impl::tls_local_dispatch_key_set();
  return !(tls.included_ - c10::default_included_set).empty() ||
         !tls.excluded_.has(c10::DispatchKey::AutocastCPU);  // how autocast is switched on
}

bool is_plain(const at::Tensor& t) {
  const auto* impl = t.unsafeGetTensorImpl();
  if (!is_dense_cpu(impl)) return false;
  const auto dtype = t.scalar_type();
  if (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kHalf) return false;
  if (c10::GradMode::is_enabled() && impl->requires_grad()) return false;
  return !has_tangent(t);
}

bool is_plain_long(const at::Tensor& t) {
  return is_dense_cpu(t.unsafeGetTensorImpl()) && t.scalar_type() == at::kLong;
}

at::Tensor new_result(at::IntArrayRef sizes, at::ScalarType dtype) {
  if (gpu()) return new_gpu_tensor(sizes, dtype);
  at::Tensor out(at::detail::empty_cpu(sizes, dtype, std::nullopt, std::nullopt, std::nullopt, std::nullopt));
  advise_huge_pages(out);
  return out;
}

at::Tensor new_strided_result(const at::Tensor& like) {
  if (gpu()) return at::empty_strided(like.sizes(), like.strides(), like.options());
  const at::Tensor out = at::detail::empty_strided_cpu(like.sizes(), like.strides(), like.scalar_type());
  advise_huge_pages(out);
  return out;
}

void advise_huge_pages(const at::Tensor& fresh) {
  constexpr uintptr_t kPage = 2 << 20;
  if (fresh.nbytes() < 2 * kPage || !fresh.device().is_cpu()) return;
  const auto begin = reinterpret_cast<uintptr_t>(fresh.const_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + fresh.nbytes()) / kPage * kPage;
  // Advice: where the kernel has no huge pages, nothing is lost.
  if (last > first) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

bool needs_aten_autograd(const char* op, at::TensorList tensors) {
  const auto odd = [](const at::Tensor& t) {
    return t.defined() && (!at::isFloatingType(t.scalar_type()) || t.layout() != at::kStrided || has_tangent(t) ||
                           t.key_set().has(c10::DispatchKey::FuncTorchGradWrapper));
  };
  if (std::none_of(tensors.begin(), tensors.end(), odd)) return false;
  record_aten(op, tensors, kUnsupported);
  return true;
}

void record_aten(const char* op, at::TensorList operands, const char* reason) {
  if (!recording()) return;
  std::vector<at::IntArrayRef> shapes;
  for (const auto& t : operands) {
    if (!t.defined()) continue;
    if (t.unsafeGetTensorImpl()->has_symbolic_sizes_strides()) return;  // a trace, not a run
    shapes.push_back(t.sizes());
  }
  record(op, shape_text(shapes), Choice{nullptr, drivers::Route::kAten, reason});
}

bool wants_gradient(at::TensorList tensors) {
  if (!c10::GradMode::is_enabled()) return false;
  for (const auto& t : tensors)
    if (t.defined() && t.requires_grad()) return true;
  return false;
}

bool all_meta(std::initializer_list<std::reference_wrapper<const at::Tensor>> tensors) {
  if (c10::impl::tls_local_dispatch_key_set().included_.has(c10::DispatchKey::Meta)) return true;
  return std::all_of(tensors.begin(), tensors.end(),
                     [](const at::Tensor& t) { return t.key_set().has(c10::DispatchKey::Meta); });
}

std::string shape_text(at::ArrayRef<at::IntArrayRef> shapes) {
  std::ostringstream out;
  const char* between = "";
  for (const auto& shape : shapes) {
    out << between << '(';
    for (size_t i = 0; i < shape.size(); i++) out << (i ? "," : "") << shape[i];
    out << ')';
    between = " @ ";
  }
  return out.str();
}

}  // namespace tvmops::ops
