#include "ops/rotary.h"

#include <torch/csrc/autograd/custom_function.h>

#include "drivers/rotary.h"
#include "ops/common.h"
#include "ops/gpu.h"
#include "ops/gpu_scan.h"
#include "ops/kernel_table.h"
#include "ops/rows_choice.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::RotaryKernel;
using drivers::RotaryProblem;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

const OpKey kKey("rotary_embedding");

const KernelTable<RotaryKernel>& table() {
  static const KernelTable<RotaryKernel> kernels("rotary");
  return kernels;
}

// The dimension of the positions, after checks of all shapes.
int64_t checked(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t seq_dim) {
  TORCH_CHECK(at::isFloatingType(x.scalar_type()), "rotary_embedding: expected a floating-point input, got ",
              x.scalar_type());
  TORCH_CHECK(x.dim() >= 2, "rotary_embedding: expected an input of at least 2 dimensions, got ", x.dim());
  const int64_t dim = c10::maybe_wrap_dim(seq_dim, x.dim());
  TORCH_CHECK(dim < x.dim() - 1, "rotary_embedding: the last dimension has the elements that are turned, so it can't ",
              "be seq_dim");
  TORCH_CHECK(cos.dim() == 2 || (cos.dim() == 3 && dim > 0), "rotary_embedding: expected cos and sin of 2 dimensions, ",
              "or of 3 where the input has a batch dimension before the positions, got ", cos.dim());
  TORCH_CHECK(cos.sym_sizes() == sin.sym_sizes(), "rotary_embedding: cos and sin differ in shape: ", cos.sym_sizes(),
              " and ", sin.sym_sizes());
  TORCH_CHECK(cos.sym_size(-2) == x.sym_size(dim), "rotary_embedding: the input has ", x.sym_size(dim),
              " positions, cos and sin have ", cos.sym_size(-2));
  TORCH_CHECK(cos.dim() == 2 || cos.sym_size(0) == x.sym_size(0), "rotary_embedding: the input has a batch of ",
              x.sym_size(0), ", cos and sin have ", cos.sym_size(0));
  TORCH_CHECK(2 * cos.sym_size(-1) <= x.sym_size(-1), "rotary_embedding: ", cos.sym_size(-1),
              " angles for rows of only ", x.sym_size(-1), " elements");
  return dim;
}

// Differentiable, for all that no kernel covers. Computed in the dtype that input and angles promote to.
Tensor formula(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved, int64_t seq_dim, bool inverse) {
  const int64_t dim = checked(x, cos, sin, seq_dim);
  const auto half = cos.sym_size(-1), all = x.sym_size(-1);
  c10::SymDimVector shape(x.dim(), 1);
  if (cos.dim() == 3) shape[0] = cos.sym_size(0);
  shape[dim] = cos.sym_size(-2);
  shape[x.dim() - 1] = half;
  const Tensor c = cos.reshape_symint(shape), s = (inverse ? sin.neg() : sin).reshape_symint(shape);
  const Tensor x1 = interleaved ? x.slice_symint(-1, 0, 2 * half, 2) : x.narrow_symint(-1, 0, half);
  const Tensor x2 = interleaved ? x.slice_symint(-1, 1, 2 * half, 2) : x.narrow_symint(-1, half, half);
  const Tensor y1 = (x1 * c - x2 * s).to(x.scalar_type()), y2 = (x2 * c + x1 * s).to(x.scalar_type());
  const Tensor rest = x.narrow_symint(-1, 2 * half, all - 2 * half);
  if (interleaved) return at::cat({at::stack({y1, y2}, -1).flatten(-2), rest}, -1);
  return at::cat({y1, y2, rest}, -1);
}

// The same in the layout that a kernel's result has.
Tensor aten(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved, int64_t seq_dim, bool inverse) {
  const Tensor y = formula(x, cos, sin, interleaved, seq_dim, inverse);
  return at::empty_like(x).copy_(y);
}

Tensor call(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved, int64_t seq_dim, bool inverse) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tvmops::rotary_embedding", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, bool, int64_t, bool)>();
  return op.call(x, cos, sin, interleaved, seq_dim, inverse);
}

struct RotaryChoice {
  const RotaryKernel* kernel;
  const char* reason;
  const cuda::RotaryKernel* on_gpu = nullptr;  // within a GpuScope, instead
  explicit operator bool() const { return kernel || on_gpu; }
};

RotaryChoice choose(Storage storage, int64_t elements) {
  if (gpu()) {
    const auto choice = choose_gpu_rotary(kKey, storage, elements);
    return {nullptr, choice.reason, choice.kernel};
  }
  const Mode mode = current_mode();
  if (mode == Mode::kOff) return {nullptr, reason::kOff};
  const auto* bound = table().find(kKey, storage, -1);
  if (!bound) return {nullptr, reason::kNoKernel};
  if (mode == Mode::kForce) return {&bound->kernel, reason::kForced};
  if (bound->plan.empty()) return {&bound->kernel, reason::kThumb};
  if (!bound->plan[drivers::rotary_plan_bucket(elements)]) return {nullptr, reason::kSlower};
  return {&bound->kernel, reason::kWins};
}

