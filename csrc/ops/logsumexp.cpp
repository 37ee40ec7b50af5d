#include "ops/logsumexp.h"

#include <ATen/WrapDimUtils.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "ops/common.h"
#include "ops/rows_choice.h"
#include "ops/rows_view.h"

namespace tvmops::ops {

using at::IntArrayRef;
using at::Tensor;
using drivers::RowsProblem;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

const OpKey kForward("logsumexp"), kBackward("logsumexp_backward");

using Dims = c10::SmallVector<int64_t, 4>;

// The dimensions in order, at least 0. Nothing where one is named twice, which is ATen's to refuse.
std::optional<Dims> sorted(IntArrayRef dims, int64_t rank) {
  Dims all;
  for (const int64_t d : dims) all.push_back(at::maybe_wrap_dim(d, rank));
  std::sort(all.begin(), all.end());
  if (std::adjacent_find(all.begin(), all.end()) != all.end()) return std::nullopt;
  return all;
}

// The tensor with the reduced dimensions made one, `at`: for neighbours, a view or a contiguous copy.
struct Merged {
  Tensor x;
  int64_t at;
  Dims dims;
};

std::optional<Merged> merged(const Tensor& x, IntArrayRef dims) {
  if (!is_readable(x) || x.dim() == 0 || x.numel() == 0 || dims.empty()) return std::nullopt;
  const auto order = sorted(dims, x.dim());
  if (!order) return std::nullopt;
  const int64_t first = order->front(), last = order->back();
  if (last - first + 1 != static_cast<int64_t>(order->size())) return std::nullopt;
  return Merged{first == last ? x : x.flatten(first, last), first, *order};
}

Dims reduced_sizes(IntArrayRef sizes, const Dims& dims, bool keepdim) {
  Dims out;
  for (int64_t d = 0; d < static_cast<int64_t>(sizes.size()); d++) {
    if (std::find(dims.begin(), dims.end(), d) == dims.end())
      out.push_back(sizes[d]);
    else if (keepdim)
      out.push_back(1);
  }
  return out;
}

Tensor aten(const Tensor& x, IntArrayRef dims, bool keepdim) { return at::logsumexp(x, dims, keepdim); }

// `t`, a result, so that it broadcasts against the input.
Tensor spread(Tensor t, int64_t rank, IntArrayRef dims, bool keepdim) {
  if (keepdim || rank == 0) return t;
  Dims order;
  for (const int64_t d : dims) order.push_back(at::maybe_wrap_dim(d, rank));
  std::sort(order.begin(), order.end());
  for (const int64_t d : order) t = t.unsqueeze(d);
  return t;
}

Tensor aten_backward(const Tensor& g, const Tensor& x, const Tensor& y, IntArrayRef dims, bool keepdim) {
  return spread(g, x.dim(), dims, keepdim) * (x - spread(y, x.dim(), dims, keepdim)).exp();
}

Tensor backward_cpu(const Tensor& g, const Tensor& x, const Tensor& y, IntArrayRef dims, bool keepdim) {
  const auto m = g.sizes() == y.sizes() && g.scalar_type() == x.scalar_type() && is_readable(g) && is_readable(y) &&
                         y.scalar_type() == x.scalar_type()
                     ? merged(x, dims)
                     : std::nullopt;
  if (!m) {
    record_aten(kBackward.name(), {g, x, y}, kUnsupported);
    return aten_backward(g, x, y, dims, keepdim);
  }
  RowsProblem problem = rows_problem(m->x.sizes(), m->at);
  RowsChoice choice = choose_rows(kBackward, storage_of(x.scalar_type()), problem.outer, problem.n, problem.inner);
  Tensor out;
  if (choice) {
    const Tensor each = g.contiguous(), results = y.contiguous(), rows = row_operand(m->x, problem, problem.operand[1]);
    problem.operand[0].data = const_cast<void*>(each.const_data_ptr());
    problem.operand[2].data = const_cast<void*>(results.const_data_ptr());
    out = new_result(x.sizes(), x.scalar_type());
    problem.operand[3] = {out.mutable_data_ptr(), problem.n};
    check_fits(choice, problem);
    record(kBackward, x, choice);
    if (choice && run_chosen(choice, problem)) return out;
  } else {
    record(kBackward, x, choice);
  }
  return aten_backward(g, x, y, dims, keepdim);
}

Tensor meta(const Tensor& x, IntArrayRef dims, bool keepdim) {
  const auto order = sorted(dims, x.dim());
  if (!all_meta({x}) || !at::isFloatingType(x.scalar_type()) || !order || order->empty() || x.dim() == 0)
    return aten(x, dims, keepdim);
  c10::SymDimVector sizes;
  for (int64_t d = 0; d < x.dim(); d++) {
    if (std::find(order->begin(), order->end(), d) == order->end())
      sizes.push_back(x.sym_size(d));
    else if (keepdim)
      sizes.push_back(1);
  }
  return at::empty_symint(sizes, x.options());
}

Tensor meta_backward(const Tensor& g, const Tensor& x, const Tensor& y, IntArrayRef dims, bool keepdim) {
  if (!all_meta({g, x, y})) return aten_backward(g, x, y, dims, keepdim);
  return at::empty_symint(x.sym_sizes(), x.options());
}

Tensor call(const Tensor& x, IntArrayRef dims, bool keepdim) {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("tvmops::logsumexp", "")
                                 .typed<Tensor(const Tensor&, IntArrayRef, bool)>();
  return handle.call(x, dims, keepdim);
}

Tensor call_backward(const Tensor& g, const Tensor& x, const Tensor& y, IntArrayRef dims, bool keepdim) {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("tvmops::logsumexp_backward", "")
                                 .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, IntArrayRef, bool)>();
  return handle.call(g, x, y, dims, keepdim);
}

