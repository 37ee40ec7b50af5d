// group_norm as an operator: schemas, derivatives, shapes.
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/common.h"
#include "ops/group_norm.h"

namespace tvmops::ops {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

ThreeTensors group_norm_forward_aten(const Tensor& x, int64_t groups, const OptionalTensor& weight,
                                     const OptionalTensor& bias, double eps) {
  const auto type = at::toOpMathType(x.scalar_type());
  const auto n = x.sym_size(0), c = x.sym_size(1);
  const auto [y, mean, rstd] =
      at::native_group_norm_symint(x.contiguous(), weight, bias, n, c, x.sym_numel() / (n * c), groups, eps);
  return {y, mean.to(type), rstd.to(type)};
}

namespace {

const char* const kName = "group_norm";

bool has(const OptionalTensor& t) { return t && t->defined(); }
Tensor value_or_undefined(const OptionalTensor& t) { return has(t) ? *t : Tensor(); }
OptionalTensor optional(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

Tensor aten(const Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  return at::group_norm(x, groups, weight, bias, eps);
}

Tensor cpu(const Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  if (const auto out = group_norm_kernel(x, groups, weight, bias, eps)) return std::get<0>(*out);
  return aten(x, groups, weight, bias, eps);
}

ThreeTensors forward_cpu(const Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias,
                         double eps) {
  if (auto out = group_norm_kernel(x, groups, weight, bias, eps)) return *std::move(out);
  return group_norm_forward_aten(x, groups, weight, bias, eps);
}

ThreeTensors forward_meta(const Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias,
                          double eps) {
  if (!all_meta({x})) return group_norm_forward_aten(x, groups, weight, bias, eps);
  const auto statistic = [&] {
    return at::empty_symint({x.sym_size(0), groups}, x.options().dtype(at::toOpMathType(x.scalar_type())));
  };
  return {at::empty_symint(x.sym_sizes(), x.options()), statistic(), statistic()};
}

// What the derivative is made for: the rest is ATen's, which says what is wrong.
bool is_regular(const Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias) {
  if (x.dim() < 2 || groups <= 0 || x.sym_size(1) % groups != 0 || !x.is_contiguous() || x.sym_numel() == 0)
    return false;
  const auto fits = [&](const OptionalTensor& w) {
    return !has(w) || (w->dim() == 1 && w->sym_size(0) == x.sym_size(1));
  };
  return fits(weight) && fits(bias);
}

Tensor meta(const Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  if (!all_meta({x}) || !at::isFloatingType(x.scalar_type()) || !is_regular(x, groups, weight, bias))
    return aten(x, groups, weight, bias, eps);
  return at::empty_symint(x.sym_sizes(), x.options());
}

ThreeTensors backward_meta(const Tensor& grad, const Tensor& x, const Tensor& mean, const Tensor& rstd, int64_t groups,
                           const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  if (!all_meta({grad, x})) return group_norm_backward_aten(grad, x, mean, rstd, groups, weight, bias, eps);
  const auto like = [&](const OptionalTensor& w) {
    return has(w) ? at::empty_symint(w->sym_sizes(), w->options()) : at::empty({0}, x.options());
  };
  return {at::empty_symint(x.sym_sizes(), x.options()), like(weight), like(bias)};
}

template <class F>
c10::TypedOperatorHandle<F> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}

ThreeTensors call_backward(const Tensor& grad, const Tensor& x, const Tensor& mean, const Tensor& rstd, int64_t groups,
                           const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  static const auto op = find<decltype(backward_meta)>("tvmops::group_norm_backward");
  return op.call(grad, x, mean, rstd, groups, weight, bias, eps);
}

struct Gradient : torch::autograd::Function<Gradient> {
  static Tensor forward(AutogradContext* context, const Tensor& x, int64_t groups, const OptionalTensor& weight,
                        const OptionalTensor& bias, double eps) {
    static const auto op = find<decltype(forward_meta)>("tvmops::group_norm_forward");
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto [y, mean, rstd] = op.call(x, groups, weight, bias, eps);
    context->save_for_backward({x, value_or_undefined(weight), value_or_undefined(bias), mean, rstd});
    context->saved_data["groups"] = groups;
    context->saved_data["eps"] = eps;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const OptionalTensor weight = optional(saved[1]), bias = optional(saved[2]);
    const int64_t groups = context->saved_data["groups"].toInt();
    const double eps = context->saved_data["eps"].toDouble();
    // To be differentiated again: by formulas of ATen.
    const auto run = c10::GradMode::is_enabled() ? group_norm_backward_aten : call_backward;
    const auto [dx, dweight, dbias] = run(gradients[0], saved[0], saved[3], saved[4], groups, weight, bias, eps);
    return {dx, {}, has(weight) ? dweight : Tensor(), has(bias) ? dbias : Tensor(), {}};
  }
};

Tensor autograd(const Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  const Tensor all[] = {x, value_or_undefined(weight), value_or_undefined(bias)};
  if (needs_aten_autograd(kName, all)) return aten(x, groups, weight, bias, eps);
  if (wants_gradient(all)) {
    if (is_regular(x, groups, weight, bias)) return Gradient::apply(x, groups, weight, bias, eps);
    record_aten(kName, all, kUnsupported);
    return aten(x, groups, weight, bias, eps);
  }
  static const auto op = find<decltype(cpu)>("tvmops::group_norm");
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(x, groups, weight, bias, eps);
}

ThreeTensors autograd_backward(const Tensor& grad, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                               int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  const Tensor all[] = {grad, x, value_or_undefined(weight), value_or_undefined(bias)};
  if (wants_gradient(all) || needs_aten_autograd("group_norm_backward", all))
    return group_norm_backward_aten(grad, x, mean, rstd, groups, weight, bias, eps);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(grad, x, mean, rstd, groups, weight, bias, eps);
}

}  // namespace

at::Tensor group_norm_cpu(const Tensor& x, int64_t groups, const OptionalTensor& weight, const OptionalTensor& bias,
                          double eps) {
  return cpu(x, groups, weight, bias, eps);
}

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  const auto tag = at::Tag::pt2_compliant_tag;
  m.def("group_norm(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, float eps=1e-05) -> Tensor",
        {tag});
  m.def(
      "group_norm_forward(Tensor input, int num_groups, Tensor? weight, Tensor? bias, float eps) -> "
      "(Tensor, Tensor, Tensor)",
      {tag});
  m.def(
      "group_norm_backward(Tensor grad, Tensor input, Tensor mean, Tensor rstd, int num_groups, Tensor? weight, "
      "Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)",
      {tag});
}

TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  m.impl("group_norm", &cpu);
  m.impl("group_norm_forward", &forward_cpu);
  m.impl("group_norm_backward", &group_norm_backward_cpu);
}

TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  m.impl("group_norm", &aten);
  m.impl("group_norm_forward", &group_norm_forward_aten);
  m.impl("group_norm_backward", &group_norm_backward_aten);
}

TORCH_LIBRARY_IMPL(tvmops, Meta, m) {
  m.impl("group_norm", &meta);
  m.impl("group_norm_forward", &forward_meta);
  m.impl("group_norm_backward", &backward_meta);
}

TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  m.impl("group_norm", &autograd);
  m.impl("group_norm_backward", &autograd_backward);
}

}  // namespace tvmops::ops
