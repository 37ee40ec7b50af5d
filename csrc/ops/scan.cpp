#include "ops/scan.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/native/Resize.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>

#include "ops/common.h"
#include "ops/gpu.h"
#include "ops/gpu_scan.h"
#include "ops/rows_choice.h"
#include "ops/scan_choice.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::ScanProblem;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

const OpKey kCumsum("cumsum"), kCumprod("cumprod"), kCumprodBackward("cumprod_backward");

// What is scanned: along which dimension, and how.
struct Along {
  int64_t dim;
  bool exclusive, reverse;
};

// --- By ATen, differentiable. ---

Tensor shifted(const Tensor& inclusive, int64_t dim, double identity) {
  const Tensor first = at::full_like(inclusive.narrow_symint(dim, 0, 1), identity);
  return at::cat({first, inclusive.narrow_symint(dim, 0, inclusive.sym_size(dim) - 1)}, dim);
}

template <class Scan>
Tensor scan_aten(const Tensor& self, Along a, double identity, Scan&& scan) {
  const int64_t dim = at::maybe_wrap_dim(a.dim, self.dim());
  if (!a.exclusive && !a.reverse) return scan(self, dim);
  if (self.dim() == 0 || self.sym_size(dim) == 0) {
    const Tensor y = scan(self, dim);
    return a.exclusive ? at::full_like(y, identity) : y;
  }
  const Tensor y = scan(a.reverse ? self.flip({dim}) : self, dim);
  const Tensor z = a.exclusive ? shifted(y, dim, identity) : y;
  return a.reverse ? z.flip({dim}) : z;
}

struct Cumsum {
  static constexpr const char* kName = "cumsum";
  static const OpKey& key() { return kCumsum; }
  static Tensor aten(const Tensor& self, Along a, OptionalDtype dtype) {
    return scan_aten(self, a, 0.0, [&](const Tensor& x, int64_t dim) { return at::cumsum(x, dim, dtype); });
  }
  static Tensor& aten_out(const Tensor& self, int64_t dim, OptionalDtype dtype, Tensor& out) {
    return at::cumsum_out(out, self, dim, dtype);
  }
};

struct Cumprod {
  static constexpr const char* kName = "cumprod";
  static const OpKey& key() { return kCumprod; }
  static Tensor aten(const Tensor& self, Along a, OptionalDtype dtype) {
    return scan_aten(self, a, 1.0, [&](const Tensor& x, int64_t dim) { return at::cumprod(x, dim, dtype); });
  }
  static Tensor& aten_out(const Tensor& self, int64_t dim, OptionalDtype dtype, Tensor& out) {
    return at::cumprod_out(out, self, dim, dtype);
  }
};

Tensor cumprod_backward_aten(const Tensor& grad, const Tensor& self, const Tensor& output, Along a) {
  const int64_t dim = at::maybe_wrap_dim(a.dim, self.dim());
  if (!a.exclusive && !a.reverse) return at::cumprod_backward(grad, self, dim, output);
  if (self.dim() == 0 || self.sym_size(dim) == 0) return a.exclusive ? at::zeros_like(grad) : grad;
  Tensor g = a.reverse ? grad.flip({dim}) : grad, x = a.reverse ? self.flip({dim}) : self;
  Tensor y = a.reverse ? output.flip({dim}) : output;
  if (a.exclusive) {  // result i + 1 is the inclusive product i, of which the last is not asked for
    g = at::cat({g.narrow_symint(dim, 1, g.sym_size(dim) - 1), at::zeros_like(g.narrow_symint(dim, 0, 1))}, dim);
    y = at::cumprod(x, dim);
  }
  const Tensor result = at::cumprod_backward(g, x, dim, y);
  return a.reverse ? result.flip({dim}) : result;
}

// --- By a kernel. ---

bool is_scannable(const Tensor& x, OptionalDtype dtype) {
  return is_readable(x) && x.dim() > 0 && x.numel() > 0 && dtype.value_or(x.scalar_type()) == x.scalar_type();
}

// Of a contiguous tensor.
ScanProblem problem_of(const Tensor& x, Along a) {
  const int64_t dim = at::maybe_wrap_dim(a.dim, x.dim());
  ScanProblem p = {1, x.size(dim), 1, nullptr, nullptr, a.exclusive, a.reverse};
  for (int64_t d = 0; d < dim; d++) p.outer *= x.size(d);
  for (int64_t d = dim + 1; d < x.dim(); d++) p.inner *= x.size(d);
  return p;
}

