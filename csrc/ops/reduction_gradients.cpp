#include "ops/reduction_gradients.h"

#include "ops/common.h"
#include "ops/reduce_view.h"
#include "ops/rows_choice.h"

namespace tvmops::ops {

using at::IntArrayRef;
using at::Scalar;
using at::Tensor;
using drivers::RowsProblem;

namespace {

const OpKey kVarBackward("var_backward"), kAmaxBackward("amax_backward");

// As torch's own derivatives.
Tensor var_backward_aten(const Tensor& g, const Tensor& x, IntArrayRef dims, const Scalar& correction) {
  c10::SymInt count = 1;
  for (const int64_t d : dims) count *= x.sym_size(d);
  const c10::SymFloat freedom = c10::SymFloat(count) - correction.toDouble();
  const Tensor mean = x.mean(dims, true);
  if (freedom <= 0)
    return g * at::where(x == mean, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity());
  return (c10::SymFloat(2.0) / freedom) * g * (x - mean);
}

Tensor amax_backward_aten(const Tensor& g, const Tensor& x, const Tensor& result, IntArrayRef dims) {
  const Tensor mask = x == result;
  return g * mask / mask.sum(dims, true);
}

// A walk along the rows of x, all of which the results fill: x as operand 0, one per row of `scalars` from 1 on, then
// the gradient. Undefined where no kernel covers the call or wins.
Tensor by_rows(const OpKey& op, const Tensor& x, std::initializer_list<Tensor> scalars, IntArrayRef dims,
               RowsProblem problem) {
  const auto reduced = dim_set(dims, x.dim());
  bool fits = is_readable(x) && x.is_non_overlapping_and_dense() && reduced;
  for (const Tensor& t : scalars) fits = fits && is_readable(t) && t.scalar_type() == x.scalar_type();
  const auto view = fits ? reduce_view(x, *reduced, false) : std::nullopt;
  if (!view) {
    record_aten(op.name(), {x}, kUnsupported);
    return {};
  }
  at::DimVector order;  // of the dimensions that stay, then of the others
  if (!view->ordered) {
    order = view->kept;
    for (int64_t d = 0; d < x.dim(); d++)
      if (std::find(order.begin(), order.end(), d) == order.end()) order.push_back(d);
  }
  const auto& walk = view->problem;
  problem.outer = walk.outer;
  problem.n = walk.n;
  problem.inner = walk.inner;
  RowsChoice choice = choose_rows(op, storage_of(x.scalar_type()), walk.outer, walk.n, walk.inner);
  problem.operand[0] = {const_cast<void*>(x.const_data_ptr()), walk.n};
  problem.operand[1 + scalars.size()].stride = walk.n;
  if (choice) check_fits(choice, problem);
  record(op, x, choice);
  if (!choice) return {};
  Tensor dx = at::empty_like(x);
  advise_huge_pages(dx);
  std::vector<Tensor> dense;
  for (const Tensor& t : scalars) dense.push_back(order.empty() ? t.contiguous() : t.permute(order).contiguous());
  for (size_t i = 0; i < dense.size(); i++) problem.operand[1 + i].data = const_cast<void*>(dense[i].const_data_ptr());
  problem.operand[1 + dense.size()] = {dx.mutable_data_ptr(), walk.n};
  return run_chosen(choice, problem) ? dx : Tensor();
}

Tensor var_backward_cpu(const Tensor& g, const Tensor& x, IntArrayRef dims, const Scalar& correction) {
  int64_t count = 1;
  for (const int64_t d : dims) count *= x.size(d);
  const double freedom = static_cast<double>(count) - correction.toDouble();
  RowsProblem problem;
  problem.param[0] = static_cast<float>(1.0 / static_cast<double>(count));
  problem.param[1] = static_cast<float>(2.0 / freedom);
  if (freedom > 0)
    if (Tensor dx = by_rows(kVarBackward, x, {g}, dims, problem); dx.defined()) return dx;
  return var_backward_aten(g, x, dims, correction);
}

Tensor amax_backward_cpu(const Tensor& g, const Tensor& x, const Tensor& result, IntArrayRef dims) {
  if (Tensor dx = by_rows(kAmaxBackward, x, {result, g}, dims, {}); dx.defined()) return dx;
  return amax_backward_aten(g, x, result, dims);
}

Tensor var_backward_meta(const Tensor& g, const Tensor& x, IntArrayRef dims, const Scalar& correction) {
  return all_meta({g, x}) ? at::empty_like(x) : var_backward_aten(g, x, dims, correction);
}

Tensor amax_backward_meta(const Tensor& g, const Tensor& x, const Tensor& result, IntArrayRef dims) {
  return all_meta({g, x, result}) ? at::empty_like(x) : amax_backward_aten(g, x, result, dims);
}

Tensor call_var_backward(const Tensor& g, const Tensor& x, IntArrayRef dims, const Scalar& correction) {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("tvmops::var_backward", "")
                                 .typed<Tensor(const Tensor&, const Tensor&, IntArrayRef, const Scalar&)>();
  return handle.call(g, x, dims, correction);
}

Tensor call_amax_backward(const Tensor& g, const Tensor& x, const Tensor& result, IntArrayRef dims) {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("tvmops::amax_backward", "")
                                 .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, IntArrayRef)>();
  return handle.call(g, x, result, dims);
}

Tensor var_backward_autograd(const Tensor& g, const Tensor& x, IntArrayRef dims, const Scalar& correction) {
  if (needs_aten_autograd("var_backward", {g, x}) || wants_gradient({g, x}))
    return var_backward_aten(g, x, dims, correction);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_var_backward(g, x, dims, correction);
}

Tensor amax_backward_autograd(const Tensor& g, const Tensor& x, const Tensor& result, IntArrayRef dims) {
  if (needs_aten_autograd("amax_backward", {g, x, result}) || wants_gradient({g, x, result}))
    return amax_backward_aten(g, x, result, dims);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_amax_backward(g, x, result, dims);
}

}  // namespace

Tensor var_backward(const Tensor& g, const Tensor& x, IntArrayRef dims, const Scalar& correction) {
  if (c10::GradMode::is_enabled()) return var_backward_aten(g, x, dims, correction);
  return call_var_backward(g, x, dims, correction);
}

Tensor amax_backward(const Tensor& g, const Tensor& x, const Tensor& result, IntArrayRef dims) {
  if (c10::GradMode::is_enabled()) return amax_backward_aten(g, x, result, dims);
  return call_amax_backward(g, x, result, dims);
}

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  m.def("var_backward(Tensor grad, Tensor self, int[] dim, Scalar correction) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("amax_backward(Tensor grad, Tensor self, Tensor result, int[] dim) -> Tensor", {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  m.impl("var_backward", &var_backward_cpu);
  m.impl("amax_backward", &amax_backward_cpu);
}

TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  m.impl("var_backward", on_gpu<&var_backward_cpu>);
  m.impl("amax_backward", on_gpu<&amax_backward_cpu>);
}

TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  m.impl("var_backward", &var_backward_aten);
  m.impl("amax_backward", &amax_backward_aten);
}

TORCH_LIBRARY_IMPL(tvmops, Meta, m) {
  m.impl("var_backward", &var_backward_meta);
  m.impl("amax_backward", &amax_backward_meta);
}

TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  m.impl("var_backward", &var_backward_autograd);
  m.impl("amax_backward", &amax_backward_autograd);
}

}  // namespace tvmops::ops
