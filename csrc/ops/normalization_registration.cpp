// layer_norm and rms_norm as operators: schemas, derivatives, shapes.
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>

#include "ops/common.h"
#include "ops/gpu.h"
#include "ops/normalization.h"

namespace tvmops::ops {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

using Shape = at::SymIntArrayRef;
using Pair = std::tuple<Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;

const OptionalTensor kNone;

bool has(const OptionalTensor& t) { return t && t->defined(); }
Tensor value_or_undefined(const OptionalTensor& t) { return has(t) ? *t : Tensor(); }
OptionalTensor optional(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }
// Operators return tensors: one without elements for what there is not.
Tensor or_empty(const Tensor& t, const Tensor& like) { return t.defined() ? t : at::empty({0}, like.options()); }

const char* name_of(const NormCall& c) {
  if (has(c.residual)) return c.rms ? "add_rms_norm" : "add_layer_norm";
  return c.rms ? "rms_norm" : "layer_norm";
}

// The operators of a forward with statistics and of backward, for all four functions.

NormCall norm_call(const Tensor& x, const OptionalTensor& residual, const OptionalTensor& weight,
                   const OptionalTensor& bias, std::optional<double> eps, bool rms) {
  return {rms, x, residual, weight, bias, eps};
}

Shape last_sizes(const Tensor& x, int64_t dims) { return x.sym_sizes().slice(x.dim() - dims); }

Four all_of(const Normalised& out, const Tensor& x) {
  return {out.result, or_empty(out.sum, x), or_empty(out.mean, x), out.rstd};
}

Four forward_cpu(const Tensor& x, const OptionalTensor& residual, int64_t dims, const OptionalTensor& weight,
                 const OptionalTensor& bias, std::optional<double> eps, bool rms) {
  const auto call = norm_call(x, residual, weight, bias, eps, rms);
  return all_of(normalise_cpu(call, x.sizes().slice(x.dim() - dims), true), x);
}

Four forward_aten(const Tensor& x, const OptionalTensor& residual, int64_t dims, const OptionalTensor& weight,
                  const OptionalTensor& bias, std::optional<double> eps, bool rms) {
  return all_of(normalise_aten(norm_call(x, residual, weight, bias, eps, rms), last_sizes(x, dims), true), x);
}

Four forward_meta(const Tensor& x, const OptionalTensor& residual, int64_t dims, const OptionalTensor& weight,
                  const OptionalTensor& bias, std::optional<double> eps, bool rms) {
  if (!all_meta({x})) return forward_aten(x, residual, dims, weight, bias, eps, rms);
  std::vector<c10::SymInt> sizes(x.sym_sizes().begin(), x.sym_sizes().end());
  for (auto i = sizes.end() - dims; i != sizes.end(); ++i) *i = 1;
  const auto statistic = x.options().dtype(at::toOpMathType(x.scalar_type()));
  const auto like_x = [&] { return at::empty_symint(x.sym_sizes(), x.options()); };
  return {like_x(), has(residual) ? like_x() : or_empty({}, x),
          rms ? or_empty({}, x) : at::empty_symint(sizes, statistic), at::empty_symint(sizes, statistic)};
}

template <NormGradients (*run)(const NormBackward&)>
Three backward(const Tensor& grad, const OptionalTensor& grad_sum, const Tensor& x, int64_t dims, const Tensor& mean,
               const Tensor& rstd, const OptionalTensor& weight, const OptionalTensor& bias, double eps, bool rms) {
  const NormGradients out = run({rms, grad, grad_sum, x, dims, mean, rstd, weight, bias, eps});
  return {out.input, or_empty(out.weight, x), or_empty(out.bias, x)};
}

Three backward_meta(const Tensor& grad, const OptionalTensor& grad_sum, const Tensor& x, int64_t dims,
                    const Tensor& mean, const Tensor& rstd, const OptionalTensor& weight, const OptionalTensor& bias,
                    double eps, bool rms) {
  if (!all_meta({grad, x}))
    return backward<norm_backward_aten>(grad, grad_sum, x, dims, mean, rstd, weight, bias, eps, rms);
  const auto like = [&](const OptionalTensor& w) {
    return has(w) ? at::empty_symint(last_sizes(x, dims), w->options()) : or_empty({}, x);
  };
  return {at::empty_symint(x.sym_sizes(), x.options()), like(weight), like(bias)};
}

template <class F>
c10::TypedOperatorHandle<F> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}

Four call_forward(const Tensor& x, const OptionalTensor& residual, int64_t dims, const OptionalTensor& weight,
                  const OptionalTensor& bias, std::optional<double> eps, bool rms) {
  static const auto op = find<decltype(forward_cpu)>("tvmops::norm_forward");
  return op.call(x, residual, dims, weight, bias, eps, rms);
}

Three call_backward(const Tensor& grad, const OptionalTensor& grad_sum, const Tensor& x, int64_t dims,
                    const Tensor& mean, const Tensor& rstd, const OptionalTensor& weight, const OptionalTensor& bias,
                    double eps, bool rms) {
  static const auto op = find<decltype(backward_meta)>("tvmops::norm_backward");
  return op.call(grad, grad_sum, x, dims, mean, rstd, weight, bias, eps, rms);
}

