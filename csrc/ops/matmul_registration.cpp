// The matmul family in the dispatcher: schemas, CPU, Meta, Autograd, Autocast; every other backend goes to ATen.
#include <torch/csrc/autograd/custom_function.h>

#include "ops/common.h"
#include "ops/matmul.h"

namespace tvmops::ops {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

template <class Signature>
auto operator_handle(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace

Tensor call_mm(const Tensor& self, const Tensor& mat2) {
  static const auto op = operator_handle<Tensor(const Tensor&, const Tensor&)>("tvmops::mm");
  return op.call(self, mat2);
}

Tensor call_bmm(const Tensor& self, const Tensor& mat2) {
  static const auto op = operator_handle<Tensor(const Tensor&, const Tensor&)>("tvmops::bmm");
  return op.call(self, mat2);
}

Tensor call_mv(const Tensor& self, const Tensor& vec) {
  static const auto op = operator_handle<Tensor(const Tensor&, const Tensor&)>("tvmops::mv");
  return op.call(self, vec);
}

Tensor call_addmm(const Tensor& self, const Tensor& mat1, const Tensor& mat2, const at::Scalar& beta,
                  const at::Scalar& alpha) {
  static const auto op =
      operator_handle<Tensor(const Tensor&, const Tensor&, const Tensor&, const at::Scalar&, const at::Scalar&)>(
          "tvmops::addmm");
  return op.call(self, mat1, mat2, beta, alpha);
}

namespace {

// --- Autograd. Backward calls the same operators, so that it can be differentiated again. ---

struct Mm : torch::autograd::Function<Mm> {
  static Tensor forward(AutogradContext* context, const Tensor& a, const Tensor& b) {
    context->save_for_backward({a, b});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_mm(a, b);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto& g = gradients[0];
    return {context->needs_input_grad(0) ? call_mm(g, saved[1].t()) : Tensor(),
            context->needs_input_grad(1) ? call_mm(saved[0].t(), g) : Tensor()};
  }
};

struct Bmm : torch::autograd::Function<Bmm> {
  static Tensor forward(AutogradContext* context, const Tensor& a, const Tensor& b) {
    context->save_for_backward({a, b});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_bmm(a, b);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto& g = gradients[0];
    return {context->needs_input_grad(0) ? call_bmm(g, saved[1].transpose(1, 2)) : Tensor(),
            context->needs_input_grad(1) ? call_bmm(saved[0].transpose(1, 2), g) : Tensor()};
  }
};

struct Mv : torch::autograd::Function<Mv> {
  static Tensor forward(AutogradContext* context, const Tensor& a, const Tensor& v) {
    context->save_for_backward({a, v});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_mv(a, v);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto& g = gradients[0];
    return {context->needs_input_grad(0) ? g.unsqueeze(1) * saved[1].unsqueeze(0) : Tensor(),
            context->needs_input_grad(1) ? call_mv(saved[0].t(), g) : Tensor()};
  }
};

struct Addmm : torch::autograd::Function<Addmm> {
  static Tensor forward(AutogradContext* context, const Tensor& self, const Tensor& a, const Tensor& b,
                        const at::Scalar& beta, const at::Scalar& alpha) {
    context->save_for_backward({a, b});
    context->saved_data["beta"] = beta;
    context->saved_data["alpha"] = alpha;
    context->saved_data["shape"] = self.sym_sizes().vec();
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_addmm(self, a, b, beta, alpha);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto& g = gradients[0];
    const auto beta = context->saved_data["beta"].toScalar(), alpha = context->saved_data["alpha"].toScalar();
    variable_list out(5);
    if (context->needs_input_grad(0)) out[0] = at::sum_to(g, context->saved_data["shape"].toSymIntVector()) * beta;
    if (context->needs_input_grad(1)) out[1] = call_mm(g, saved[1].t()) * alpha;
    if (context->needs_input_grad(2)) out[2] = call_mm(saved[0].t(), g) * alpha;
    return out;
  }
};

Tensor mm_autograd(const Tensor& self, const Tensor& mat2) {
  if (needs_aten_autograd("mm", {self, mat2})) return at::mm(self, mat2);
  if (wants_gradient({self, mat2})) return Mm::apply(self, mat2);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_mm(self, mat2);
}

Tensor bmm_autograd(const Tensor& self, const Tensor& mat2) {
  if (needs_aten_autograd("bmm", {self, mat2})) return at::bmm(self, mat2);
  if (wants_gradient({self, mat2})) return Bmm::apply(self, mat2);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_bmm(self, mat2);
}

Tensor mv_autograd(const Tensor& self, const Tensor& vec) {
  if (needs_aten_autograd("mv", {self, vec})) return at::mv(self, vec);
  if (wants_gradient({self, vec})) return Mv::apply(self, vec);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_mv(self, vec);
}

Tensor addmm_autograd(const Tensor& self, const Tensor& mat1, const Tensor& mat2, const at::Scalar& beta,
                      const at::Scalar& alpha) {
  if (needs_aten_autograd("addmm", {self, mat1, mat2}) || beta.isComplex() || alpha.isComplex())
    return at::addmm(self, mat1, mat2, beta, alpha);
  if (wants_gradient({self, mat1, mat2})) return Addmm::apply(self, mat1, mat2, beta, alpha);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_addmm(self, mat1, mat2, beta, alpha);
}

// out= has no gradient: ATen says so in its own words where one is wanted. A kernel does not tell autograd that it
// wrote to `out`; the version does.
template <class Aten, class Kernel>
Tensor& out_autograd(const char* op, Tensor& out, at::TensorList all, Aten aten, Kernel kernel) {
  const bool frozen = out.is_inference() && !c10::InferenceMode::is_enabled();
  if (frozen || wants_gradient(all) || needs_aten_autograd(op, all)) return aten();
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    kernel();
  }
  if (!out.is_inference()) out.unsafeGetTensorImpl()->bump_version();
  return out;
}

Tensor& mm_out_autograd(const Tensor& self, const Tensor& mat2, Tensor& out) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::mm", "out")
                             .typed<Tensor&(const Tensor&, const Tensor&, Tensor&)>();
  return out_autograd(
      "mm", out, {self, mat2, out}, [&]() -> Tensor& { return at::mm_out(out, self, mat2); },
      [&] { op.call(self, mat2, out); });
}

Tensor& bmm_out_autograd(const Tensor& self, const Tensor& mat2, Tensor& out) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::bmm", "out")
                             .typed<Tensor&(const Tensor&, const Tensor&, Tensor&)>();
  return out_autograd(
      "bmm", out, {self, mat2, out}, [&]() -> Tensor& { return at::bmm_out(out, self, mat2); },
      [&] { op.call(self, mat2, out); });
}

