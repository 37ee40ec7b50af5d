// activation(input + bias) + residual.
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>

#include "ops/common.h"
#include "ops/fused.h"
#include "ops/row_view.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::RowsProblem;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

const OpKey kPlain("bias_activation"), kResidual("bias_activation_residual"), kBackward("bias_activation_backward");

Tensor formula(const Tensor& x, const OptionalTensor& bias, int activation, const OptionalTensor& residual) {
  const Tensor z = bias ? at::add(x, *bias) : activation == drivers::kNone && !residual ? x.clone() : x;
  const Tensor y = activate(z, activation);
  return residual ? at::add(y, *residual) : y;
}

// The gradient of the bias from that of its sum with the input.
Tensor over_rows(const Tensor& dz) {
  const Tensor sum = at::sum_to(dz, dz.sym_sizes().slice(dz.dim() - 1));
  return sum.is_same(dz) || sum.is_alias_of(dz) ? sum.clone() : sum;
}

// `saved` is the activation's output or the input, see saves_output.
std::tuple<Tensor, Tensor> backward_formula(const Tensor& g, const Tensor& saved, const OptionalTensor& bias,
                                            int activation) {
  const Tensor z = saves_output(activation) || !bias ? saved : at::add(saved, *bias);
  const Tensor dx = activation == drivers::kNone ? g.clone() : activate_backward(g, z, activation);
  return {dx, over_rows(dx)};
}

// Without a bias this is one of the pointwise functions, or an addition, or both: each with a derivative of its own.
Tensor without_bias(const Tensor& x, int activation, const OptionalTensor& residual) {
  if (activation == drivers::kNone && !residual) return x.clone();
  const Tensor y = call_activation(x, activation);
  return residual ? call_add_activation(y, *residual, std::nullopt) : y;
}

bool is_bias_of(const Tensor& x, const Tensor& bias) {
  return is_readable(bias) && bias.scalar_type() == x.scalar_type() && bias.dim() == 1 && bias.size(0) == x.size(-1) &&
         bias.is_contiguous();
}

Tensor call(const Tensor& x, const OptionalTensor& bias, OptionalName activation, const OptionalTensor& residual) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("tvmops::bias_activation", "")
          .typed<Tensor(const Tensor&, const OptionalTensor&, OptionalName, const OptionalTensor&)>();
  return op.call(x, bias, activation, residual);
}

std::tuple<Tensor, Tensor> call_backward(const Tensor& g, const Tensor& saved, const OptionalTensor& bias,
                                         OptionalName activation) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("tvmops::bias_activation_backward", "")
          .typed<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const OptionalTensor&, OptionalName)>();
  return op.call(g, saved, bias, activation);
}

std::tuple<Tensor, Tensor> backward_cpu(const Tensor& grad, const Tensor& saved, const OptionalTensor& bias,
                                        OptionalName name) {
  const int activation = activation_index("bias_activation_backward", name);
  const Tensor g = as_readable_gradient(grad, saved);
  const auto g_rows = row_view(g), rows = row_view(saved);
  const bool biased = saves_output(activation) || (rows && bias && is_bias_of(saved, *bias));
  if (!rows || !g_rows || !biased || g.sizes() != saved.sizes() || g.scalar_type() != saved.scalar_type()) {
    record_aten(kBackward.name(), {grad, saved}, kUnsupported);
    return backward_formula(grad, saved, bias, activation);
  }
  RowsProblem p;
  p.outer = rows->rows, p.n = rows->n, p.variant = activation;
  p.operand[0] = {const_cast<void*>(g.const_data_ptr()), g_rows->stride};
  p.operand[1] = {const_cast<void*>(saved.const_data_ptr()), rows->stride};
  if (bias) p.operand[2].data = const_cast<void*>(bias->const_data_ptr());
  p.operand[3].stride = p.n;
  const RowsChoice choice = choose_rows(kBackward, saved, p);
  if (!choice) return backward_formula(grad, saved, bias, activation);
  const Tensor dx = new_result(saved.sizes(), saved.scalar_type()), dbias = new_result({p.n}, at::kFloat);
  p.operand[3].data = dx.mutable_data_ptr();
  p.operand[4].data = dbias.mutable_data_ptr();
  if (!run_chosen(choice, p)) return backward_formula(grad, saved, bias, activation);
  return {dx, dbias.to(saved.scalar_type())};
}

