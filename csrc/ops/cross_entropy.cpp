#include "ops/cross_entropy.h"

#include <torch/csrc/autograd/custom_function.h>

#include <string>
#include <tuple>

#include "ops/common.h"
#include "ops/cross_entropy_rows.h"
#include "ops/rows_choice.h"
#include "ops/rows_view.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::RowsProblem;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

const OpKey kCrossEntropy("cross_entropy"), kCrossEntropyBackward("cross_entropy_backward");

namespace {

using Parts = std::tuple<Tensor, Tensor, Tensor>;

// The dimension of the classes.
int64_t class_dim(const Tensor& x) { return x.dim() > 1; }

const OpKey &kForward = kCrossEntropy, &kBackward = kCrossEntropyBackward;

Tensor aten(const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
            int64_t ignore_index, double smoothing) {
  return at::cross_entropy_loss_symint(x, target, weight, reduction, ignore_index, smoothing);
}

// A call whose operands a kernel can read.
struct Call {
  Call(const Tensor& logits, const Tensor& target, const ClassOptions& o)
      : problem(rows_problem(logits.sizes(), class_dim(logits))),
        x(row_operand(logits, problem, problem.operand[0])),
        classes(target.contiguous()),
        weight(o.weighted() ? o.weight->contiguous() : Tensor()),
        rows{classes.const_data_ptr<int64_t>(),
             weight.defined() ? weight.const_data_ptr() : nullptr,
             o.ignore_index,
             problem.outer,
             problem.n,
             problem.inner,
             problem.operand[0].stride,
             o.smoothing} {}

