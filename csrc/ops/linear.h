// activation(input @ weight^T + bias) + residual.
#ifndef TVMOPS_OPS_LINEAR_H_
#define TVMOPS_OPS_LINEAR_H_

#include <ATen/ATen.h>

#include <optional>
#include <string_view>

namespace tvmops::ops {

using OptionalTensor = std::optional<at::Tensor>;

at::Tensor linear_cpu(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                      std::optional<c10::string_view> activation, const OptionalTensor& residual, bool prepack);

// By ATen's own operators.
at::Tensor linear_aten(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias, int activation,
                       const OptionalTensor& residual);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_LINEAR_H_
