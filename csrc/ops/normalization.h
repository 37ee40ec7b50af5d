// layer_norm and rms_norm over the last dimensions of a tensor, or of its sum with a residual.
#ifndef TVMOPS_OPS_NORMALIZATION_H_
#define TVMOPS_OPS_NORMALIZATION_H_

#include <ATen/ATen.h>

#include <optional>
#include <utility>

namespace tvmops::ops {

using OptionalTensor = std::optional<at::Tensor>;

// A call: what is normalised is input + residual, if there is one. rms_norm has no bias; eps may be left to it.
struct NormCall {
  bool rms;
  const at::Tensor& input;
  const OptionalTensor& residual;
  const OptionalTensor& weight;
  const OptionalTensor& bias;
  std::optional<double> eps;
};

// What a call computes, and what its backward needs. There is a sum only with a residual, a mean only of layer_norm;
// what there is not is undefined. Statistics are [..., 1, ...], in float32 for low precision.
struct Normalised {
  at::Tensor result, sum, mean, rstd;
};

struct NormGradients {
  at::Tensor input, weight, bias;
};

// rms_norm's default is the epsilon of the type that it computes in.
double eps_or_default(std::optional<double> eps, at::ScalarType dtype);

// Under the CPU key, or in a GpuScope, by a kernel or ATen. Statistics only if wanted.
Normalised normalise_cpu(const NormCall& call, at::IntArrayRef normalized_shape, bool statistics);
Normalised normalise_aten(const NormCall& call, at::SymIntArrayRef normalized_shape, bool statistics);

// `input` is what was normalised, `grad_sum` the gradient of the sum. A gradient of what there is not is undefined.
struct NormBackward {
  bool rms;
  const at::Tensor& grad;
  const OptionalTensor& grad_sum;
  const at::Tensor& input;
  int64_t dims;  // that were normalised, the last ones
  const at::Tensor& mean;
  const at::Tensor& rstd;
  const OptionalTensor& weight;
  const OptionalTensor& bias;
  double eps;
};

NormGradients norm_backward_cpu(const NormBackward& call);
// May be differentiated again: rms_norm's computes rstd anew.
NormGradients norm_backward_aten(const NormBackward& call);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_NORMALIZATION_H_