// The kernel for a scan of x, recorded.
ScanChoice chosen(const OpKey& op, const Tensor& x, const ScanProblem& p) {
  const ScanChoice choice = choose_scan(op, storage_of(x.scalar_type()), p);
  record(op, x, choice);
  return choice;
}

template <class Op>
Tensor scan_cpu(const Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse) {
  const Along a = {dim, exclusive, reverse};
  if (!is_scannable(self, dtype)) {
    record_aten(Op::kName, {self}, kUnsupported);
    return Op::aten(self, a, dtype);
  }
  ScanProblem p = problem_of(self, a);
  if (gpu()) {
    Tensor out;
    return scan_on_gpu(Op::key(), {self}, p, out) ? out : Op::aten(self, a, dtype);
  }
  const ScanChoice choice = chosen(Op::key(), self, p);
  if (!choice) return Op::aten(self, a, dtype);
  const Tensor x = self.contiguous();  // even with this copy, strided columns of ATen are slower
  Tensor out = new_result(x.sizes(), x.scalar_type());
  p.source = x.const_data_ptr();
  p.target = out.mutable_data_ptr();
  drivers::scan(*choice.kernel, p, kAtenParallel);
  return out;
}

template <class Op>
Tensor& scan_aten_out(const Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse, Tensor& out) {
  if (!exclusive && !reverse) return Op::aten_out(self, dim, dtype, out);
  const auto wanted = dtype.value_or(out.scalar_type());
  TORCH_CHECK(wanted == out.scalar_type(), "Expected out tensor to have dtype ", wanted, ", but got ",
              out.scalar_type(), " instead");
  const Tensor y = Op::aten(self, {dim, exclusive, reverse}, wanted);
  at::native::resize_output(out, y.sizes());
  return out.copy_(y);
}

template <class Op>
Tensor& scan_out_cpu(const Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse, Tensor& out) {
  const auto wanted = dtype.value_or(out.scalar_type());
  if (is_scannable(self, wanted) && out.scalar_type() == wanted && is_readable(out) && out.is_contiguous() &&
      out.sizes() == self.sizes() && at::get_overlap_status(self, out) == at::MemOverlapStatus::No) {
    ScanProblem p = problem_of(self, {dim, exclusive, reverse});
    if (gpu()) {
      if (scan_on_gpu(Op::key(), {self}, p, out)) return out;
    } else if (const ScanChoice choice = chosen(Op::key(), self, p)) {
      const Tensor x = self.contiguous();
      p.source = x.const_data_ptr();
      p.target = out.mutable_data_ptr();
      drivers::scan(*choice.kernel, p, kAtenParallel);
      return out;
    }
  } else {
    record_aten(Op::kName, {self}, kUnsupported);
  }
  return scan_aten_out<Op>(self, dim, dtype, exclusive, reverse, out);
}

Tensor cumprod_backward_cpu(const Tensor& grad, const Tensor& self, const Tensor& output, int64_t dim, bool exclusive,
                            bool reverse) {
  const Along a = {dim, exclusive, reverse};
  const auto dtype = self.scalar_type();
  if (is_scannable(self, {}) && is_scannable(grad, dtype) && is_scannable(output, dtype) &&
      grad.sizes() == self.sizes() && output.sizes() == self.sizes()) {
    // dL/dx_k = the sum of g_i y_i over all products y_i with the factor x_k, divided by x_k.
    ScanProblem p = problem_of(self, {dim, exclusive, !reverse});
    if (gpu()) {
      Tensor out;
      if (scan_on_gpu(kCumprodBackward, {grad, self, output}, p, out)) return out;
    } else if (const ScanChoice choice = chosen(kCumprodBackward, self, p)) {
      const Tensor g = grad.contiguous(), x = self.contiguous(), y = output.contiguous();
      Tensor out = new_result(x.sizes(), dtype);
      p.source = g.const_data_ptr(), p.factor = y.const_data_ptr(), p.divisor = x.const_data_ptr();
      p.target = out.mutable_data_ptr();
      if (drivers::scan(*choice.kernel, p, kAtenParallel)) return out;
      record_aten(kCumprodBackward.name(), {self}, "a factor is zero");
    }
  } else {
    record_aten(kCumprodBackward.name(), {grad, self}, kUnsupported);
  }
  return cumprod_backward_aten(grad, self, output, a);
}

