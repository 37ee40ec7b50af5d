// Gradients of the reductions whose input they need. Gradients and results have the reduced dimensions, of size 1.
#ifndef TVMOPS_OPS_REDUCTION_GRADIENTS_H_
#define TVMOPS_OPS_REDUCTION_GRADIENTS_H_

#include <ATen/ATen.h>

namespace tvmops::ops {

// Through the dispatcher; where the result is to be differentiated again, by ATen.
at::Tensor var_backward(const at::Tensor& g, const at::Tensor& x, at::IntArrayRef dims, const at::Scalar& correction);
// Of amin as well: elements equal to the result share the gradient.
at::Tensor amax_backward(const at::Tensor& g, const at::Tensor& x, const at::Tensor& result, at::IntArrayRef dims);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_REDUCTION_GRADIENTS_H_