Tensor& mv_out_autograd(const Tensor& self, const Tensor& vec, Tensor& out) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::mv", "out")
                             .typed<Tensor&(const Tensor&, const Tensor&, Tensor&)>();
  return out_autograd(
      "mv", out, {self, vec, out}, [&]() -> Tensor& { return at::mv_out(out, self, vec); },
      [&] { op.call(self, vec, out); });
}

Tensor& addmm_out_autograd(const Tensor& self, const Tensor& mat1, const Tensor& mat2, const at::Scalar& beta,
                           const at::Scalar& alpha, Tensor& out) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("tvmops::addmm", "out")
          .typed<Tensor&(const Tensor&, const Tensor&, const Tensor&, const at::Scalar&, const at::Scalar&, Tensor&)>();
  return out_autograd(
      "addmm", out, {self, mat1, mat2, out},
      [&]() -> Tensor& { return at::addmm_out(out, self, mat1, mat2, beta, alpha); },
      [&] { op.call(self, mat1, mat2, beta, alpha, out); });
}

Tensor& matmul_out(const Tensor& self, const Tensor& other, Tensor& out) {
  if (wants_gradient({self, other, out})) return at::matmul_out(out, self, other);  // raises in its own name
  if (self.dim() == 2 && other.dim() == 2) return mm_out_autograd(self, other, out);
  if (self.dim() == 3 && other.dim() == 3 && self.size(0) == other.size(0)) return bmm_out_autograd(self, other, out);
  if (self.dim() == 2 && other.dim() == 1) return mv_out_autograd(self, other, out);
  return at::matmul_out(out, self, other);
}

