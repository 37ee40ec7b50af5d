#include "ops/gpu.h"

#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace tvmops::ops {

namespace {

thread_local const c10::Device* current = nullptr;

constexpr int64_t kWorkspaceAlignment = 256;  // bytes, as abi.h says

}  // namespace

GpuScope::GpuScope(const at::Tensor& tensor) : device_(tensor.device()), before_(current) {
  if (!device_.is_cpu()) guard_.reset_device(device_);
  current = &device_;
}

GpuScope::~GpuScope() { current = before_; }

const c10::Device* gpu() { return current; }

int gpu_index() { return current->has_index() ? current->index() : 0; }

at::Tensor new_gpu_tensor(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::empty(sizes, at::TensorOptions().dtype(dtype).device(*current));
}

GpuPlace::GpuPlace(int64_t workspace_bytes) : place_{gpu_index(), nullptr, nullptr} {
  if (!current->is_cpu())
    place_.stream = c10::impl::VirtualGuardImpl(current->type()).getStream(*current).native_handle();
  if (workspace_bytes <= 0) return;
  workspace_ = new_gpu_tensor({workspace_bytes + kWorkspaceAlignment}, at::kByte);
  const auto begin = reinterpret_cast<uintptr_t>(workspace_.mutable_data_ptr());
  const uintptr_t skipped = (kWorkspaceAlignment - begin % kWorkspaceAlignment) % kWorkspaceAlignment;
  place_.workspace = static_cast<char*>(workspace_.mutable_data_ptr()) + skipped;
}

}  // namespace tvmops::ops
