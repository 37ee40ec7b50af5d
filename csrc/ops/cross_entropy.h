// Cross entropy of logits and classes.
#ifndef TVMOPS_OPS_CROSS_ENTROPY_H_
#define TVMOPS_OPS_CROSS_ENTROPY_H_

#include <ATen/ATen.h>

#include <optional>
#include <tuple>

#include "ops/kernel_table.h"

namespace tvmops::ops {

// Under the CPU key, by a kernel or ATen. `reduction` is an at::Reduction.
at::Tensor cross_entropy_cpu(const at::Tensor& x, const at::Tensor& target, const std::optional<at::Tensor>& weight,
                             int64_t reduction, int64_t ignore_index, double label_smoothing);

extern const OpKey kCrossEntropy, kCrossEntropyBackward;

// What a call has beside logits and classes.
struct ClassOptions {
  std::optional<at::Tensor> weight;
  int64_t reduction, ignore_index;
  double smoothing;

  bool weighted() const { return weight && weight->defined(); }
};

// Whether the kernels' formulas are those of the call; sizes may be symbols.
bool covers_classes(const at::Tensor& x, const at::Tensor& target, const ClassOptions& o);

// The loss, what its gradient needs of each row [3, rows], and what a mean was divided by; the gradient. By ATen.
std::tuple<at::Tensor, at::Tensor, at::Tensor> cross_entropy_forward_aten(const at::Tensor& x, const at::Tensor& target,
                                                                          const std::optional<at::Tensor>& weight,
                                                                          int64_t reduction, int64_t ignore_index,
                                                                          double smoothing);
at::Tensor cross_entropy_backward_aten(const at::Tensor& g, const at::Tensor& x, const at::Tensor& target,
                                       const std::optional<at::Tensor>& weight, const at::Tensor& stats,
                                       const at::Tensor& total, int64_t reduction, int64_t ignore_index,
                                       double smoothing);

// Whether kernels of the tensor's GPU serve both loss and gradient; if not, it is recorded why: ATen's own derivative
// takes fewer steps then than ours.
bool cross_entropy_trains_on_gpu(const at::Tensor& x);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_CROSS_ENTROPY_H_
