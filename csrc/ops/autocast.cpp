// Autocast on CUDA, where it is more than for matrix products: torch casts what these operators take to float32.
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace tvmops::ops {

namespace {

constexpr auto kKey = c10::DispatchKey::AutocastCUDA;

// Calls the operator on its tensors as float32; on those it has if a dtype is asked for.
void in_float32(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
  const auto& arguments = op.schema().arguments();
  const size_t first = stack->size() - arguments.size();
  const auto dtype = op.schema().argumentIndexWithName("dtype");
  if (!dtype || (*stack)[first + static_cast<size_t>(*dtype)].isNone()) {
    for (size_t i = first; i < stack->size(); i++) {
      c10::IValue& value = (*stack)[i];
      if (value.isTensor()) value = at::autocast::cached_cast(at::kFloat, value.toTensor(), c10::DeviceType::CUDA);
    }
  }
  op.callBoxed(*stack);
}

// rms_norm was added to the lists after torch 2.11.
bool torch_casts_rms_norm() {
  const auto op = c10::Dispatcher::singleton().findSchema({"aten::rms_norm", ""});
  return op && op->hasKernelForDispatchKey(kKey);
}

}  // namespace

// Of the lists in ATen/autocast_mode.h.
TORCH_LIBRARY_IMPL(tvmops, AutocastCUDA, m) {
  for (const char* name : {"exp", "expm1", "log", "log1p", "rsqrt", "softplus", "layer_norm", "group_norm", "logsumexp",
                           "softmax", "log_softmax", "sum"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&in_float32>());
  if (torch_casts_rms_norm()) m.impl("rms_norm", torch::CppFunction::makeFromBoxedFunction<&in_float32>());
}

}  // namespace tvmops::ops