  RowsProblem problem;  // with the logits as first operand
  Tensor x, classes, weight;
  ClassRows rows;
};

RowsChoice choose(const OpKey& op, const Tensor& x) {
  const RowsProblem p = rows_problem(x.sizes(), class_dim(x));
  return choose_rows(op, storage_of(x.scalar_type()), p.outer, p.n, p.inner);
}

bool readable(const Tensor& x, const Tensor& target, const ClassOptions& o) {
  return covers_classes(x, target, o) && is_readable(x) && x.numel() > 0;
}

struct Loss {
  Tensor loss, stats, total;  // total: what a mean was divided by
};

std::optional<Loss> by_kernel(const Tensor& logits, const Tensor& target, const ClassOptions& o) {
  if (!readable(logits, target, o)) {
    record_aten(kForward.name(), {logits, target}, kUnsupported);
    return std::nullopt;
  }
  RowsChoice choice = choose(kForward, logits);
  std::optional<Loss> result;
  if (choice) {
    Call call(logits, target, o);
    const int64_t rows = call.rows.rows();
    const Tensor stats = new_result({3, rows}, at::kFloat);
    for (int i = 0; i < 3; i++) call.problem.operand[1 + i].data = stats.mutable_data_ptr<float>() + i * rows;
    // Of a class out of range, ATen says what is wrong.
    if (!drivers::fits(*choice.kernel, call.problem) || !in_range(call.rows)) {
      choice = {nullptr, reason::kNotThese};
    } else {
      drivers::rows(*choice.kernel, call.problem, kAtenParallel);
      const auto dtype = logits.scalar_type();
      const bool each = o.reduction == at::Reduction::None;
      Tensor loss = each ? new_result(target.sizes(), dtype) : at::empty({}, logits.options());
      const LossSum sum = losses(call.rows, dtype, call.x.const_data_ptr(), stats.const_data_ptr<float>(),
                                 each ? loss.mutable_data_ptr() : nullptr);
      const double total = o.reduction == at::Reduction::Mean ? sum.weight : 1;
      if (!each) loss.fill_(sum.loss / total);
      result = Loss{loss, stats, at::scalar_tensor(total, at::kDouble)};
    }
  }
  record(kForward, logits, choice);
  return result;
}

Parts forward_cpu(const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
                  int64_t ignore_index, double smoothing) {
  if (auto result = by_kernel(x, target, {weight, reduction, ignore_index, smoothing}))
    return {result->loss, result->stats, result->total};
  return cross_entropy_forward_aten(x, target, weight, reduction, ignore_index, smoothing);
}

Tensor backward_cpu(const Tensor& g, const Tensor& logits, const Tensor& target, const OptionalTensor& weight,
                    const Tensor& stats, const Tensor& total, int64_t reduction, int64_t ignore_index,
                    double smoothing) {
  const ClassOptions o{weight, reduction, ignore_index, smoothing};
  const auto dtype = logits.scalar_type();
  const bool each = reduction == at::Reduction::None;
  if (!readable(logits, target, o) || !is_readable(g) || g.scalar_type() != dtype ||
      (each ? g.sizes() != target.sizes() : g.numel() != 1) || stats.scalar_type() != at::kFloat ||
      stats.numel() != 3 * target.numel() || total.scalar_type() != at::kDouble || total.numel() != 1) {
    record_aten(kBackward.name(), {g, logits, target}, kUnsupported);
    return cross_entropy_backward_aten(g, logits, target, weight, stats, total, reduction, ignore_index, smoothing);
  }
  RowsChoice choice = choose(kBackward, logits);
  Tensor dx;
  if (choice) {
    Call call(logits, target, o);
    const Tensor kept = stats.contiguous(), gradients = g.contiguous();
    const int64_t rows = call.rows.rows();
    const Tensor factors = new_result({rows}, at::kFloat);
    auto* f = factors.mutable_data_ptr<float>();
    auto* s = const_cast<float*>(kept.const_data_ptr<float>());
    dx = new_result(logits.sizes(), dtype);
    call.problem.operand[1].data = s;
    call.problem.operand[2].data = s + rows;
    call.problem.operand[3].data = f;
    call.problem.operand[4] = {dx.mutable_data_ptr(), call.problem.n};
    call.problem.param[0] = static_cast<float>(smoothing / static_cast<double>(call.problem.n));
    if (!drivers::fits(*choice.kernel, call.problem) || !in_range(call.rows)) {
      choice = {nullptr, reason::kNotThese};
    } else {
      row_factors(call.rows, dtype, gradients.const_data_ptr(), each, 1 / total.item<double>(), f);
      drivers::rows(*choice.kernel, call.problem, kAtenParallel);
      gradients_at_classes(call.rows, dtype, call.x.const_data_ptr(), s, f, dx.mutable_data_ptr(), call.problem.n);
    }
  }
  record(kBackward, logits, choice);
  return choice
             ? dx
             : cross_entropy_backward_aten(g, logits, target, weight, stats, total, reduction, ignore_index, smoothing);
}

Tensor meta_loss(const Tensor& x, const Tensor& target, int64_t reduction) {
  return reduction == at::Reduction::None ? at::empty_symint(target.sym_sizes(), x.options())
                                          : at::empty({}, x.options());
}

Tensor meta(const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
            int64_t ignore_index, double smoothing) {
  if (!all_meta({x, target}) || target.dim() != x.dim() - 1 || target.scalar_type() != at::kLong)
    return aten(x, target, weight, reduction, ignore_index, smoothing);
  return meta_loss(x, target, reduction);
}

Parts meta_forward(const Tensor& x, const Tensor& target, const OptionalTensor&, int64_t reduction, int64_t, double) {
  return {meta_loss(x, target, reduction), at::empty_symint({3, target.sym_numel()}, x.options().dtype(at::kFloat)),
          at::empty({}, x.options().dtype(at::kDouble))};
}

Tensor meta_backward(const Tensor&, const Tensor& x, const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&,
                     int64_t, int64_t, double) {
  return at::empty_symint(x.sym_sizes(), x.options());
}

template <class Signature>
auto handle(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

struct Gradient : torch::autograd::Function<Gradient> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& target, const OptionalTensor& weight,
                        int64_t reduction, int64_t ignore_index, double smoothing) {
    static const auto op = handle<decltype(forward_cpu)>("tvmops::cross_entropy_forward");
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto [loss, stats, total] = op.call(x, target, weight, reduction, ignore_index, smoothing);
    context->save_for_backward({x, target, weight.value_or(Tensor()), stats, total});
    context->saved_data["reduction"] = reduction;
    context->saved_data["ignore_index"] = ignore_index;
    context->saved_data["smoothing"] = smoothing;
    return loss;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    static const auto op = handle<decltype(backward_cpu)>("tvmops::cross_entropy_backward");
    const variable_list saved = context->get_saved_variables();
    const auto compute = [&](auto f) {
      return f(gradients[0], saved[0], saved[1], saved[2].defined() ? OptionalTensor(saved[2]) : std::nullopt, saved[3],
               saved[4], context->saved_data["reduction"].toInt(), context->saved_data["ignore_index"].toInt(),
               context->saved_data["smoothing"].toDouble());
    };
    // To be differentiated again: by ATen's own formulas.
    const Tensor dx = c10::GradMode::is_enabled() ? compute(&cross_entropy_backward_aten)
                                                  : compute([](const auto&... args) { return op.call(args...); });
    return {dx, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor autograd(const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
                int64_t ignore_index, double smoothing) {
  static const auto op = handle<decltype(cross_entropy_cpu)>("tvmops::cross_entropy");
  const bool weighted = weight && weight->defined();
  if (needs_aten_autograd(kForward.name(), {x, weighted ? *weight : Tensor()}))
    return aten(x, target, weight, reduction, ignore_index, smoothing);
  if (wants_gradient({x, weighted ? *weight : Tensor()})) {
    if (covers_classes(x, target, {weight, reduction, ignore_index, smoothing}) &&
        !(weighted && weight->requires_grad())) {
      if (x.is_cuda() && !cross_entropy_trains_on_gpu(x))
        return aten(x, target, weight, reduction, ignore_index, smoothing);
      return Gradient::apply(x, target, weight, reduction, ignore_index, smoothing);
    }
    record_aten(kForward.name(), {x, target}, kUnsupported);
    return aten(x, target, weight, reduction, ignore_index, smoothing);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(x, target, weight, reduction, ignore_index, smoothing);
}

Tensor autograd_backward(const Tensor& g, const Tensor& x, const Tensor& target, const OptionalTensor& weight,
                         const Tensor& stats, const Tensor& total, int64_t reduction, int64_t ignore_index,
                         double smoothing) {
  static const auto op = handle<decltype(backward_cpu)>("tvmops::cross_entropy_backward");
  if (needs_aten_autograd(kBackward.name(), {g, x}) || wants_gradient({g, x}))
    return cross_entropy_backward_aten(g, x, target, weight, stats, total, reduction, ignore_index, smoothing);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(g, x, target, weight, stats, total, reduction, ignore_index, smoothing);
}

// Autocast computes losses in float32.
template <c10::DispatchKey key>
Tensor autocast_loss(const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
                     int64_t ignore_index, double smoothing) {
  static const auto op = handle<decltype(cross_entropy_cpu)>("tvmops::cross_entropy");
  constexpr auto device = key == c10::DispatchKey::AutocastCPU ? c10::DeviceType::CPU : c10::DeviceType::CUDA;
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  const auto wide = [](const Tensor& t) { return at::autocast::cached_cast(at::kFloat, t, device); };
  return op.call(wide(x), wide(target), weight ? OptionalTensor(wide(*weight)) : weight, reduction, ignore_index,
                 smoothing);
}

}  // namespace

Tensor cross_entropy_cpu(const Tensor& x, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
                         int64_t ignore_index, double smoothing) {
  if (auto result = by_kernel(x, target, {weight, reduction, ignore_index, smoothing})) return result->loss;
  return aten(x, target, weight, reduction, ignore_index, smoothing);
}

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  const std::string logits = "Tensor self, Tensor target, Tensor? weight", options = "int reduction",
                    more = ", int ignore_index", last = ", float label_smoothing";
  m.def(("cross_entropy(" + logits + "=None, " + options + "=1" + more + "=-100" + last + "=0.0) -> Tensor").c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(("cross_entropy_forward(" + logits + ", " + options + more + last + ") -> (Tensor, Tensor, Tensor)").c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(("cross_entropy_backward(Tensor grad_output, " + logits + ", Tensor stats, Tensor total, " + options + more +
         last + ") -> Tensor")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  m.impl("cross_entropy", &cross_entropy_cpu);
  m.impl("cross_entropy_forward", &forward_cpu);
  m.impl("cross_entropy_backward", &backward_cpu);
}

TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  m.impl("cross_entropy", &aten);
  m.impl("cross_entropy_forward", &cross_entropy_forward_aten);
  m.impl("cross_entropy_backward", &cross_entropy_backward_aten);
}

TORCH_LIBRARY_IMPL(tvmops, Meta, m) {
  m.impl("cross_entropy", &meta);
  m.impl("cross_entropy_forward", &meta_forward);
  m.impl("cross_entropy_backward", &meta_backward);
}

TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  m.impl("cross_entropy", &autograd);
  m.impl("cross_entropy_backward", &autograd_backward);
}

TORCH_LIBRARY_IMPL(tvmops, AutocastCPU, m) { m.impl("cross_entropy", &autocast_loss<c10::DispatchKey::AutocastCPU>); }

TORCH_LIBRARY_IMPL(tvmops, AutocastCUDA, m) { m.impl("cross_entropy", &autocast_loss<c10::DispatchKey::AutocastCUDA>); }

}  // namespace tvmops::ops