Three backward_autograd(const Tensor& grad, const OptionalTensor& grad_sum, const Tensor& x, int64_t dims,
                        const Tensor& mean, const Tensor& rstd, const OptionalTensor& weight,
                        const OptionalTensor& bias, double eps, bool rms) {
  const Tensor all[] = {grad, value_or_undefined(grad_sum), x, value_or_undefined(weight), value_or_undefined(bias)};
  if (wants_gradient(all) || needs_aten_autograd("norm_backward", all))
    return backward<norm_backward_aten>(grad, grad_sum, x, dims, mean, rstd, weight, bias, eps, rms);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(grad, grad_sum, x, dims, mean, rstd, weight, bias, eps, rms);
}

struct Gradient : torch::autograd::Function<Gradient> {
  static variable_list forward(AutogradContext* context, const Tensor& x, const OptionalTensor& residual, int64_t dims,
                               const OptionalTensor& weight, const OptionalTensor& bias, std::optional<double> eps,
                               bool rms) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto [result, sum, mean, rstd] = call_forward(x, residual, dims, weight, bias, eps, rms);
    const bool add = has(residual);
    context->save_for_backward({add ? sum : x, value_or_undefined(weight), value_or_undefined(bias), mean, rstd});
    context->saved_data["dims"] = dims;
    context->saved_data["eps"] = eps_or_default(eps, x.scalar_type());
    context->saved_data["rms"] = rms;
    context->saved_data["add"] = add;
    context->set_materialize_grads(false);
    return add ? variable_list{result, sum} : variable_list{result};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &mean = saved[3], &rstd = saved[4];
    const OptionalTensor weight = optional(saved[1]), bias = optional(saved[2]);
    const int64_t dims = context->saved_data["dims"].toInt();
    const double eps = context->saved_data["eps"].toDouble();
    const bool rms = context->saved_data["rms"].toBool(), add = context->saved_data["add"].toBool();
    const Tensor& grad = gradients[0];
    const OptionalTensor grad_sum = add ? optional(gradients[1]) : std::nullopt;
    const auto all = [&](const Tensor& dx, const Tensor& dweight, const Tensor& dbias) -> variable_list {
      return {dx, add ? dx : Tensor(), {}, dweight, dbias, {}, {}};
    };
    if (!grad.defined()) return all(value_or_undefined(grad_sum), {}, {});
    // To be differentiated again: by formulas of ATen.
    const auto [dx, dweight, dbias] =
        c10::GradMode::is_enabled()
            ? ops::backward<norm_backward_aten>(grad, grad_sum, x, dims, mean, rstd, weight, bias, eps, rms)
            : call_backward(grad, grad_sum, x, dims, mean, rstd, weight, bias, eps, rms);
    return all(dx, has(weight) ? dweight : Tensor(), has(bias) ? dbias : Tensor());
  }
};

// What the four functions do under each key.

bool is_tail(Shape shape, const Tensor& x) {
  const auto dims = static_cast<int64_t>(shape.size());
  return dims > 0 && dims <= x.dim() && last_sizes(x, dims) == shape;
}

Normalised run_cpu(const NormCall& c, Shape shape) { return normalise_cpu(c, C10_AS_INTARRAYREF_SLOW(shape), false); }
Normalised run_gpu(const NormCall& c, Shape shape) {
  const GpuScope scope(c.input);
  return run_cpu(c, shape);
}
Normalised run_aten(const NormCall& c, Shape shape) { return normalise_aten(c, shape, false); }

// ATen says what is wrong.
Normalised run_meta(const NormCall& c, Shape shape) {
  const Tensor& x = c.input;
  const auto fits = [&](const OptionalTensor& w) { return !has(w) || w->sym_sizes() == shape; };
  if (!all_meta({x}) || !at::isFloatingType(x.scalar_type()) || !is_tail(shape, x) || !fits(c.weight) || !fits(c.bias))
    return run_aten(c, shape);
  const Tensor sum = has(c.residual) ? x + *c.residual : x;
  return {at::empty_symint(sum.sym_sizes(), sum.options()), has(c.residual) ? sum : Tensor(), {}, {}};
}

Normalised run_below_autograd(const NormCall& c, Shape shape);

Normalised run_autograd(const NormCall& c, Shape shape) {
  const Tensor all[] = {c.input, value_or_undefined(c.residual), value_or_undefined(c.weight),
                        value_or_undefined(c.bias)};
  if (needs_aten_autograd(name_of(c), all)) return run_aten(c, shape);
  if (!wants_gradient(all)) return run_below_autograd(c, shape);
  const auto plain = [&](const OptionalTensor& w) { return !has(w) || w->sym_sizes() == shape; };
  const bool same = !has(c.residual) || (c.residual->sym_sizes() == c.input.sym_sizes() &&
                                         c.residual->scalar_type() == c.input.scalar_type());
  if (!is_tail(shape, c.input) || !plain(c.weight) || !plain(c.bias) || !same) {
    record_aten(name_of(c), all, kUnsupported);
    return run_aten(c, shape);
  }
  const auto out =
      Gradient::apply(c.input, c.residual, static_cast<int64_t>(shape.size()), c.weight, c.bias, c.eps, c.rms);
  return {out[0], out.size() > 1 ? out[1] : Tensor(), {}, {}};
}

