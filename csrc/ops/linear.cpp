#include "ops/linear.h"

#include <ATen/EmptyTensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/activation.h"
#include "ops/common.h"
#include "ops/matmul.h"
#include "ops/packed_weights.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::Epilogue;
using drivers::GemmProblem;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor linear_aten(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, int activation,
                   const OptionalTensor& residual) {
  const Tensor y = activate(at::linear(input, weight, bias), activation);
  return residual ? at::add(y, *residual) : y;
}

namespace {

// The rows of [..., K] as one matrix: a view where memory allows, else a copy.
Tensor as_rows(const Tensor& input) { return input.dim() == 2 ? input : input.reshape({-1, input.size(-1)}); }

bool readable(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& residual) {
  if (!is_float32(input) || !is_float32(weight) || input.dim() < 1 || weight.dim() != 2) return false;
  const int64_t n = weight.size(0);
  if (input.size(-1) != weight.size(1) || input.numel() == 0 || n == 0) return false;
  if (bias && !(is_float32(*bias) && bias->dim() == 1 && bias->size(0) == n && (n == 1 || bias->stride(0) == 1)))
    return false;
  if (!residual) return true;
  if (!is_float32(*residual) || residual->dim() != input.dim() || residual->size(-1) != n) return false;
  for (int64_t d = 0; d + 1 < input.dim(); d++)
    if (residual->size(d) != input.size(d)) return false;
  return residual->is_contiguous();
}

}  // namespace

Tensor linear_cpu(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, OptionalName activation_name,
                  const OptionalTensor& residual, bool prepack) {
  const int activation = activation_index("linear", activation_name);
  if (!readable(input, weight, bias, residual)) {
    record_aten("linear", {input, weight}, kUnsupported);
    return linear_aten(input, weight, bias, activation, residual);
  }
  const Tensor rows = as_rows(input);
  const int64_t m = rows.size(0), n = weight.size(0), k = weight.size(1);
  const bool transposed = weight.stride(0) != 1 || weight.stride(1) == 1;
  std::shared_ptr<const PackedWeight> packed;
  Choice choice;
  if (prepack) {
    choice = choose_linear(m, n, k);
    if (choice) packed = packed_weight(weight, *choice.kernel);
  }
  if (!packed) choice = choose_matmul(m, n, k, transposed);

  c10::SmallVector<int64_t, 5> sizes(input.sizes().begin(), input.sizes().end());
  sizes.back() = n;
  if (choice) {
    GemmProblem p = {
        m,       n, k, matrix(rows), {weight.const_data_ptr<float>(), weight.stride(1), weight.stride(0)}, nullptr,
        nullptr, n, {}};
    p.epilogue.activation = activation;
    if (bias) p.epilogue.bias = bias->const_data_ptr<float>();
    if (residual) p.epilogue.residual = residual->const_data_ptr<float>(), p.epilogue.residual_row = n;
    if (packed) p.packed_b = packed->data.as<float>(), p.b = {nullptr, 1, 1};
    if (!drivers::fits(*choice.kernel, p)) choice = {nullptr, drivers::Route::kAten, "sizes beyond 32 bits"};
    if (choice) {
      if (recording()) record("linear", shape_text({input.sizes(), weight.sizes()}), choice);
      Tensor out(at::detail::empty_cpu(sizes, at::kFloat, std::nullopt, std::nullopt, std::nullopt, std::nullopt));
      p.c = out.mutable_data_ptr<float>();
      drivers::gemm(*choice.kernel, p, choice.route, kAtenParallel);
      return out;
    }
  }
  if (recording()) record("linear", shape_text({input.sizes(), weight.sizes()}), choice);
  return linear_aten(input, weight, bias, activation, residual);
}

namespace {

Tensor call_linear(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, OptionalName activation,
                   const OptionalTensor& residual, bool prepack) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::linear", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, OptionalName,
                                           const OptionalTensor&, bool)>();
  return op.call(input, weight, bias, activation, residual, prepack);
}

