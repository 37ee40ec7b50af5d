// scale * relu(input)**2 + shift, with tensors of one element: StarReLU of Yu et al., "MetaFormer Baselines for
// Vision", 2022.
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>
#include <vector>

#include "ops/common.h"
#include "ops/fused.h"
#include "ops/row_view.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::RowsProblem;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

const OpKey kForward("star_relu"), kBackward("star_relu_backward");
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// Memory is cut into rows of this length, whose sums are then added in order.
constexpr int64_t kRow = 4096;

Tensor formula(const Tensor& x, const Tensor& scale, const Tensor& shift) {
  return at::add(at::mul(scale, at::relu(x).square()), shift);
}

Gradients backward_formula(const Tensor& g, const Tensor& x, const Tensor& scale, const Tensor& shift) {
  const Tensor y = at::relu(x);
  const Tensor dx = at::threshold_backward(at::mul(g, scale) * 2 * y, y, 0);
  const auto total = [](const Tensor& t, const Tensor& like) { return t.sum().reshape_symint(like.sym_sizes()); };
  return {dx, total(g * y.square(), scale), total(g, shift)};
}

bool is_factor(const Tensor& t, const Tensor& x) {
  return t.scalar_type() == x.scalar_type() && t.sym_numel() == 1 && t.dim() <= x.dim();
}

float value_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case at::kBFloat16:
      return *t.const_data_ptr<at::BFloat16>();
    case at::kHalf:
      return *t.const_data_ptr<at::Half>();
    default:
      return *t.const_data_ptr<float>();
  }
}

// A kernel can read the factors, and memory in the order in which all tensors have it.
std::optional<Walk> walk_of(at::ArrayRef<Tensor> tensors, const Tensor& scale, const Tensor& shift) {
  const Tensor& x = tensors[0];
  if (!is_readable(scale) || !is_readable(shift) || !is_factor(scale, x) || !is_factor(shift, x)) return std::nullopt;
  return common_walk(tensors);
}

Tensor call(const Tensor& x, const Tensor& scale, const Tensor& shift) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::star_relu", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&)>();
  return op.call(x, scale, shift);
}

Gradients call_backward(const Tensor& g, const Tensor& x, const Tensor& scale, const Tensor& shift) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::star_relu_backward", "")
                             .typed<Gradients(const Tensor&, const Tensor&, const Tensor&, const Tensor&)>();
  return op.call(g, x, scale, shift);
}

// Cuts memory that is walked as one row into rows, of which `operands` are; what is left over.
int64_t cut(RowsProblem& p, std::initializer_list<int> operands) {
  if (p.outer > 1 || p.n <= kRow) return 0;
  const int64_t rest = p.n % kRow;
  p.outer = p.n / kRow, p.n = kRow;
  for (const int i : operands) p.operand[i].stride = kRow;
  return rest;
}

// What is left over, as a row.
void go_on(RowsProblem& p, std::initializer_list<int> operands, int64_t rest, int64_t element_bytes) {
  for (const int i : operands)
    p.operand[i].data = static_cast<char*>(p.operand[i].data) + p.outer * kRow * element_bytes;
  p.outer = 1, p.n = rest;
}

Gradients backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& scale, const Tensor& shift) {
  const Tensor g = as_readable_gradient(grad, x);
  const auto walk = walk_of({x, g}, scale, shift);
  if (!walk) {
    record_aten(kBackward.name(), {grad, x}, kUnsupported);
    return backward_formula(grad, x, scale, shift);
  }
  RowsProblem p = walk->problem();
  p.param[0] = value_of(scale);
  walk->set(p, 0, g);
  walk->set(p, 1, x);
  p.operand[2].stride = p.n;
  const int64_t rest = cut(p, {0, 1, 2});
  const RowsChoice choice = choose_rows(kBackward, x, p);
  if (!choice) return backward_formula(grad, x, scale, shift);
  const Tensor dx = walk->new_result(x);
  std::vector<float> of_scale(p.outer + 1), of_shift(p.outer + 1);  // the last for the rest
  p.operand[2].data = dx.mutable_data_ptr();
  p.operand[3].data = of_scale.data();
  p.operand[4].data = of_shift.data();
  drivers::rows(*choice.kernel, p, kAtenParallel);
  if (rest > 0) {
    go_on(p, {0, 1, 2}, rest, x.element_size());
    p.operand[3].data = &of_scale.back();
    p.operand[4].data = &of_shift.back();
    drivers::rows(*choice.kernel, p, kAtenParallel);
  }
  const auto total = [](const std::vector<float>& sums, const Tensor& like) {
    double sum = 0;
    for (const float s : sums) sum += s;
    return at::full(like.sizes(), sum, like.options());
  };
  return {dx, total(of_scale, scale), total(of_shift, shift)};
}

struct Gradient : torch::autograd::Function<Gradient> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& scale, const Tensor& shift) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({x, scale, shift});
    return call(x, scale, shift);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto [dx, dscale, dshift] = c10::GradMode::is_enabled()  // to be differentiated again: by ATen's own formulas
                                          ? backward_formula(gradients[0], saved[0], saved[1], saved[2])
                                          : call_backward(gradients[0], saved[0], saved[1], saved[2]);
    return {dx, dscale, dshift};
  }
};