// --- Meta: shapes and errors, symbolic sizes included. ---

Tensor meta_result(const Tensor& like, c10::SymIntArrayRef sizes) { return like.new_empty_symint(sizes); }

void check_dtypes(const char* op, const Tensor& a, const Tensor& b) {
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), op, ": expected both operands to have the same dtype, but got ",
              a.scalar_type(), " and ", b.scalar_type());
}

Tensor mm_meta(const Tensor& a, const Tensor& b) {
  if (!all_meta({a, b})) return at::mm(a, b);
  TORCH_CHECK(a.dim() == 2, "mm: self must be a matrix, but it has ", a.dim(), " dimensions");
  TORCH_CHECK(b.dim() == 2, "mm: mat2 must be a matrix, but it has ", b.dim(), " dimensions");
  check_dtypes("mm", a, b);
  TORCH_SYM_CHECK(a.sym_size(1).sym_eq(b.sym_size(0)), "mat1 and mat2 shapes cannot be multiplied (", a.sym_size(0),
                  "x", a.sym_size(1), " and ", b.sym_size(0), "x", b.sym_size(1), ")");
  return meta_result(a, {a.sym_size(0), b.sym_size(1)});
}

Tensor bmm_meta(const Tensor& a, const Tensor& b) {
  if (!all_meta({a, b})) return at::bmm(a, b);
  TORCH_CHECK(a.dim() == 3 && b.dim() == 3, "bmm: both operands must be 3D tensors, but have ", a.dim(), " and ",
              b.dim(), " dimensions");
  check_dtypes("bmm", a, b);
  TORCH_SYM_CHECK(a.sym_size(0).sym_eq(b.sym_size(0)), "bmm: the batch sizes differ: ", a.sym_size(0), " and ",
                  b.sym_size(0));
  TORCH_SYM_CHECK(a.sym_size(2).sym_eq(b.sym_size(1)), "bmm: the inner dimensions differ: ", a.sym_size(2), " and ",
                  b.sym_size(1));
  return meta_result(a, {a.sym_size(0), a.sym_size(1), b.sym_size(2)});
}

Tensor mv_meta(const Tensor& a, const Tensor& v) {
  if (!all_meta({a, v})) return at::mv(a, v);
  TORCH_CHECK(a.dim() == 2 && v.dim() == 1, "vector + matrix @ vector expected, got ", a.dim(), ", ", v.dim());
  check_dtypes("mv", a, v);
  TORCH_SYM_CHECK(a.sym_size(1).sym_eq(v.sym_size(0)), "size mismatch, got input (", a.sym_size(0), "x", a.sym_size(1),
                  "), vec (", v.sym_size(0), ")");
  return meta_result(a, {a.sym_size(0)});
}

