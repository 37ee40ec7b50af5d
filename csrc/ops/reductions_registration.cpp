// Schemas, devices, out= and gradients of the reductions.
#include <ATen/native/Resize.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>
#include <vector>

#include "ops/common.h"
#include "ops/gpu.h"
#include "ops/reduce_view.h"
#include "ops/reduction_gradients.h"
#include "ops/reductions.h"

namespace tvmops::ops {

using at::OptionalIntArrayRef;
using at::Scalar;
using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

Tensor& aten_out(Reduction op, const Tensor& x, OptionalIntArrayRef dim, bool keepdim, const Scalar& correction,
                 Tensor& out) {
  const auto one = dim && !dim->empty() ? std::optional<int64_t>(dim->front()) : std::nullopt;
  const at::IntArrayRef dims = dim ? *dim : at::IntArrayRef();
  switch (op) {
    case Reduction::kSum:
      return at::sum_out(out, x, dim, keepdim);
    case Reduction::kMean:
      return at::mean_out(out, x, dim, keepdim);
    case Reduction::kAmax:
      return at::amax_out(out, x, dims, keepdim);
    case Reduction::kAmin:
      return at::amin_out(out, x, dims, keepdim);
    case Reduction::kVar:
      return at::var_out(out, x, dim, correction, keepdim);
    case Reduction::kArgmax:
      return at::argmax_out(out, x, one, keepdim);
    case Reduction::kArgmin:
      return at::argmin_out(out, x, one, keepdim);
  }
  TORCH_INTERNAL_ASSERT(false);
}

Tensor& cpu_out(Reduction op, const Tensor& x, OptionalIntArrayRef dim, bool keepdim, const Scalar& correction,
                Tensor& out) {
  if (out.scalar_type() != (is_index(op) ? at::kLong : x.scalar_type()) || !is_here(out)) {
    record_aten(kReductionNames[static_cast<int>(op)], {x}, kUnsupported);
    return aten_out(op, x, dim, keepdim, correction, out);
  }
  const Tensor y = reduction_cpu(op, x, dim, keepdim, correction);
  at::native::resize_output(out, y.sizes());
  return out.copy_(y);
}

// As a reduction with keepdim gives it. `dims` are in ascending order.
Tensor restored(Tensor t, const std::vector<int64_t>& dims, bool keepdim) {
  for (size_t i = 0; !keepdim && i < dims.size(); i++) t = t.unsqueeze(dims[i]);
  return t;
}

// The dimensions that are reduced, in ascending order.
std::vector<int64_t> listed(const DimSet& set) {
  std::vector<int64_t> dims;
  for (int64_t d = 0; d < kMaxDims; d++)
    if (set[d]) dims.push_back(d);
  return dims;
}

// --- One set of functions for every reduction. `Dim` is what its dim argument is: any number of dimensions, or at most
// one; `More` is the correction of var. ---

Scalar correction_of() { return 1; }
Scalar correction_of(const Scalar& correction) { return correction; }

using Index = std::optional<int64_t>;
OptionalIntArrayRef list(const OptionalIntArrayRef& dim) { return dim; }
OptionalIntArrayRef list(const Index& dim) { return dim ? OptionalIntArrayRef(at::IntArrayRef(*dim)) : std::nullopt; }

template <Reduction op, class Dim, class... More>
struct Functions {
  static constexpr const char* name = kReductionNames[static_cast<int>(op)];

  static Tensor cpu(const Tensor& x, Dim dim, bool keepdim, More... more) {
    return reduction_cpu(op, x, list(dim), keepdim, correction_of(more...));
  }
  static Tensor aten(const Tensor& x, Dim dim, bool keepdim, More... more) {
    return reduction_aten(op, x, list(dim), keepdim, correction_of(more...));
  }
  static Tensor& out(const Tensor& x, Dim dim, bool keepdim, More... more, Tensor& out) {
    return cpu_out(op, x, list(dim), keepdim, correction_of(more...), out);
  }
  static Tensor& out_aten(const Tensor& x, Dim dim, bool keepdim, More... more, Tensor& out) {
    return aten_out(op, x, list(dim), keepdim, correction_of(more...), out);
  }

  static Tensor call(const Tensor& x, Dim dim, bool keepdim, More... more) {
    static const auto handle = c10::Dispatcher::singleton()
                                   .findSchemaOrThrow((std::string("tvmops::") + name).c_str(), "")
                                   .template typed<Tensor(const Tensor&, Dim, bool, More...)>();
    return handle.call(x, dim, keepdim, more...);
  }

  struct Gradient : torch::autograd::Function<Gradient> {
    static Tensor forward(AutogradContext* context, const Tensor& x, const std::vector<int64_t>& dims, bool keepdim,
                          const Scalar& correction) {
      Tensor y;
      {
        const at::AutoDispatchBelowADInplaceOrView guard;
        if constexpr (op == Reduction::kVar)
          y = call(x, dims, keepdim, correction);
        else
          y = call(x, dims, keepdim);
      }
      context->saved_data["dims"] = dims;
      context->saved_data["keepdim"] = keepdim;
      if constexpr (op == Reduction::kSum || op == Reduction::kMean) {
        context->saved_data["sizes"] = x.sym_sizes();
      } else if constexpr (op == Reduction::kVar) {
        context->saved_data["correction"] = correction;
        context->save_for_backward({x});
      } else {
        context->save_for_backward({x, y});
      }
      return y;
    }

