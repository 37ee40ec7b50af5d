// activation(input + other).
#include <torch/csrc/autograd/custom_function.h>

#include "ops/common.h"
#include "ops/fused.h"
#include "ops/row_view.h"

namespace tvmops::ops {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

const OpKey kForward("add_activation"), kBackward("add_activation_backward");

Tensor formula(const Tensor& x, const Tensor& other, int activation) { return activate(at::add(x, other), activation); }

// The gradient of the sum, and so of either operand.
Tensor backward_formula(const Tensor& g, const Tensor& x, const Tensor& other, int activation) {
  if (activation == drivers::kNone) return g.clone();
  const Tensor z = at::add(x, other);
  return activate_backward(g, saves_output(activation) ? activate(z, activation) : z, activation);
}

Tensor call_backward(const Tensor& g, const Tensor& x, const Tensor& other, OptionalName activation) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::add_activation_backward", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, OptionalName)>();
  return op.call(g, x, other, activation);
}

Tensor backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& other, OptionalName name) {
  const int activation = activation_index(kBackward.name(), name);
  const Tensor g = as_readable_gradient(grad, x);
  if (const auto walk = common_walk({x, other, g})) {
    auto p = walk->problem();
    p.variant = activation;
    walk->set(p, 0, g);
    walk->set(p, 1, x);
    walk->set(p, 2, other);
    p.operand[3].stride = p.n;
    if (const RowsChoice choice = choose_rows(kBackward, x, p)) {
      const Tensor dz = walk->new_result(x);
      p.operand[3].data = dz.mutable_data_ptr();
      if (run_chosen(choice, p)) return dz;
    }
  } else {
    record_aten(kBackward.name(), {grad, x, other}, kUnsupported);
  }
  return backward_formula(grad, x, other, activation);
}

struct Gradient : torch::autograd::Function<Gradient> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& other, int64_t activation) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = call_add_activation(x, other, activation_name(activation));
    context->saved_data["activation"] = activation;
    if (saves_output(activation))
      context->save_for_backward({y});
    else if (activation != drivers::kNone)
      context->save_for_backward({x, other});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor& g = gradients[0];
    const int activation = context->saved_data["activation"].toInt();
    const auto saved = context->get_saved_variables();
    const bool again = c10::GradMode::is_enabled();  // to be differentiated again: by ATen's own formulas
    Tensor dz = g;
    if (saves_output(activation))
      dz = again ? activate_backward(g, saved[0], activation) : call_activation_backward(g, saved[0], activation);
    else if (activation != drivers::kNone)
      dz = again ? backward_formula(g, saved[0], saved[1], activation)
                 : call_backward(g, saved[0], saved[1], activation_name(activation));
    return {dz, dz, Tensor()};
  }
};

Tensor autograd(const Tensor& x, const Tensor& other, OptionalName name) {
  const int activation = activation_index(kForward.name(), name);
  if (needs_aten_autograd(kForward.name(), {x, other})) return formula(x, other, activation);
  if (!wants_gradient({x, other})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_add_activation(x, other, name);
  }
  if (x.scalar_type() != other.scalar_type() || x.sym_sizes() != other.sym_sizes()) {
    record_aten(kForward.name(), {x, other}, kUnsupported);
    return formula(x, other, activation);
  }
  return Gradient::apply(x, other, activation);
}

Tensor autograd_backward(const Tensor& g, const Tensor& x, const Tensor& other, OptionalName activation) {
  if (needs_aten_autograd(kBackward.name(), {g, x, other}) || wants_gradient({g, x, other}))
    return backward_formula(g, x, other, activation_index(kBackward.name(), activation));
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(g, x, other, activation);
}

}  // namespace

Tensor call_add_activation(const Tensor& x, const Tensor& other, OptionalName activation) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::add_activation", "")
                             .typed<Tensor(const Tensor&, const Tensor&, OptionalName)>();
  return op.call(x, other, activation);
}

Tensor add_activation_cpu(const Tensor& x, const Tensor& other, OptionalName name) {
  const int activation = activation_index(kForward.name(), name);
  if (const auto walk = common_walk({x, other})) {
    auto p = walk->problem();
    p.variant = activation;
    walk->set(p, 0, x);
    walk->set(p, 1, other);
    p.operand[2].stride = p.n;
    if (const RowsChoice choice = choose_rows(kForward, x, p)) {
      Tensor y = walk->new_result(x);
      p.operand[2].data = y.mutable_data_ptr();
      if (run_chosen(choice, p)) return y;
    }
  } else {
    record_aten(kForward.name(), {x, other}, kUnsupported);
  }
  return formula(x, other, activation);
}

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  m.def("add_activation(Tensor input, Tensor other, str? activation=None) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("add_activation_backward(Tensor grad_output, Tensor input, Tensor other, str? activation) -> Tensor",
        {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  m.impl("add_activation", &add_activation_cpu);
  m.impl("add_activation_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  m.impl("add_activation", on_gpu<&add_activation_cpu>);
  m.impl("add_activation_backward", on_gpu<&backward_cpu>);
}
TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  m.impl("add_activation", [](const Tensor& x, const Tensor& other, OptionalName activation) {
    return formula(x, other, activation_index(kForward.name(), activation));
  });
  m.impl("add_activation_backward", [](const Tensor& g, const Tensor& x, const Tensor& other, OptionalName activation) {
    return backward_formula(g, x, other, activation_index(kBackward.name(), activation));
  });
}
TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  m.impl("add_activation", &autograd);
  m.impl("add_activation_backward", &autograd_backward);
}

}  // namespace tvmops::ops
