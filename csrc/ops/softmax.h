// softmax and log_softmax along any dimension.
#ifndef TVMOPS_OPS_SOFTMAX_H_
#define TVMOPS_OPS_SOFTMAX_H_

#include <ATen/ATen.h>

namespace tvmops::ops {

// Under the CPU key, by a kernel or ATen.
at::Tensor softmax_cpu(const at::Tensor& x, int64_t dim, std::optional<at::ScalarType> dtype);
at::Tensor log_softmax_cpu(const at::Tensor& x, int64_t dim, std::optional<at::ScalarType> dtype);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_SOFTMAX_H_
