// cross_entropy and its gradient by ATen, with what the kernels' gradient needs, and which calls kernels are made for.
#include "ops/common.h"
#include "ops/cross_entropy.h"
#include "ops/rows_choice.h"

namespace tvmops::ops {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Parts = std::tuple<Tensor, Tensor, Tensor>;

namespace {

// The dimension of the classes.
int64_t class_dim(const Tensor& x) { return x.dim() > 1; }

}  // namespace

bool covers_classes(const Tensor& x, const Tensor& target, const ClassOptions& o) {
  if (!x.device().is_cpu() && !x.device().is_cuda()) return false;
  const auto is_dense = [&](const Tensor& t) { return t.layout() == at::kStrided && t.device() == x.device(); };
  if (x.dim() == 0 || storage_of(x.scalar_type()) == kStorages || target.scalar_type() != at::kLong || !is_dense(x) ||
      !is_dense(target) || target.dim() != x.dim() - 1)
    return false;
  for (int64_t d = 0; d < target.dim(); d++)
    if (target.sym_size(d) != x.sym_size(d ? d + 1 : 0)) return false;
  if (o.reduction < 0 || o.reduction > 2 || !(o.smoothing >= 0 && o.smoothing <= 1)) return false;
  if (!o.weighted()) return true;
  return o.smoothing == 0 && o.weight->dim() == 1 && o.weight->sym_size(0) == x.sym_size(class_dim(x)) &&
         o.weight->scalar_type() == x.scalar_type() && is_dense(*o.weight);
}

// Differentiable only in its first result.
Parts cross_entropy_forward_aten(const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
                                 int64_t ignore_index, double smoothing) {
  const int64_t dim = class_dim(x);
  const Tensor wide = x.to(at::kFloat), maximum = wide.amax(dim), differences = wide - maximum.unsqueeze(dim);
  const Tensor stats = at::stack({maximum, differences.logsumexp(dim), differences.sum(dim)}).reshape({3, -1});
  const Tensor counts = target != ignore_index;
  Tensor total = at::ones({}, x.options().dtype(at::kDouble));
  if (reduction == at::Reduction::Mean) {
    total = counts.to(at::kDouble);
    if (weight && weight->defined()) total = total * weight->take(target.where(counts, 0));
    total = total.sum();
  }
  return {at::cross_entropy_loss_symint(x, target, weight, reduction, ignore_index, smoothing), stats, total};
}

// g * weight * (softmax - smoothed one) / total, differentiable in g and x.
Tensor cross_entropy_backward_aten(const Tensor& g, const Tensor& x, const Tensor& target, const OptionalTensor& weight,
                                   const Tensor&, const Tensor& total, int64_t reduction, int64_t ignore_index,
                                   double smoothing) {
  const int64_t dim = class_dim(x);
  const Tensor counts = target != ignore_index, classes = target.where(counts, 0);
  Tensor factors = g / total.to(g.scalar_type()) * counts;
  if (weight && weight->defined()) factors = factors * weight->take(classes);
  const Tensor ones = at::zeros_like(x).scatter(dim, classes.unsqueeze(dim), 1 - smoothing);
  const double share = smoothing / static_cast<double>(x.size(dim));
  return (at::softmax(x, dim) - ones - share) * factors.unsqueeze(dim);
}

}  // namespace tvmops::ops
