// Pointwise functions with what stands beside them in models, under the CPU key: by a kernel or ATen. Activations are
// by name, none is the identity. A file an operator.
#ifndef TVMOPS_OPS_FUSED_H_
#define TVMOPS_OPS_FUSED_H_

#include <ATen/ATen.h>

#include "ops/activation.h"
#include "ops/linear.h"

namespace tvmops::ops {

// activation(input + bias) + residual
at::Tensor bias_activation_cpu(const at::Tensor& input, const OptionalTensor& bias, OptionalName activation,
                               const OptionalTensor& residual);
// activation(input + other)
at::Tensor add_activation_cpu(const at::Tensor& input, const at::Tensor& other, OptionalName activation);
at::Tensor call_add_activation(const at::Tensor& input, const at::Tensor& other, OptionalName activation);
// activation(gate) * up, of two tensors or of the halves of the last dimension of one
at::Tensor gated_activation_cpu(const at::Tensor& gate, const at::Tensor& up, OptionalName activation);
at::Tensor gated_halves_cpu(const at::Tensor& input, OptionalName activation);
// scale * relu(input)**2 + shift, with tensors of one element
at::Tensor star_relu_cpu(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& shift);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_FUSED_H_
