// Cross entropy of logits and classes.
#ifndef TVMOPS_OPS_CROSS_ENTROPY_H_
#define TVMOPS_OPS_CROSS_ENTROPY_H_

#include <ATen/ATen.h>

#include <optional>

namespace tvmops::ops {

// Under the CPU key, by a kernel or ATen. `reduction` is an at::Reduction.
at::Tensor cross_entropy_cpu(const at::Tensor& x, const at::Tensor& target, const std::optional<at::Tensor>& weight,
                             int64_t reduction, int64_t ignore_index, double label_smoothing);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_CROSS_ENTROPY_H_