using Run = Normalised (*)(const NormCall&, Shape);

template <Run run>
Tensor layer(const Tensor& x, Shape shape, const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  return run({false, x, kNone, weight, bias, eps}, shape).result;
}

template <Run run>
Tensor rms(const Tensor& x, Shape shape, const OptionalTensor& weight, std::optional<double> eps) {
  return run({true, x, kNone, weight, kNone, eps}, shape).result;
}

template <Run run>
Pair add_layer(const Tensor& x, const Tensor& residual, Shape shape, const OptionalTensor& weight,
               const OptionalTensor& bias, double eps) {
  const OptionalTensor r = residual;
  const Normalised out = run({false, x, r, weight, bias, eps}, shape);
  return {out.result, out.sum};
}

template <Run run>
Pair add_rms(const Tensor& x, const Tensor& residual, Shape shape, const OptionalTensor& weight,
             std::optional<double> eps) {
  const OptionalTensor r = residual;
  const Normalised out = run({true, x, r, weight, kNone, eps}, shape);
  return {out.result, out.sum};
}

Normalised run_below_autograd(const NormCall& c, Shape shape) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  static const auto layer_op = find<decltype(layer<run_cpu>)>("tvmops::layer_norm");
  static const auto rms_op = find<decltype(rms<run_cpu>)>("tvmops::rms_norm");
  static const auto add_layer_op = find<decltype(add_layer<run_cpu>)>("tvmops::add_layer_norm");
  static const auto add_rms_op = find<decltype(add_rms<run_cpu>)>("tvmops::add_rms_norm");
  Normalised out;
  if (!has(c.residual))
    out.result =
        c.rms ? rms_op.call(c.input, shape, c.weight, c.eps) : layer_op.call(c.input, shape, c.weight, c.bias, *c.eps);
  else
    std::tie(out.result, out.sum) = c.rms ? add_rms_op.call(c.input, *c.residual, shape, c.weight, c.eps)
                                          : add_layer_op.call(c.input, *c.residual, shape, c.weight, c.bias, *c.eps);
  return out;
}

template <Run run>
void implement(torch::Library& m) {
  m.impl("layer_norm", &layer<run>);
  m.impl("rms_norm", &rms<run>);
  m.impl("add_layer_norm", &add_layer<run>);
  m.impl("add_rms_norm", &add_rms<run>);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  const auto tag = at::Tag::pt2_compliant_tag;
  const std::string layer = "SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1e-05)";
  const std::string rms = "SymInt[] normalized_shape, Tensor? weight=None, float? eps=None)";
  m.def(("layer_norm(Tensor input, " + layer + " -> Tensor").c_str(), {tag});
  m.def(("rms_norm(Tensor input, " + rms + " -> Tensor").c_str(), {tag});
  m.def(("add_layer_norm(Tensor input, Tensor residual, " + layer + " -> (Tensor, Tensor)").c_str(), {tag});
  m.def(("add_rms_norm(Tensor input, Tensor residual, " + rms + " -> (Tensor, Tensor)").c_str(), {tag});
  // Of the four: result, sum, mean, rstd; the last `dims` dimensions are normalised.
  m.def(
      "norm_forward(Tensor input, Tensor? residual, int dims, Tensor? weight, Tensor? bias, float? eps, bool rms) -> "
      "(Tensor, Tensor, Tensor, Tensor)",
      {tag});
  m.def(
      "norm_backward(Tensor grad, Tensor? grad_sum, Tensor input, int dims, Tensor mean, Tensor rstd, Tensor? weight, "
      "Tensor? bias, float eps, bool rms) -> (Tensor, Tensor, Tensor)",
      {tag});
}

TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  implement<run_cpu>(m);
  m.impl("norm_forward", &forward_cpu);
  m.impl("norm_backward", &backward<norm_backward_cpu>);
}

TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  implement<run_gpu>(m);
  m.impl("norm_forward", on_gpu<&forward_cpu>);
  m.impl("norm_backward", on_gpu<&backward<norm_backward_cpu>>);
}

TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  implement<run_aten>(m);
  m.impl("norm_forward", &forward_aten);
  m.impl("norm_backward", &backward<norm_backward_aten>);
}

TORCH_LIBRARY_IMPL(tvmops, Meta, m) {
  implement<run_meta>(m);
  m.impl("norm_forward", &forward_meta);
  m.impl("norm_backward", &backward_meta);
}

TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  implement<run_autograd>(m);
  m.impl("norm_backward", &backward_autograd);
}

}  // namespace tvmops::ops
