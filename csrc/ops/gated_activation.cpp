// activation(gate) * up, of two tensors or of the halves of one: GLU and its variants (Shazeer, "GLU Variants Improve
// Transformer", 2020).
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

const OpKey kForward("gated_activation"), kBackward("gated_activation_backward");
constexpr const char* kHalves = "gated_halves";

std::tuple<Tensor, Tensor> halves(const Tensor& x) {
  TORCH_CHECK(x.dim() > 0, "gated_halves: a scalar has no halves");
  const auto size = x.sym_size(-1);
  TORCH_CHECK(size % 2 == 0, "gated_halves: the last dimension can't be halved, its size is ", size);
  return {x.narrow_symint(-1, 0, size / 2), x.narrow_symint(-1, size / 2, size / 2)};
}

Tensor formula(const Tensor& gate, const Tensor& up, int activation) { return at::mul(activate(gate, activation), up); }

Tensor halves_formula(const Tensor& x, int activation) {
  const auto [gate, up] = halves(x);
  return formula(gate, up, activation);
}

std::tuple<Tensor, Tensor> backward_formula(const Tensor& g, const Tensor& gate, const Tensor& up, int activation) {
  const Tensor a = activate(gate, activation);
  return {activate_backward(at::mul(g, up), saves_output(activation) ? a : gate, activation), at::mul(g, a)};
}

Tensor halves_backward_formula(const Tensor& g, const Tensor& x, int activation) {
  const auto [gate, up] = halves(x);
  const auto [dgate, dup] = backward_formula(g, gate, up, activation);
  return at::cat({dgate, dup}, -1);
}

Tensor call(const Tensor& gate, const Tensor& up, OptionalName activation) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::gated_activation", "")
                             .typed<Tensor(const Tensor&, const Tensor&, OptionalName)>();
  return op.call(gate, up, activation);
}

Tensor call_halves(const Tensor& x, OptionalName activation) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::gated_halves", "")
                             .typed<Tensor(const Tensor&, OptionalName)>();
  return op.call(x, activation);
}

std::tuple<Tensor, Tensor> call_backward(const Tensor& g, const Tensor& gate, const Tensor& up,
                                         OptionalName activation) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("tvmops::gated_activation_backward", "")
          .typed<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, OptionalName)>();
  return op.call(g, gate, up, activation);
}

Tensor call_halves_backward(const Tensor& g, const Tensor& x, OptionalName activation) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::gated_halves_backward", "")
                             .typed<Tensor(const Tensor&, const Tensor&, OptionalName)>();
  return op.call(g, x, activation);
}

// Operands i and i + 1: the halves of rows.
void set_halves(RowsProblem& p, int i, const Tensor& t, int64_t stride) {
  p.operand[i] = {const_cast<void*>(t.const_data_ptr()), stride};
  p.operand[i + 1] = {static_cast<char*>(p.operand[i].data) + p.n * t.element_size(), stride};
}

std::tuple<Tensor, Tensor> backward_cpu(const Tensor& grad, const Tensor& gate, const Tensor& up, OptionalName name) {
  const int activation = activation_index(kBackward.name(), name);
  const Tensor g = as_readable_gradient(grad, gate);
  if (const auto walk = common_walk({gate, up, g})) {
    RowsProblem p = walk->problem();
    p.variant = activation;
    walk->set(p, 0, g);
    walk->set(p, 1, gate);
    walk->set(p, 2, up);
    p.operand[3].stride = p.operand[4].stride = p.n;
    if (const RowsChoice choice = choose_rows(kBackward, gate, p)) {
      const Tensor dgate = walk->new_result(gate), dup = walk->new_result(gate);
      p.operand[3].data = dgate.mutable_data_ptr();
      p.operand[4].data = dup.mutable_data_ptr();
      if (run_chosen(choice, p)) return {dgate, dup};
    }
  } else {
    record_aten(kBackward.name(), {grad, gate, up}, kUnsupported);
  }
  return backward_formula(grad, gate, up, activation);
}