// Without activation and residual: with a gradient those are ATen's own operators on what this returns.
struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        bool prepack) {
    context->save_for_backward({input, weight});
    if (bias) context->saved_data["bias_shape"] = bias->sym_sizes().vec();
    const LearningGuard learning(weight.requires_grad());
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_linear(input, weight, bias, std::nullopt, std::nullopt, prepack);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &input = saved[0], &weight = saved[1], &g = gradients[0];
    variable_list out(4);
    const Tensor g_rows = g.reshape_symint({-1, g.sym_size(-1)});
    if (context->needs_input_grad(0)) out[0] = call_mm(g_rows, weight).reshape_symint(input.sym_sizes());
    if (context->needs_input_grad(1)) out[1] = call_mm(g_rows.t(), input.reshape_symint({-1, input.sym_size(-1)}));
    // An absent bias is no input, so that there is nothing to ask about it.
    const bool biased = context->saved_data.count("bias_shape") > 0;
    if (biased && context->needs_input_grad(2))
      out[2] = at::sum_to(g, context->saved_data["bias_shape"].toSymIntVector());
    return out;
  }
};

Tensor linear_autograd(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, OptionalName activation,
                       const OptionalTensor& residual, bool prepack) {
  const int index = activation_index("linear", activation);
  const Tensor b = bias.value_or(Tensor()), r = residual.value_or(Tensor());
  const bool odd = input.dim() < 1 || weight.dim() != 2 || input.sym_numel() == 0 || weight.sym_numel() == 0;
  if (odd) record_aten("linear", {input, weight}, kUnsupported);
  if (odd || needs_aten_autograd("linear", {input, weight, b, r}))
    return linear_aten(input, weight, bias, index, residual);
  if (!wants_gradient({input, weight, b, r})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_linear(input, weight, bias, activation, residual, prepack);
  }
  const Tensor y = activate(Linear::apply(input, weight, bias, prepack), index);
  return residual ? at::add(y, *residual) : y;
}

Tensor linear_meta(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, OptionalName activation,
                   const OptionalTensor& residual, bool) {
  const int index = activation_index("linear", activation);
  if (!all_meta({input, weight})) return linear_aten(input, weight, bias, index, residual);
  TORCH_CHECK(input.dim() >= 1 && weight.dim() == 2, "linear: expected an input of at least one dimension and a 2D ",
              "weight, but they have ", input.dim(), " and ", weight.dim(), " dimensions");
  TORCH_CHECK(input.scalar_type() == weight.scalar_type(),
              "linear: input and weight differ in dtype: ", input.scalar_type(), " and ", weight.scalar_type());
  TORCH_SYM_CHECK(input.sym_size(-1).sym_eq(weight.sym_size(1)),
                  "mat1 and mat2 shapes cannot be multiplied: input ends ", "in ", input.sym_size(-1), ", weight in ",
                  weight.sym_size(1));
  c10::SymDimVector sizes(input.sym_sizes().begin(), input.sym_sizes().end());
  sizes.back() = weight.sym_size(0);
  if (bias) (void)bias->expand_symint(sizes);
  const Tensor y = input.new_empty_symint(sizes);
  return residual ? at::add(y, *residual) : y;
}

template <c10::DispatchKey key>
Tensor linear_autocast(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, OptionalName activation,
                       const OptionalTensor& residual, bool prepack) {
  // The residual stays as it is, as for F.linear(...) + residual, and may promote the sum.
  return autocast<key>([&](const Tensor& x, const Tensor& w,
                           const OptionalTensor& b) { return call_linear(x, w, b, activation, residual, prepack); },
                       input, weight, bias);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  m.def(
      "linear(Tensor input, Tensor weight, Tensor? bias=None, str? activation=None, Tensor? residual=None, "
      "bool prepack=False) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(tvmops, CPU, m) { m.impl("linear", &linear_cpu); }
TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  m.impl("linear", [](const Tensor& input, const Tensor& weight, const OptionalTensor& bias, OptionalName activation,
                      const OptionalTensor& residual, bool) {
    return linear_aten(input, weight, bias, activation_index("linear", activation), residual);
  });
}
TORCH_LIBRARY_IMPL(tvmops, Meta, m) { m.impl("linear", &linear_meta); }
TORCH_LIBRARY_IMPL(tvmops, Autograd, m) { m.impl("linear", &linear_autograd); }
TORCH_LIBRARY_IMPL(tvmops, AutocastCPU, m) { m.impl("linear", &linear_autocast<c10::DispatchKey::AutocastCPU>); }
TORCH_LIBRARY_IMPL(tvmops, AutocastCUDA, m) { m.impl("linear", &linear_autocast<c10::DispatchKey::AutocastCUDA>); }

}  // namespace tvmops::ops