Tensor addmm_meta(const Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& beta,
                  const at::Scalar& alpha) {
  if (!all_meta({self, a, b})) return at::addmm(self, a, b, beta, alpha);
  check_dtypes("addmm", self, a);
  const Tensor product = mm_meta(a, b);
  (void)self.expand_symint(product.sym_sizes());
  return product;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  m.def("mm(Tensor self, Tensor mat2) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("mm.out(Tensor self, Tensor mat2, *, Tensor(a!) out) -> Tensor(a!)");
  m.def("bmm(Tensor self, Tensor mat2) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("bmm.out(Tensor self, Tensor mat2, *, Tensor(a!) out) -> Tensor(a!)");
  m.def("mv(Tensor self, Tensor vec) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("mv.out(Tensor self, Tensor vec, *, Tensor(a!) out) -> Tensor(a!)");
  m.def("addmm(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor",
        {at::Tag::pt2_compliant_tag});
  m.def(
      "addmm.out(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1, Tensor(a!) out) -> "
      "Tensor(a!)");
  m.def("matmul(Tensor self, Tensor other) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("matmul.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)");
}

TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  m.impl("mm", &mm_cpu);
  m.impl("mm.out", &mm_out_cpu);
  m.impl("bmm", &bmm_cpu);
  m.impl("bmm.out", &bmm_out_cpu);
  m.impl("mv", &mv_cpu);
  m.impl("mv.out", &mv_out_cpu);
  m.impl("addmm", &addmm_cpu);
  m.impl("addmm.out", &addmm_out_cpu);
}

TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  m.impl("mm", [](const Tensor& a, const Tensor& b) { return at::mm(a, b); });
  m.impl("mm.out", [](const Tensor& a, const Tensor& b, Tensor& out) -> Tensor& { return at::mm_out(out, a, b); });
  m.impl("bmm", [](const Tensor& a, const Tensor& b) { return at::bmm(a, b); });
  m.impl("bmm.out", [](const Tensor& a, const Tensor& b, Tensor& out) -> Tensor& { return at::bmm_out(out, a, b); });
  m.impl("mv", [](const Tensor& a, const Tensor& v) { return at::mv(a, v); });
  m.impl("mv.out", [](const Tensor& a, const Tensor& v, Tensor& out) -> Tensor& { return at::mv_out(out, a, v); });
  m.impl("addmm", [](const Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& beta,
                     const at::Scalar& alpha) { return at::addmm(self, a, b, beta, alpha); });
  m.impl("addmm.out",
         [](const Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& beta, const at::Scalar& alpha,
            Tensor& out) -> Tensor& { return at::addmm_out(out, self, a, b, beta, alpha); });
}

TORCH_LIBRARY_IMPL(tvmops, CompositeImplicitAutograd, m) {
  m.impl("matmul", &matmul_composite);
  m.impl("matmul.out", &matmul_out);
}

TORCH_LIBRARY_IMPL(tvmops, Meta, m) {
  m.impl("mm", &mm_meta);
  m.impl("bmm", &bmm_meta);
  m.impl("mv", &mv_meta);
  m.impl("addmm", &addmm_meta);
}

TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  m.impl("mm", &mm_autograd);
  m.impl("mm.out", &mm_out_autograd);
  m.impl("bmm", &bmm_autograd);
  m.impl("bmm.out", &bmm_out_autograd);
  m.impl("mv", &mv_autograd);
  m.impl("mv.out", &mv_out_autograd);
  m.impl("addmm", &addmm_autograd);
  m.impl("addmm.out", &addmm_out_autograd);
}

// As torch has it: mv is cast on CUDA alone.
#define TVMOPS_AUTOCAST(key)                                                                                           \
  TORCH_LIBRARY_IMPL(tvmops, key, m) {                                                                                 \
    m.impl("mm", &autocast_binary<c10::DispatchKey::key, call_mm>);                                                    \
    m.impl("bmm", &autocast_binary<c10::DispatchKey::key, call_bmm>);                                                  \
    m.impl("matmul", &autocast_binary<c10::DispatchKey::key, matmul_composite>);                                       \
    m.impl("addmm",                                                                                                    \
           [](const Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& beta, const at::Scalar& alpha) { \
             return autocast<c10::DispatchKey::key>(&call_addmm, self, a, b, beta, alpha);                             \
           });                                                                                                         \
  }

namespace {
template <c10::DispatchKey key, Tensor (*op)(const Tensor&, const Tensor&)>
Tensor autocast_binary(const Tensor& a, const Tensor& b) {
  return autocast<key>(op, a, b);
}
}  // namespace

TVMOPS_AUTOCAST(AutocastCPU)
TVMOPS_AUTOCAST(AutocastCUDA)
TORCH_LIBRARY_IMPL(tvmops, AutocastCUDA, m) { m.impl("mv", &autocast_binary<c10::DispatchKey::AutocastCUDA, call_mv>); }

}  // namespace tvmops::ops