    static variable_list backward(AutogradContext* context, const variable_list& gradients) {
      auto& data = context->saved_data;
      const std::vector<int64_t> dims = data["dims"].toIntVector();
      const bool keepdim = data["keepdim"].toBool();
      Tensor g = restored(gradients[0], dims, keepdim), dx;
      if constexpr (op == Reduction::kSum || op == Reduction::kMean) {
        const auto sizes = data["sizes"].toSymIntVector();
        if constexpr (op == Reduction::kMean) {
          c10::SymInt count = 1;
          for (const int64_t d : dims) count *= sizes[d];
          g = g / count;
        }
        dx = g.expand_symint(sizes);
      } else if constexpr (op == Reduction::kVar) {
        dx = var_backward(g, context->get_saved_variables()[0], dims, data["correction"].toScalar());
      } else {
        const auto saved = context->get_saved_variables();
        dx = amax_backward(g, saved[0], restored(saved[1], dims, keepdim), dims);
      }
      return {dx, Tensor(), Tensor(), Tensor()};
    }
  };

  static Tensor autograd(const Tensor& x, Dim dim, bool keepdim, More... more) {
    if (needs_aten_autograd(name, {x})) return aten(x, dim, keepdim, more...);
    if (!is_index(op) && wants_gradient({x})) {
      const auto set = dim_set(list(dim), x.dim());
      if (!set || x.dim() == 0) {
        record_aten(name, {x}, kUnsupported);
        return aten(x, dim, keepdim, more...);
      }
      if constexpr (!is_index(op)) return Gradient::apply(x, listed(*set), keepdim, correction_of(more...));
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call(x, dim, keepdim, more...);
  }

  static Tensor& autograd_out(const Tensor& x, Dim dim, bool keepdim, More... more, Tensor& out) {
    const bool frozen = out.is_inference() && !c10::InferenceMode::is_enabled();
    TORCH_CHECK(!wants_gradient({x, out}), name,
                "(): functions with out=... arguments don't support automatic differentiation, but one of the "
                "arguments requires grad.");
    if (frozen || needs_aten_autograd(name, {x})) return out_aten(x, dim, keepdim, more..., out);
    static const auto handle = c10::Dispatcher::singleton()
                                   .findSchemaOrThrow((std::string("tvmops::") + name).c_str(), "out")
                                   .template typed<Tensor&(const Tensor&, Dim, bool, More..., Tensor&)>();
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      handle.call(x, dim, keepdim, more..., out);
    }
    if (!out.is_inference()) out.unsafeGetTensorImpl()->bump_version();
    return out;
  }
};

template <class Each>
void for_all(Each each) {
  each(Functions<Reduction::kSum, OptionalIntArrayRef>());
  each(Functions<Reduction::kMean, OptionalIntArrayRef>());
  each(Functions<Reduction::kAmax, OptionalIntArrayRef>());
  each(Functions<Reduction::kAmin, OptionalIntArrayRef>());
  each(Functions<Reduction::kVar, OptionalIntArrayRef, const Scalar&>());
  each(Functions<Reduction::kArgmax, Index>());
  each(Functions<Reduction::kArgmin, Index>());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(tvmops, m) {
  for (const std::string name : kReductionNames) {
    const std::string more = name == "var" ? ", Scalar correction=1" : "";
    const std::string dim = name.substr(0, 3) == "arg" ? "int?" : "int[1]?";
    const std::string arguments = "(Tensor self, " + dim + " dim=None, bool keepdim=False" + more;
    m.def((name + arguments + ") -> Tensor").c_str(), {at::Tag::pt2_compliant_tag});
    m.def((name + ".out" + arguments + ", *, Tensor(a!) out) -> Tensor(a!)").c_str());
  }
}

TORCH_LIBRARY_IMPL(tvmops, CPU, m) {
  for_all([&](auto f) {
    m.impl(f.name, &decltype(f)::cpu);
    m.impl((std::string(f.name) + ".out").c_str(), &decltype(f)::out);
  });
}

TORCH_LIBRARY_IMPL(tvmops, CUDA, m) {
  for_all([&](auto f) {
    m.impl(f.name, on_gpu<&decltype(f)::cpu>);
    m.impl((std::string(f.name) + ".out").c_str(), on_gpu<&decltype(f)::out>);
  });
}

TORCH_LIBRARY_IMPL(tvmops, CompositeExplicitAutograd, m) {
  for_all([&](auto f) {
    m.impl(f.name, &decltype(f)::aten);
    m.impl((std::string(f.name) + ".out").c_str(), &decltype(f)::out_aten);
  });
}

TORCH_LIBRARY_IMPL(tvmops, Meta, m) {
  for_all([&](auto f) { m.impl(f.name, &decltype(f)::aten); });
}

TORCH_LIBRARY_IMPL(tvmops, Autograd, m) {
  for_all([&](auto f) {
    m.impl(f.name, &decltype(f)::autograd);
    m.impl((std::string(f.name) + ".out").c_str(), &decltype(f)::autograd_out);
  });
}

}  // namespace tvmops::ops