struct Gradient : torch::autograd::Function<Gradient> {
  static Tensor forward(AutogradContext* context, const Tensor& x, IntArrayRef dims, bool keepdim) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = call(x, dims, keepdim);
    context->save_for_backward({x, y});
    context->saved_data["dims"] = dims.vec();
    context->saved_data["keepdim"] = keepdim;
    return y;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const std::vector<int64_t> dims = context->saved_data["dims"].toIntVector();
    const bool keepdim = context->saved_data["keepdim"].toBool();
    // To be differentiated again: by ATen's own formulas.
    const auto f = c10::GradMode::is_enabled() ? &aten_backward : &call_backward;
    return {f(gradients[0], saved[0], saved[1], dims, keepdim), Tensor(), Tensor()};
  }
};

Tensor autograd(const Tensor& x, IntArrayRef dims, bool keepdim) {
  if (needs_aten_autograd(kForward.name(), {x})) return aten(x, dims, keepdim);
  if (wants_gradient({x})) return Gradient::apply(x, dims, keepdim);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call(x, dims, keepdim);
}

Tensor autograd_backward(const Tensor& g, const Tensor& x, const Tensor& y, IntArrayRef dims, bool keepdim) {
  if (needs_aten_autograd(kBackward.name(), {g, x, y}) || wants_gradient({g, x, y}))
    return aten_backward(g, x, y, dims, keepdim);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(g, x, y, dims, keepdim);
}

}  // namespace

Tensor logsumexp_cpu(const Tensor& x, IntArrayRef dims, bool keepdim) {
  const auto m = merged(x, dims);
  if (!m) {
    record_aten(kForward.name(), {x}, kUnsupported);
    return aten(x, dims, keepdim);
  }
  RowsProblem problem = rows_problem(m->x.sizes(), m->at);
  RowsChoice choice = choose_rows(kForward, storage_of(x.scalar_type()), problem.outer, problem.n, problem.inner);
  Tensor out;
  if (choice) {
    const Tensor rows = row_operand(m->x, problem, problem.operand[0]);
    out = new_result(reduced_sizes(x.sizes(), m->dims, keepdim), x.scalar_type());
    problem.operand[1].data = out.mutable_data_ptr();
    check_fits(choice, problem);
    record(kForward, x, choice);
    if (choice && run_chosen(choice, problem)) return out;
  } else {
    record(kForward, x, choice);
  }
  return aten(x, dims, keepdim);
}

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  m.def("logsumexp(Tensor self, int[1] dim, bool keepdim=False) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("logsumexp_backward(Tensor grad_output, Tensor self, Tensor result, int[1] dim, bool keepdim=False) -> Tensor",
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  m.impl("logsumexp", &logsumexp_cpu);
  m.impl("logsumexp_backward", &backward_cpu);
}

TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  m.impl("logsumexp", on_gpu<&logsumexp_cpu>);
  m.impl("logsumexp_backward", on_gpu<&backward_cpu>);
}

TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  m.impl("logsumexp", &aten);
  m.impl("logsumexp_backward", &aten_backward);
}

TORCH_LIBRARY_IMPL(tvmops, Meta, m) {
  m.impl("logsumexp", &meta);
  m.impl("logsumexp_backward", &meta_backward);
}

TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  m.impl("logsumexp", &autograd);
  m.impl("logsumexp_backward", &autograd_backward);
}

}  // namespace tvmops::ops