struct Gradient : torch::autograd::Function<Gradient> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& bias, int64_t activation,
                        const OptionalTensor& residual) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = call(x, bias, activation_name(activation), residual);
    context->saved_data["activation"] = activation;
    context->saved_data["residual"] = residual.has_value();
    const bool output = saves_output(activation) && !residual;
    if (output)
      context->save_for_backward({y});
    else if (activation != drivers::kNone)
      context->save_for_backward({x, bias});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor& g = gradients[0];
    const int activation = context->saved_data["activation"].toInt();
    const Tensor of_residual = context->saved_data["residual"].toBool() ? g : Tensor();
    if (activation == drivers::kNone) {
      const Tensor dbias = context->needs_input_grad(1) ? over_rows(g) : Tensor();
      return {g, dbias, Tensor(), of_residual};
    }
    const auto saved = context->get_saved_variables();
    const OptionalTensor bias = saved.size() > 1 ? OptionalTensor(saved[1]) : std::nullopt;
    Tensor x = saved[0];
    const bool again = c10::GradMode::is_enabled();  // to be differentiated again: by ATen's own formulas
    if (bias && saves_output(activation))            // the residual hides the activation's output
      x = again ? formula(x, bias, activation, std::nullopt) : call(x, bias, activation_name(activation), std::nullopt);
    const auto [dx, dbias] =
        again ? backward_formula(g, x, bias, activation) : call_backward(g, x, bias, activation_name(activation));
    return {dx, dbias, Tensor(), of_residual};
  }
};

Tensor autograd(const Tensor& x, const OptionalTensor& bias, OptionalName name, const OptionalTensor& residual) {
  const int activation = activation_index("bias_activation", name);
  if (!bias) return without_bias(x, activation, residual);
  const Tensor r = residual.value_or(Tensor());
  if (needs_aten_autograd("bias_activation", {x, *bias, r})) return formula(x, bias, activation, residual);
  if (!wants_gradient({x, *bias, r})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call(x, bias, name, residual);
  }
  const auto like = [&](const Tensor& t) { return t.scalar_type() == x.scalar_type(); };
  if (x.dim() == 0 || !like(*bias) || bias->dim() != 1 || bias->sym_size(0) != x.sym_size(-1) ||
      (residual && !(like(r) && r.sym_sizes() == x.sym_sizes()))) {
    record_aten("bias_activation", {x, *bias}, kUnsupported);
    return formula(x, bias, activation, residual);
  }
  return Gradient::apply(x, *bias, activation, residual);
}

std::tuple<Tensor, Tensor> autograd_backward(const Tensor& g, const Tensor& saved, const OptionalTensor& bias,
                                             OptionalName activation) {
  const Tensor b = bias.value_or(Tensor());
  if (needs_aten_autograd(kBackward.name(), {g, saved, b}) || wants_gradient({g, saved, b}))
    return backward_formula(g, saved, bias, activation_index(kBackward.name(), activation));
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(g, saved, bias, activation);
}

}  // namespace

Tensor bias_activation_cpu(const Tensor& x, const OptionalTensor& bias, OptionalName name,
                           const OptionalTensor& residual) {
  const int activation = activation_index("bias_activation", name);
  if (!bias) return without_bias(x, activation, residual);
  const auto rows = row_view(x);
  const auto more = rows && residual && residual->sizes() == x.sizes() && residual->scalar_type() == x.scalar_type()
                        ? row_view(*residual)
                        : std::nullopt;
  if (!rows || !is_bias_of(x, *bias) || (residual && !more)) {
    record_aten("bias_activation", {x, *bias}, kUnsupported);
    return formula(x, bias, activation, residual);
  }
  RowsProblem p;
  p.outer = rows->rows, p.n = rows->n, p.variant = activation;
  p.operand[0] = {const_cast<void*>(x.const_data_ptr()), rows->stride};
  p.operand[1].data = const_cast<void*>(bias->const_data_ptr());
  if (residual) p.operand[2] = {const_cast<void*>(residual->const_data_ptr()), more->stride};
  auto& result = p.operand[residual ? 3 : 2];
  result.stride = p.n;
  const RowsChoice choice = choose_rows(residual ? kResidual : kPlain, x, p);
  if (!choice) return formula(x, bias, activation, residual);
  Tensor y = new_result(x.sizes(), x.scalar_type());
  result.data = y.mutable_data_ptr();
  return run_chosen(choice, p) ? y : formula(x, bias, activation, residual);
}

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  m.def("bias_activation(Tensor input, Tensor? bias=None, str? activation=None, Tensor? residual=None) -> Tensor",
        {at::Tag::pt2_compliant_tag});
  m.def("bias_activation_backward(Tensor grad_output, Tensor saved, Tensor? bias, str? activation) -> (Tensor, Tensor)",
        {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  m.impl("bias_activation", &bias_activation_cpu);
  m.impl("bias_activation_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  m.impl("bias_activation", on_gpu<&bias_activation_cpu>);
  m.impl("bias_activation_backward", on_gpu<&backward_cpu>);
}
TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  m.impl("bias_activation",
         [](const Tensor& x, const OptionalTensor& bias, OptionalName activation, const OptionalTensor& residual) {
           return formula(x, bias, activation_index("bias_activation", activation), residual);
         });
  m.impl("bias_activation_backward",
         [](const Tensor& g, const Tensor& saved, const OptionalTensor& bias, OptionalName activation) {
           return backward_formula(g, saved, bias, activation_index(kBackward.name(), activation));
         });
}
TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  m.impl("bias_activation", &autograd);
  m.impl("bias_activation_backward", &autograd_backward);
}

}  // namespace tvmops::ops
