// The activations that fused operators know, as ATen's functions and as this project's operators.
#ifndef TVMOPS_OPS_ACTIVATION_H_
#define TVMOPS_OPS_ACTIVATION_H_

#include <ATen/ATen.h>

#include <optional>

#include "drivers/activation.h"

namespace tvmops::ops {

using OptionalName = std::optional<c10::string_view>;

// A drivers::Activation; ValueError in the name of operator `op` where there is none of this name.
int activation_index(const char* op, const OptionalName& name);
// None for drivers::kNone.
OptionalName activation_name(int activation);

// Whether the derivative is computed from the output, not from the input.
bool saves_output(int activation);

// f(x) by ATen, and g f'(x), differentiable, where `saved` is what saves_output says.
at::Tensor activate(const at::Tensor& x, int activation);
at::Tensor activate_backward(const at::Tensor& g, const at::Tensor& saved, int activation);

// The same by tvmops.NAME and tvmops.NAME_backward, through the dispatcher.
at::Tensor call_activation(const at::Tensor& x, int activation);
at::Tensor call_activation_backward(const at::Tensor& g, const at::Tensor& saved, int activation);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_ACTIVATION_H_