// --- For autograd, Meta and other devices. ---

template <class Op>
Tensor scan_composite(const Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse) {
  return Op::aten(self, {dim, exclusive, reverse}, dtype);
}

template <class Op>
Tensor scan_meta(const Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse) {
  if (!all_meta({self})) return scan_composite<Op>(self, dim, dtype, exclusive, reverse);
  (void)at::maybe_wrap_dim(dim, self.dim());
  const auto own = at::isIntegralType(self.scalar_type(), /*includeBool=*/true) ? at::kLong : self.scalar_type();
  return self.new_empty_symint(self.sym_sizes(), self.options().dtype(dtype.value_or(own)));
}

Tensor cumprod_backward_meta(const Tensor& grad, const Tensor& self, const Tensor& output, int64_t dim, bool exclusive,
                             bool reverse) {
  if (!all_meta({grad, self, output})) return cumprod_backward_aten(grad, self, output, {dim, exclusive, reverse});
  return self.new_empty_symint(self.sym_sizes());
}

using ScanSignature = Tensor(const Tensor&, int64_t, OptionalDtype, bool, bool);

template <class Op>
Tensor call_scan(const Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow((std::string("tvmops::") + Op::kName).c_str(), "")
                             .template typed<ScanSignature>();
  return op.call(self, dim, dtype, exclusive, reverse);
}

Tensor call_cumprod_backward(const Tensor& grad, const Tensor& self, const Tensor& output, Along a) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::cumprod_backward", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, int64_t, bool, bool)>();
  return op.call(grad, self, output, a.dim, a.exclusive, a.reverse);
}

template <class Op>
struct Gradient : torch::autograd::Function<Gradient<Op>> {
  static Tensor forward(AutogradContext* context, const Tensor& self, int64_t dim, bool exclusive, bool reverse) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = call_scan<Op>(self, dim, std::nullopt, exclusive, reverse);
    if constexpr (std::is_same_v<Op, Cumprod>) context->save_for_backward({self, y});
    context->saved_data["dim"] = dim;
    context->saved_data["exclusive"] = exclusive;
    context->saved_data["reverse"] = reverse;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Along a = {context->saved_data["dim"].toInt(), context->saved_data["exclusive"].toBool(),
                     context->saved_data["reverse"].toBool()};
    const Tensor& g = gradients[0];
    Tensor result;
    if constexpr (std::is_same_v<Op, Cumprod>) {
      const auto saved = context->get_saved_variables();
      // To be differentiated again: by ATen's own formulas.
      result = c10::GradMode::is_enabled() ? cumprod_backward_aten(g, saved[0], saved[1], a)
                                           : call_cumprod_backward(g, saved[0], saved[1], a);
    } else {
      result = call_scan<Op>(g, a.dim, std::nullopt, a.exclusive, !a.reverse);
    }
    return {result, Tensor(), Tensor(), Tensor()};
  }
};

template <class Op>
Tensor scan_autograd(const Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse) {
  if (needs_aten_autograd(Op::kName, {self})) return scan_composite<Op>(self, dim, dtype, exclusive, reverse);
  if (wants_gradient({self})) {
    if (dtype.value_or(self.scalar_type()) == self.scalar_type() && self.dim() > 0)
      return Gradient<Op>::apply(self, dim, exclusive, reverse);
    record_aten(Op::kName, {self}, kUnsupported);
    return scan_composite<Op>(self, dim, dtype, exclusive, reverse);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_scan<Op>(self, dim, dtype, exclusive, reverse);
}

// A kernel does not tell autograd that it wrote; the version does.
template <class Op>
Tensor& scan_autograd_out(const Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse,
                          Tensor& out) {
  TORCH_CHECK(!wants_gradient({self, out}), Op::kName,
              "(): functions with out=... arguments don't support automatic differentiation, but one of the "
              "arguments requires grad.");
  const bool frozen = out.is_inference() && !c10::InferenceMode::is_enabled();
  if (frozen || needs_aten_autograd(Op::kName, {self, out}))
    return scan_aten_out<Op>(self, dim, dtype, exclusive, reverse, out);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow((std::string("tvmops::") + Op::kName).c_str(), "out")
                             .template typed<Tensor&(const Tensor&, int64_t, OptionalDtype, bool, bool, Tensor&)>();
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    op.call(self, dim, dtype, exclusive, reverse, out);
  }
  if (!out.is_inference()) out.unsafeGetTensorImpl()->bump_version();
  return out;
}

