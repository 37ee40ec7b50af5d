// group_norm of a contiguous [N, C, *].
#ifndef TVMOPS_OPS_GROUP_NORM_H_
#define TVMOPS_OPS_GROUP_NORM_H_

#include <ATen/ATen.h>

#include <optional>
#include <tuple>

#include "ops/kernel_table.h"
#include "ops/normalization.h"

namespace tvmops::ops {

// Its parts: moments of groups and channels shifted and scaled; sums of the gradient, and the gradient.
extern const OpKey kGroupNormMoments, kGroupNorm, kGroupNormSums, kGroupNormBackward;

using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// The result, mean and 1 / sqrt(variance + eps) of each group [N, groups], float32; nothing if ATen is to do it.
std::optional<ThreeTensors> group_norm_kernel(const at::Tensor& x, int64_t groups, const OptionalTensor& weight,
                                              const OptionalTensor& bias, double eps);

// Under the CPU key, by a kernel or ATen.
at::Tensor group_norm_cpu(const at::Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias,
                          double eps);

// The same by ATen.
ThreeTensors group_norm_forward_aten(const at::Tensor& x, int64_t groups, const OptionalTensor& weight,
                                     const OptionalTensor& bias, double eps);

// Whether a kernel can read a call's operands.
bool covers_group_norm(const at::Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias);

// The gradients of input, weight and bias; without elements for those that there are not. ATen's computes the
// statistics anew, so that it may be differentiated again.
ThreeTensors group_norm_backward_cpu(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean,
                                     const at::Tensor& rstd, int64_t groups, const OptionalTensor& weight,
                                     const OptionalTensor& bias, double eps);
ThreeTensors group_norm_backward_aten(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& mean,
                                      const at::Tensor& rstd, int64_t groups, const OptionalTensor& weight,
                                      const OptionalTensor& bias, double eps);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_GROUP_NORM_H_
