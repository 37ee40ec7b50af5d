// cross_entropy on a GPU: one kernel goes over the logits, ATen over what it leaves, an element or two of each row.
//
// The classes stay where they are, as reading them would mean to wait: a class out of range stops the kernel, and with
// it the device, as ATen's assertion does.
#include <cmath>

#include "ops/common.h"
#include "ops/cross_entropy.h"
#include "ops/rows_choice.h"
#include "ops/rows_view.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::RowsProblem;

namespace {

const OpKey &kForward = kCrossEntropy, &kBackward = kCrossEntropyBackward;
using Parts = std::tuple<Tensor, Tensor, Tensor>;
using OptionalTensor = std::optional<Tensor>;

// Up to here a float32 has every integer, as which a kernel gets the class that counts for nothing.
constexpr int64_t kLargestIgnored = 1 << 24;

bool readable(const Tensor& x, const Tensor& target, const ClassOptions& o) {
  return covers_classes(x, target, o) && is_readable(x) && x.numel() > 0 && std::abs(o.ignore_index) <= kLargestIgnored;
}

void set_options(RowsProblem& p, const ClassOptions& o) {
  p.param[0] = static_cast<float>(1 - o.smoothing);
  p.param[1] = static_cast<float>(o.smoothing / static_cast<double>(p.n));
  p.param[2] = static_cast<float>(o.ignore_index);
}

// Rows of float32, the memory of scalar operands from `first` on.
Tensor scalars(RowsProblem& p, int first, int64_t count) {
  const Tensor made = new_gpu_tensor({count, p.rows()}, at::kFloat);
  for (int64_t i = 0; i < count; i++) p.operand[first + i].data = made.mutable_data_ptr<float>() + i * p.rows();
  return made;
}

// The weight of each row's class, float32; of those that are ignored any.
Tensor weights_of(const ClassOptions& o, const Tensor& classes) {
  const Tensor known = at::where(classes == o.ignore_index, 0, classes);
  return o.weight->to(at::kFloat).index_select(0, known.view({-1}));
}

Tensor one(const Tensor& x) { return at::ones({}, x.options().dtype(at::kDouble)); }

std::optional<Parts> by_kernel(const Tensor& logits, const Tensor& target, const ClassOptions& o) {
  if (!readable(logits, target, o)) {
    record_aten(kForward.name(), {logits, target}, kUnsupported);
    return std::nullopt;
  }
  RowsProblem p = rows_problem(logits.sizes(), logits.dim() > 1);
  const Tensor x = row_operand(logits, p, p.operand[0]), classes = target.contiguous();
  p.operand[1].data = const_cast<int64_t*>(classes.const_data_ptr<int64_t>());
  set_options(p, o);
  const RowsChoice choice = choose_rows(kForward, logits, p);
  if (!choice) return std::nullopt;
  Tensor each = scalars(p, 2, 2);  // losses, and whether they count
  const Tensor stats = scalars(p, 4, 3);
  if (!run_chosen(choice, p)) return std::nullopt;
  if (o.weighted()) each = each * weights_of(o, classes);
  const auto dtype = logits.scalar_type();
  if (o.reduction == at::Reduction::None) return Parts{each[0].to(dtype).view(target.sizes()), stats, one(x)};
  const Tensor sums = each.sum(1, false, at::kDouble);
  if (o.reduction == at::Reduction::Sum) return Parts{sums[0].to(dtype), stats, one(x)};
  return Parts{(sums[0] / sums[1]).to(dtype), stats, sums[1]};
}

std::optional<Tensor> gradient_by_kernel(const Tensor& g, const Tensor& logits, const Tensor& target,
                                         const Tensor& stats, const Tensor& total, const ClassOptions& o) {
  const auto dtype = logits.scalar_type();
  const bool each = o.reduction == at::Reduction::None;
  if (!readable(logits, target, o) || !is_readable(g) || g.scalar_type() != dtype ||
      (each ? g.sizes() != target.sizes() : g.numel() != 1) || stats.scalar_type() != at::kFloat ||
      stats.numel() != 3 * target.numel() || !is_here(stats) || total.scalar_type() != at::kDouble ||
      total.numel() != 1) {
    record_aten(kBackward.name(), {g, logits, target}, kUnsupported);
    return std::nullopt;
  }
  RowsProblem p = rows_problem(logits.sizes(), logits.dim() > 1);
  const Tensor x = row_operand(logits, p, p.operand[0]), classes = target.contiguous(), kept = stats.contiguous();
  auto* const s = const_cast<float*>(kept.const_data_ptr<float>());
  p.operand[1].data = const_cast<int64_t*>(classes.const_data_ptr<int64_t>());
  p.operand[2].data = s;
  p.operand[3].data = s + p.rows();
  p.operand[5].stride = p.n;
  set_options(p, o);
  const RowsChoice choice = choose_rows(kBackward, logits, p);
  if (!choice) return std::nullopt;
  const Tensor factors = scalars(p, 4, 1);
  factors[0].copy_((g / total).reshape({-1}));
  if (o.weighted()) factors.mul_(weights_of(o, classes));
  const Tensor dx = new_result(logits.sizes(), dtype);
  p.operand[5].data = dx.mutable_data_ptr();
  if (!run_chosen(choice, p)) return std::nullopt;
  return dx;
}

Tensor forward(const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
               int64_t ignore_index, double smoothing) {
  if (auto result = by_kernel(x, target, {weight, reduction, ignore_index, smoothing})) return std::get<0>(*result);
  return at::cross_entropy_loss_symint(x, target, weight, reduction, ignore_index, smoothing);
}

Parts forward_with_stats(const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
                         int64_t ignore_index, double smoothing) {
  if (auto result = by_kernel(x, target, {weight, reduction, ignore_index, smoothing})) return *std::move(result);
  return cross_entropy_forward_aten(x, target, weight, reduction, ignore_index, smoothing);
}

Tensor backward(const Tensor& g, const Tensor& x, const Tensor& target, const OptionalTensor& weight,
                const Tensor& stats, const Tensor& total, int64_t reduction, int64_t ignore_index, double smoothing) {
  if (auto dx = gradient_by_kernel(g, x, target, stats, total, {weight, reduction, ignore_index, smoothing}))
    return *std::move(dx);
  return cross_entropy_backward_aten(g, x, target, weight, stats, total, reduction, ignore_index, smoothing);
}

}  // namespace

bool cross_entropy_trains_on_gpu(const Tensor& x) {
  // What is traced has no device, and a compiler that makes kernels of ATen's steps.
  if (x.key_set().has_any(c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::Functionalize})))
    return false;
  if (x.numel() == 0) return false;
  const GpuScope scope(x);
  const RowsProblem p = rows_problem(x.sizes(), x.dim() > 1);
  for (const OpKey* key : {&kForward, &kBackward}) {
    const RowsChoice choice = choose_rows(*key, storage_of(x.scalar_type()), p.outer, p.n, p.inner);
    if (choice) continue;
    record(*key, x, choice);
    return false;
  }
  return true;
}

TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  m.impl("cross_entropy", on_gpu<&forward>);
  m.impl("cross_entropy_forward", on_gpu<&forward_with_stats>);
  m.impl("cross_entropy_backward", on_gpu<&backward>);
}

}  // namespace tvmops::ops