Tensor halves_backward_cpu(const Tensor& grad, const Tensor& x, OptionalName name) {
  const int activation = activation_index("gated_halves_backward", name);
  const Tensor g = grad.is_non_overlapping_and_dense() || row_view(grad) ? grad : grad.contiguous();
  const auto rows = row_view(x), g_rows = row_view(g);
  const bool halved = rows && g_rows && 2 * g_rows->n == rows->n && g_rows->rows == rows->rows && g.dim() == x.dim();
  if (!halved || g.scalar_type() != x.scalar_type()) {
    record_aten("gated_halves_backward", {grad, x}, kUnsupported);
    return halves_backward_formula(grad, x, activation);
  }
  RowsProblem p;
  p.outer = rows->rows, p.n = g_rows->n, p.variant = activation;
  p.operand[0] = {const_cast<void*>(g.const_data_ptr()), g_rows->stride};
  set_halves(p, 1, x, rows->stride);
  p.operand[3].stride = p.operand[4].stride = rows->n;
  const RowsChoice choice = choose_rows(kBackward, x, p);
  if (!choice) return halves_backward_formula(grad, x, activation);
  Tensor dx = new_result(x.sizes(), x.scalar_type());
  set_halves(p, 3, dx, rows->n);
  return run_chosen(choice, p) ? dx : halves_backward_formula(grad, x, activation);
}

struct Gradient : torch::autograd::Function<Gradient> {
  static Tensor forward(AutogradContext* context, const Tensor& gate, const Tensor& up, int64_t activation) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->saved_data["activation"] = activation;
    context->save_for_backward({gate, up});
    return call(gate, up, activation_name(activation));
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const int activation = context->saved_data["activation"].toInt();
    const auto [dgate, dup] = c10::GradMode::is_enabled()  // to be differentiated again: by ATen's own formulas
                                  ? backward_formula(gradients[0], saved[0], saved[1], activation)
                                  : call_backward(gradients[0], saved[0], saved[1], activation_name(activation));
    return {dgate, dup, Tensor()};
  }
};

struct HalvesGradient : torch::autograd::Function<HalvesGradient> {
  static Tensor forward(AutogradContext* context, const Tensor& x, int64_t activation) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->saved_data["activation"] = activation;
    context->save_for_backward({x});
    return call_halves(x, activation_name(activation));
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor x = context->get_saved_variables()[0];
    const int activation = context->saved_data["activation"].toInt();
    if (c10::GradMode::is_enabled()) return {halves_backward_formula(gradients[0], x, activation), Tensor()};
    return {call_halves_backward(gradients[0], x, activation_name(activation)), Tensor()};
  }
};

Tensor autograd(const Tensor& gate, const Tensor& up, OptionalName name) {
  const int activation = activation_index(kForward.name(), name);
  if (needs_aten_autograd(kForward.name(), {gate, up})) return formula(gate, up, activation);
  if (!wants_gradient({gate, up})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call(gate, up, name);
  }
  if (gate.scalar_type() != up.scalar_type() || gate.sym_sizes() != up.sym_sizes()) {
    record_aten(kForward.name(), {gate, up}, kUnsupported);
    return formula(gate, up, activation);
  }
  return Gradient::apply(gate, up, activation);
}

Tensor halves_autograd(const Tensor& x, OptionalName name) {
  const int activation = activation_index(kHalves, name);
  if (needs_aten_autograd(kHalves, {x})) return halves_formula(x, activation);
  if (wants_gradient({x})) return HalvesGradient::apply(x, activation);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_halves(x, name);
}

std::tuple<Tensor, Tensor> autograd_backward(const Tensor& g, const Tensor& gate, const Tensor& up,
                                             OptionalName activation) {
  if (needs_aten_autograd(kBackward.name(), {g, gate, up}) || wants_gradient({g, gate, up}))
    return backward_formula(g, gate, up, activation_index(kBackward.name(), activation));
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(g, gate, up, activation);
}