Tensor cumprod_backward_autograd(const Tensor& grad, const Tensor& self, const Tensor& output, int64_t dim,
                                 bool exclusive, bool reverse) {
  const Along a = {dim, exclusive, reverse};
  if (needs_aten_autograd(kCumprodBackward.name(), {grad, self, output}) || wants_gradient({grad, self, output}))
    return cumprod_backward_aten(grad, self, output, a);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_cumprod_backward(grad, self, output, a);
}

// On CUDA autocast computes scans in float32, on CPU as they are.
template <class Op>
Tensor scan_autocast_cuda(const Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::AutocastCUDA);
  const bool widens = !dtype && self.is_cuda() && self.is_floating_point() && self.scalar_type() != at::kDouble;
  return call_scan<Op>(self, dim, widens ? OptionalDtype(at::kFloat) : dtype, exclusive, reverse);
}

template <class Op>
void define(torch::Library& m) {
  const std::string arguments =
      "(Tensor self, int dim, ScalarType? dtype=None, bool exclusive=False, bool reverse=False";
  const std::string name = Op::kName;
  m.def((name + arguments + ") -> Tensor").c_str(), {at::Tag::pt2_compliant_tag});
  m.def((name + ".out" + arguments + ", *, Tensor(a!) out) -> Tensor(a!)").c_str());
}

}  // namespace

Tensor cumsum_cpu(const Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse) {
  return scan_cpu<Cumsum>(self, dim, dtype, exclusive, reverse);
}

Tensor cumprod_cpu(const Tensor& self, int64_t dim, OptionalDtype dtype, bool exclusive, bool reverse) {
  return scan_cpu<Cumprod>(self, dim, dtype, exclusive, reverse);
}

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  define<Cumsum>(m);
  define<Cumprod>(m);
  m.def(
      "cumprod_backward(Tensor grad_output, Tensor self, Tensor output, int dim, bool exclusive=False, "
      "bool reverse=False) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  m.impl("cumsum", &cumsum_cpu);
  m.impl("cumprod", &cumprod_cpu);
  m.impl("cumsum.out", &scan_out_cpu<Cumsum>);
  m.impl("cumprod.out", &scan_out_cpu<Cumprod>);
  m.impl("cumprod_backward", &cumprod_backward_cpu);
}

TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  m.impl("cumsum", on_gpu<&cumsum_cpu>);
  m.impl("cumprod", on_gpu<&cumprod_cpu>);
  m.impl("cumsum.out", on_gpu<&scan_out_cpu<Cumsum>>);
  m.impl("cumprod.out", on_gpu<&scan_out_cpu<Cumprod>>);
  m.impl("cumprod_backward", on_gpu<&cumprod_backward_cpu>);
}

TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  m.impl("cumsum", &scan_composite<Cumsum>);
  m.impl("cumprod", &scan_composite<Cumprod>);
  m.impl("cumsum.out", &scan_aten_out<Cumsum>);
  m.impl("cumprod.out", &scan_aten_out<Cumprod>);
  m.impl("cumprod_backward",
         [](const Tensor& grad, const Tensor& self, const Tensor& output, int64_t dim, bool exclusive, bool reverse) {
           return cumprod_backward_aten(grad, self, output, {dim, exclusive, reverse});
         });
}

TORCH_LIBRARY_IMPL(tvmops, Meta, m) {
  m.impl("cumsum", &scan_meta<Cumsum>);
  m.impl("cumprod", &scan_meta<Cumprod>);
  m.impl("cumprod_backward", &cumprod_backward_meta);
}

TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  m.impl("cumsum", &scan_autograd<Cumsum>);
  m.impl("cumprod", &scan_autograd<Cumprod>);
  m.impl("cumsum.out", &scan_autograd_out<Cumsum>);
  m.impl("cumprod.out", &scan_autograd_out<Cumprod>);
  m.impl("cumprod_backward", &cumprod_backward_autograd);
}

TORCH_LIBRARY_IMPL(tvmops, AutocastCUDA, m) {
  m.impl("cumsum", &scan_autocast_cuda<Cumsum>);
  m.impl("cumprod", &scan_autocast_cuda<Cumprod>);
}

}  // namespace tvmops::ops