Tensor autograd(const Tensor& x, const Tensor& scale, const Tensor& shift) {
  if (needs_aten_autograd(kForward.name(), {x, scale, shift})) return formula(x, scale, shift);
  if (!wants_gradient({x, scale, shift})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call(x, scale, shift);
  }
  if (!is_factor(scale, x) || !is_factor(shift, x)) {
    record_aten(kForward.name(), {x}, kUnsupported);
    return formula(x, scale, shift);
  }
  return Gradient::apply(x, scale, shift);
}

Gradients autograd_backward(const Tensor& g, const Tensor& x, const Tensor& scale, const Tensor& shift) {
  if (needs_aten_autograd(kBackward.name(), {g, x, scale, shift}) || wants_gradient({g, x, scale, shift}))
    return backward_formula(g, x, scale, shift);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(g, x, scale, shift);
}

}  // namespace

Tensor star_relu_cpu(const Tensor& x, const Tensor& scale, const Tensor& shift) {
  const auto walk = walk_of({x}, scale, shift);
  if (!walk) {
    record_aten(kForward.name(), {x}, kUnsupported);
    return formula(x, scale, shift);
  }
  RowsProblem p = walk->problem();
  p.param[0] = value_of(scale), p.param[1] = value_of(shift);
  walk->set(p, 0, x);
  p.operand[1].stride = p.n;
  const RowsChoice choice = choose_rows(kForward, x, p);
  if (!choice) return formula(x, scale, shift);
  Tensor y = walk->new_result(x);
  p.operand[1].data = y.mutable_data_ptr();
  drivers::rows(*choice.kernel, p, kAtenParallel);
  return y;
}

// On a GPU: the kernels read the factors themselves.
namespace {

void* data_of(const Tensor& t) { return const_cast<void*>(t.const_data_ptr()); }

Tensor star_relu_gpu(const Tensor& x, const Tensor& scale, const Tensor& shift) {
  const auto walk = walk_of({x}, scale, shift);
  if (!walk) {
    record_aten(kForward.name(), {x}, kUnsupported);
    return formula(x, scale, shift);
  }
  RowsProblem p = walk->problem();
  walk->set(p, 0, x);
  p.operand[1].data = data_of(scale), p.operand[2].data = data_of(shift);
  p.operand[3].stride = p.n;
  const RowsChoice choice = choose_rows(kForward, x, p);
  if (!choice) return formula(x, scale, shift);
  const Tensor y = walk->new_result(x);
  p.operand[3].data = y.mutable_data_ptr();
  return run_chosen(choice, p) ? y : formula(x, scale, shift);
}

Gradients backward_gpu(const Tensor& grad, const Tensor& x, const Tensor& scale, const Tensor& shift) {
  const Tensor g = as_readable_gradient(grad, x);
  const auto walk = walk_of({x, g}, scale, shift);
  if (!walk) {
    record_aten(kBackward.name(), {grad, x}, kUnsupported);
    return backward_formula(grad, x, scale, shift);
  }
  RowsProblem p = walk->problem();
  walk->set(p, 0, g);
  walk->set(p, 1, x);
  p.operand[2].data = data_of(scale);
  p.operand[3].stride = p.n;
  const int64_t rest = cut(p, {0, 1, 3});
  const RowsChoice choice = choose_rows(kBackward, x, p);
  if (!choice) return backward_formula(grad, x, scale, shift);
  const Tensor dx = walk->new_result(x);
  const int64_t rows = p.outer + (rest > 0);
  const Tensor sums = new_gpu_tensor({2, rows}, at::kFloat);  // of scale, of shift
  auto* const s = sums.mutable_data_ptr<float>();
  p.operand[3].data = dx.mutable_data_ptr();
  p.operand[4].data = s, p.operand[5].data = s + rows;
  bool ran = run_chosen(choice, p);
  if (ran && rest > 0) {
    p.operand[4].data = s + p.outer, p.operand[5].data = s + rows + p.outer;
    go_on(p, {0, 1, 3}, rest, x.element_size());
    ran = run_chosen(choice, p);
  }
  if (!ran) return backward_formula(grad, x, scale, shift);
  // Each a tensor of its own: results of an operator share no memory.
  const auto total = [&](int64_t i, const Tensor& like) {
    return sums[i].sum().to(like.scalar_type()).view(like.sizes());
  };
  return {dx, total(0, scale), total(1, shift)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  m.def("star_relu(Tensor input, Tensor scale, Tensor shift) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("star_relu_backward(Tensor grad_output, Tensor input, Tensor scale, Tensor shift) -> (Tensor, Tensor, Tensor)",
        {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  m.impl("star_relu", &star_relu_cpu);
  m.impl("star_relu_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  m.impl("star_relu", on_gpu<&star_relu_gpu>);
  m.impl("star_relu_backward", on_gpu<&backward_gpu>);
}
TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  m.impl("star_relu", &formula);
  m.impl("star_relu_backward", &backward_formula);
}
TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  m.impl("star_relu", &autograd);
  m.impl("star_relu_backward", &autograd_backward);
}

}  // namespace tvmops::ops