Tensor halves_autograd_backward(const Tensor& g, const Tensor& x, OptionalName activation) {
  if (needs_aten_autograd("gated_halves_backward", {g, x}) || wants_gradient({g, x}))
    return halves_backward_formula(g, x, activation_index("gated_halves_backward", activation));
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_halves_backward(g, x, activation);
}

}  // namespace

Tensor gated_activation_cpu(const Tensor& gate, const Tensor& up, OptionalName name) {
  const int activation = activation_index(kForward.name(), name);
  if (const auto walk = common_walk({gate, up})) {
    RowsProblem p = walk->problem();
    p.variant = activation;
    walk->set(p, 0, gate);
    walk->set(p, 1, up);
    p.operand[2].stride = p.n;
    if (const RowsChoice choice = choose_rows(kForward, gate, p)) {
      Tensor y = walk->new_result(gate);
      p.operand[2].data = y.mutable_data_ptr();
      if (run_chosen(choice, p)) return y;
    }
  } else {
    record_aten(kForward.name(), {gate, up}, kUnsupported);
  }
  return formula(gate, up, activation);
}

Tensor gated_halves_cpu(const Tensor& x, OptionalName name) {
  const int activation = activation_index(kHalves, name);
  const auto rows = row_view(x);
  if (!rows || rows->n % 2 != 0) {
    record_aten(kHalves, {x}, kUnsupported);
    return halves_formula(x, activation);
  }
  RowsProblem p;
  p.outer = rows->rows, p.n = rows->n / 2, p.variant = activation;
  set_halves(p, 0, x, rows->stride);
  p.operand[2].stride = p.n;
  const RowsChoice choice = choose_rows(kForward, x, p);
  if (!choice) return halves_formula(x, activation);
  c10::SmallVector<int64_t, 5> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = p.n;
  Tensor y = new_result(sizes, x.scalar_type());
  p.operand[2].data = y.mutable_data_ptr();
  return run_chosen(choice, p) ? y : halves_formula(x, activation);
}

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  m.def("gated_activation(Tensor gate, Tensor up, str? activation) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("gated_halves(Tensor input, str? activation) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("gated_activation_backward(Tensor grad_output, Tensor gate, Tensor up, str? activation) -> (Tensor, Tensor)",
        {at::Tag::pt2_compliant_tag});
  m.def("gated_halves_backward(Tensor grad_output, Tensor input, str? activation) -> Tensor",
        {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  m.impl("gated_activation", &gated_activation_cpu);
  m.impl("gated_halves", &gated_halves_cpu);
  m.impl("gated_activation_backward", &backward_cpu);
  m.impl("gated_halves_backward", &halves_backward_cpu);
}
TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  m.impl("gated_activation", on_gpu<&gated_activation_cpu>);
  m.impl("gated_halves", on_gpu<&gated_halves_cpu>);
  m.impl("gated_activation_backward", on_gpu<&backward_cpu>);
  m.impl("gated_halves_backward", on_gpu<&halves_backward_cpu>);
}
TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  m.impl("gated_activation", [](const Tensor& gate, const Tensor& up, OptionalName activation) {
    return formula(gate, up, activation_index(kForward.name(), activation));
  });
  m.impl("gated_halves", [](const Tensor& x, OptionalName activation) {
    return halves_formula(x, activation_index(kHalves, activation));
  });
  m.impl("gated_activation_backward",
         [](const Tensor& g, const Tensor& gate, const Tensor& up, OptionalName activation) {
           return backward_formula(g, gate, up, activation_index(kBackward.name(), activation));
         });
  m.impl("gated_halves_backward", [](const Tensor& g, const Tensor& x, OptionalName activation) {
    return halves_backward_formula(g, x, activation_index("gated_halves_backward", activation));
  });
}
TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  m.impl("gated_activation", &autograd);
  m.impl("gated_halves", &halves_autograd);
  m.impl("gated_activation_backward", &autograd_backward);
  m.impl("gated_halves_backward", &halves_autograd_backward);
}

}  // namespace tvmops::ops