void record(const Tensor& x, const RotaryChoice& choice) {
  if (!recording()) return;
  const tvmops_kernel* source = choice.on_gpu ? choice.on_gpu->source : choice.kernel ? choice.kernel->source : nullptr;
  record(Decision{kKey.name(), shape_text({x.sizes()}), source ? source->name : "", source ? source->driver : "aten",
                  choice.reason});
}

bool is_table(const Tensor& t) {
  return is_here(t) && t.layout() == at::kStrided && at::isFloatingType(t.scalar_type()) &&
         t.scalar_type() != at::kDouble && !t.is_conj() && !t.is_neg();
}

// The same cosines as a kernel reads them.
Tensor as_table(const Tensor& t) {
  return t.scalar_type() == at::kFloat ? t.contiguous() : t.to(at::kFloat).contiguous();
}

struct Gradient : torch::autograd::Function<Gradient> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& cos, const Tensor& sin,
                        bool interleaved, int64_t seq_dim, bool inverse) {
    context->save_for_backward({cos, sin});
    context->saved_data["interleaved"] = interleaved;
    context->saved_data["seq_dim"] = seq_dim;
    context->saved_data["inverse"] = inverse;
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call(x, cos, sin, interleaved, seq_dim, inverse);
  }
  // Turned back; as a rotation is linear, this is itself differentiated in the same way.
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor dx = call(gradients[0], saved[0], saved[1], context->saved_data["interleaved"].toBool(),
                           context->saved_data["seq_dim"].toInt(), !context->saved_data["inverse"].toBool());
    return {dx, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor autograd(const Tensor& x, const Tensor& cos, const Tensor& sin, bool interleaved, int64_t seq_dim,
                bool inverse) {
  if (needs_aten_autograd(kKey.name(), {x, cos, sin})) return formula(x, cos, sin, interleaved, seq_dim, inverse);
  if (wants_gradient({cos, sin})) {
    record_aten(kKey.name(), {x}, kUnsupported);
    return formula(x, cos, sin, interleaved, seq_dim, inverse);
  }
  if (wants_gradient({x})) return Gradient::apply(x, cos, sin, interleaved, seq_dim, inverse);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call(x, cos, sin, interleaved, seq_dim, inverse);
}

}  // namespace

Tensor rotary_embedding_cpu(const Tensor& input, const Tensor& cos, const Tensor& sin, bool interleaved,
                            int64_t seq_dim, bool inverse) {
  const int64_t dim = checked(input, cos, sin, seq_dim);
  const bool unsupported = !is_readable(input) || !is_table(cos) || !is_table(sin) || input.numel() == 0 ||
                           cos.numel() == 0 || input.dim() > RotaryProblem::kDims + 1;
  if (unsupported) {
    record_aten(kKey.name(), {input}, kUnsupported);
    return aten(input, cos, sin, interleaved, seq_dim, inverse);
  }
  RotaryChoice choice = choose(storage_of(input.scalar_type()), input.numel());
  if (choice.on_gpu && input.stride(-1) != 1) choice = {nullptr, cuda::kScattered};
  Tensor y;
  RotaryProblem p;
  if (choice) {
    y = input.is_contiguous() ? new_result(input.sizes(), input.scalar_type()) : at::empty_like(input);
    const Tensor x = input.stride(-1) == 1 ? input : input.contiguous();  // as the gradient of a sum, for one
    const Tensor c = as_table(cos), s = as_table(sin);
    for (int64_t d = 0; d < x.dim() - 1; d++) p.dim[d] = {x.size(d), x.stride(d), y.stride(d), 0};
    p.half = c.size(-1), p.rest = x.size(-1) - 2 * p.half;
    p.dim[dim].table = p.half;
    if (c.dim() == 3) p.dim[0].table = c.stride(0);
    p.pairs = interleaved, p.inverse = inverse;
    p.x = x.const_data_ptr(), p.y = y.mutable_data_ptr();
    p.cos = c.const_data_ptr<float>(), p.sin = s.const_data_ptr<float>();
    const char* refusal = "no kernel for these strides";
    if (choice.on_gpu) {
      refusal = run_gpu_rotary(*choice.on_gpu, p);
    } else if (y.stride(-1) == 1 && drivers::fits(*choice.kernel, p)) {
      refusal = nullptr;
      if (!input.is_contiguous()) advise_huge_pages(y);
      drivers::rotary(*choice.kernel, p, kAtenParallel);
    }
    if (!refusal) {
      record(input, choice);
      return y;
    }
    choice = {nullptr, refusal};
  }
  record(input, choice);
  return aten(input, cos, sin, interleaved, seq_dim, inverse);
}

bool rotary_serves(const tvmops_kernel* kernel) { return table().serves(kernel); }

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  m.def(
      "rotary_embedding(Tensor input, Tensor cos, Tensor sin, bool interleaved=False, int seq_dim=1, "
      "bool inverse=False) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(tvmops, CPU, m) { m.impl("rotary_embedding", &rotary_embedding_cpu); }
TORCH_LIBRARY_IMPL(tvmops, CUDA, m) { m.impl("rotary_embedding", on_gpu<&rotary_embedding_cpu>); }
TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) { m.impl("rotary_embedding", &aten); }
TORCH_LIBRARY_IMPL(tvmops, Autograd, m) { m.impl("rotary_embedding", &autograd); }

}  // namespace tvmops::ops
